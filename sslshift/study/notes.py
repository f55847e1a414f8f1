"""How to read a study: what its numbers count, what was left out, and what the tasks and sources had to say."""

from collections import Counter

from sslshift.data.ranges import compare_ranges
from sslshift.shift import DISTANCES
from sslshift.study.compared import runs_of
from sslshift.study.floors import starts_silent
from sslshift.study.opened import Opened
from sslshift.study.results import Results
from sslshift.study.shifts import name_of_features
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.tasks import Task


def caption(results: Results) -> str:
    """What was done, in a sentence."""
    opened = results.opened
    learners = ", ".join(" on ".join(learner.key) for learner in opened.learners)
    return (
        f"Test {METRICS[opened.task.metric].text} on {opened.task.name} after pretraining on each source at one budget of "
        f"C = {opened.budget.samples:,} samples ({learners}); " + _counted(opened.study.seeds, opened.study.draws)
    )


def _counted(seeds: int, draws: int) -> str:
    """What intervals are over."""
    subsets = f"{draws} draws of each subset" if draws > 1 else "one draw of each subset" if draws else ""
    if seeds > 1:
        return f"mean and 95% interval over {', '.join(filter(None, [f'{seeds} seeds', subsets]))} and the test images."
    over = f"{subsets} and the test images" if draws > 1 else "the test images alone"
    return f"one seed: intervals are over {over}, and nothing is shown of other seeds."


def notes(results: Results) -> list[str]:
    """What a reader must know, a sentence or two each."""
    opened = results.opened
    sampled = "draws of the subset, training seeds" if opened.study.draws > 1 else "seeds"
    counted = (
        f"what {sampled} and test images contribute" if opened.study.seeds > 1 else "nothing of what other seeds would give"
    )
    return [
        f"Intervals count {counted} (Student's t and a bootstrap). A seed names the order, the "
        f"initial weights and the views{'' if opened.study.draws else ', and draws the subset'}. All rows share their test "
        "images: differences and gains are taken seed by seed on the same images, and are surer than two intervals side by "
        "side suggest.",
        "Where many pairs are compared, verdicts rest on p-values adjusted by Holm's method: a whole table shows something by "
        "chance in one case of twenty. The interval beside a difference is that of the pair alone.",
        *(_about_task(task) for task in opened.tasks),
        f"The shift index is by the {DISTANCES[opened.study.shift_distance].title} distance on features of "
        f"{name_of_features(opened.study)}: 0 is another sample of the downstream images, 1 is noise with their pixel values. "
        "Another encoder or distance gives other numbers. Trends over the index take it as exact.",
        *floor_notes(results.opened),
        *_remarks(results),
        *_shifts(results),
        *_sources(results),
    ]


def floor_notes(opened: Opened) -> list[str]:
    """How untrained encoders are judged that differ from what training starts from."""
    silent = dict.fromkeys(learner.study.encoder for learner in opened.learners if starts_silent(learner))
    return [
        f"The untrained {name} is judged with its residual branches switched on: training starts with branches that add "
        "nothing, a floor so low that any training would seem to pass it."
        for name in silent
    ]


def _about_task(task: Task) -> str:
    return (
        f"{task.name}: probes learn from {len(task.train.indices):,} labelled images; hyperparameters are chosen on "
        f"{len(task.validation.indices):,} others; {METRICS[task.metric].text} of the {len(task.test.indices):,} test images "
        "is reported once. Encoders are finished and frozen (offline), unless it says fine-tuned."
    )


def _remarks(results: Results) -> list[str]:
    """What the tasks have to say, each once whatever the number of runs that said it."""
    everyone = [results.pixels, *results.floors.values(), *(judged for _, judged in results.runs)]
    said = [
        f"{task}: {note.rstrip('.')}."
        for judged in everyone
        for task, scores in judged.scores.items()
        for note in scores["notes"]
    ]
    counts = Counter(said)
    return [
        note if count == len(everyone) else f"{note} (so for {count} of {len(everyone)} encoders)"
        for note, count in counts.items()
    ]


def _shifts(results: Results) -> list[str]:
    found = [f"{name}: no shift index. {shift['why']}" for name, shift in results.shifts.items() if "why" in shift]
    # Of distances between covariances alone: others need no more images than features.
    frechet = results.opened.study.shift_distance.startswith("frechet")
    few = {
        name: shift
        for name, shift in results.shifts.items()
        if frechet and shift["sample_size"] < 2 * shift.get("dimensions", 0)
    }
    for size, dimensions in sorted({(shift["sample_size"], shift["dimensions"]) for shift in few.values()}):
        names = [name for name, shift in few.items() if (shift["sample_size"], shift["dimensions"]) == (size, dimensions)]
        found.append(
            f"The shift index of {', '.join(names)} rests on {size} images a side for {dimensions} features, too few for a "
            "steady value; do not compare it with one of another number of images."
        )
    return found


def range_notes(opened: Opened) -> list[str]:
    """Returns a sentence without a full stop where sources and tasks have different pixel ranges, else none."""
    tasks = {each.train.source.name: each.train.source for each in opened.tasks}
    return compare_ranges({name: source.pixel_range for name, source in (tasks | opened.sources).items()})


def _sources(results: Results) -> list[str]:
    opened = results.opened
    found = []
    for candidate in opened.candidates:
        broken = max((judged.trained["broken"] for _, judged in runs_of(results, candidate.name, candidate.unique)), default=0)
        if broken:
            found.append(
                f"{candidate.name}: up to {broken:,} of {candidate.unique:,} different images could not be read in a run; "
                "another one stood in for each, and N counts those that could. broken.csv in the run's folder lists them."
            )
    for uri, leaks in results.leaks.items():
        if "why" in leaks:
            found.append(f"{uri}: not searched for test images, since {leaks['why']}.")
    found += [f"{sentence}." for sentence in range_notes(opened)]
    for uri, source in opened.sources.items():
        if opened.withheld.get(uri):
            found.append(
                f"{uri}: images that equal one of the held-out test split, as the encoders see them, are left out; "
                f"{len(source):,} remain."
            )
        found += [f"{uri}: {note}." for note in source.notes]
        if source.refused:
            some = "; ".join(f"{path} ({reason})" for path, reason in source.refused[:5])
            found.append(f"{uri}: {len(source.refused)} files are no readable images and not counted in N, e.g. {some}.")
    return found

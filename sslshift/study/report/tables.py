"""All tables of a study's report, for the page, a terminal and files.

Each function returns one `Table`. A new table needs a function here and its name in `all_tables`, which writes its files; a
line in `page.html` puts it on the page.
"""

import math
from collections.abc import Sequence

from sslshift.reporting import Table
from sslshift.reporting.numbers import points, two_digits
from sslshift.study.analysis import Analysis, SummaryRow
from sslshift.study.candidates import sample_plan
from sslshift.study.learner_analysis import Kind, LearnerAnalysis
from sslshift.study.shifts import far_end_text
from sslshift.transfer.claims import (
    GAIN,
    MAIN_EVALUATION,
    Claim,
    interval_for_money,
    interval_text,
    p_text,
    percent,
    size,
    verdict_text,
)
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import evaluation_title

# Candidates show all of their classes up to this number, and otherwise those with the lowest and the highest gains.
_CLASSES = 8
_LOWEST_CLASSES = 4
_HIGHEST_CLASSES = 2


def all_tables(analysis: Analysis) -> list[Table]:
    """Returns every table that has a row, the main table first."""
    made = (
        main_table,
        evaluation_table,
        task_table,
        money_table,
        class_table,
        trend_table,
        pair_table,
        order_table,
        shift_table,
        mixture_table,
        run_table,
    )
    return [table for table in (make(analysis) for make in made) if table.lines]


def main_table(analysis: Analysis) -> Table:
    """Returns all kinds of runs, and the baselines, on the first task."""
    task = analysis.opened.task.name
    evaluated_by = analysis.task.evaluations
    lines = []
    for row in analysis.rows:
        scores = row.scores[task]
        unknown = "" if scores or row.kind.unique is None else "missing"
        cells = [percent(scores[name]) if name in scores else unknown for name in evaluated_by]
        gain = row.gains.get(task)
        unique, diversity, epochs, shift = _numbers(row)
        gained = [percent(gain, signed=True) if row.kind.unique else "", _verdicts(analysis, row.kind)]
        lines.append([*_about(row), unique, shift, *gained, *cells, diversity, epochs])
    gains = [row.gains[task] for row in analysis.rows if row.gains.get(task)]
    note = (
        f"Test {METRICS[analysis.opened.task.metric].text} on {task}; ± is half the width of a 95% interval over test images "
        "and seeds (for one seed: over test images alone). N, D and E count the images that could be read. "
        f"{_corrected(analysis, gains)}"
    )
    # What a reader decides by comes first, so that a phone shows it without scrolling sideways.
    columns = [f"{evaluation_title(name)} %" for name in evaluated_by]
    head = ["source", "N", "shift index", analysis.gain_over, "verdict", *columns, "D", "E"]
    return _learner_table(analysis, "kinds", "All kinds of runs", head, lines, note, verdicts=["verdict"])


def _verdicts(analysis: Analysis, kind: Kind) -> str:
    """Returns the verdict on the gain of a kind by the linear probe, other verdicts, and the number of leaked test images."""
    found = analysis.task.claims_by_evaluation(kind.learner, GAIN, kind) if kind.unique is not None else {}
    if MAIN_EVALUATION not in found:
        return ""
    main = found[MAIN_EVALUATION]
    parts = [verdict_text(main)]
    parts += [f"{evaluation_title(name)}: {verdict_text(each)}" for name, each in found.items() if each.verdict != main.verdict]
    leaked = analysis.leaked(kind.source)
    return "; ".join(parts + ([f"{leaked:,} possible leaks"] if leaked else []))


def evaluation_table(analysis: Analysis) -> Table:
    """Returns the gain of every kind by every evaluation, with verdicts; no rows if there is only one evaluation."""
    names = list(analysis.task.by_evaluation)
    lines = []
    for task in analysis.tasks.values() if len(names) > 1 else ():
        for kind in analysis.runs:
            claims = task.claims_by_evaluation(kind.learner, GAIN, kind)
            shown = {name: f"{percent(each, signed=True)}: {verdict_text(each)}" for name, each in claims.items()}
            cells = [shown.get(name, "") for name in names]
            about = [task.name] if len(analysis.tasks) > 1 else []
            lines.append([" on ".join(kind.learner), kind.source, f"{analysis.unique_read(kind):,}", *about, *cells])
    tested = [each for name, each in analysis.claims.items() if name.family == GAIN and name.task == analysis.task.name]
    note = f"Gains over the {analysis.baseline} in points, by each evaluation. {_corrected(analysis, tested)}"
    head = ["source", "N", *(["task"] if len(analysis.tasks) > 1 else []), *(evaluation_title(name) for name in names)]
    return _learner_table(analysis, "evaluations", "Gain by each evaluation", head, lines, note, verdicts=head[2:])


def money_table(analysis: Analysis) -> Table:
    """Returns the cost of each kind of runs, and its gain for each unit of money; no rows if nothing has a cost."""
    lines = []
    # The cheapest comes first.
    for kind, cost in sorted(analysis.costs.items(), key=lambda item: item[1].total):
        gain = analysis.task.gains.get(kind)
        each = "free" if not cost.total else interval_for_money(gain, cost.total) if gain else ""
        score = analysis.task.linear.score(kind)
        amounts = [f"{amount:,.2f}" for amount in (cost.total, cost.images, cost.training)]
        gained = [percent(gain, signed=True), verdict_text(gain)] if gain else ["", ""]
        place = [" on ".join(kind.learner), kind.source, f"{analysis.unique_read(kind):,}"]
        lines.append([*place, amounts[0], *gained, each, percent(score), *amounts[1:]])
    note = (
        "Money in the currency of the sources' cost_per_image: the unique samples of a run, and the training of one run at "
        "--price_per_hour by its mean time here. The gain for each unit of money is the gain divided by the cost, which is "
        "taken as exact: its verdict is that of the gain. Different sources are not compared by it."
    )
    head = ["source", "N", "cost", analysis.gain_over, "verdict", "points per unit of money", "linear %"]
    head += ["cost of images", "cost of training"]
    return _learner_table(analysis, "money", "Accuracy for money", head, lines, note, verdicts=["verdict"])


def class_table(analysis: Analysis) -> Table:
    """Returns the gains within classes, the worst first; no rows if the test images are of one class."""
    found = sorted(analysis.task.class_gains.items(), key=lambda item: item[1].value)
    lines = []
    for (kind, group), claim in found:
        own = [each for (other, _), each in found if other == kind]
        # Of many classes, only the ends are shown.
        if len(own) > _CLASSES and own[_LOWEST_CLASSES - 1].value < claim.value < own[-_HIGHEST_CLASSES].value:
            continue
        interval = interval_text(claim.low, claim.high) if not math.isnan(claim.half_width) else "n/a"
        cells = [points(claim.value), verdict_text(claim).removesuffix(", exploratory"), interval]
        place = [" on ".join(kind.learner), f"{kind.source}, N = {analysis.unique_read(kind):,}", group.name]
        lines.append([*place, *cells, f"{group.images:,}"])
    note = (
        f"Gains of the linear probe over the {analysis.baseline} on the test images of each class, in points, of each source "
        "with its largest number of images; the interval of each number alone. All of these comparisons are exploratory, and "
        f"corrected for all {len(found)} of them (Holm, for each method)."
    )
    if len(lines) < len(found):
        note += " Of each source, the classes with the lowest and the highest gains are shown."
    head = ["source", "class", "gain", "verdict", "95% interval", "test images"]
    title = "Which classes gain or lose"
    return _learner_table(analysis, "classes", title, head, lines, note, words=2, verdicts=["verdict"])


def _corrected(analysis: Analysis, claims: Sequence[Claim]) -> str:
    """Returns sentences on the correction of a table's verdicts, and on what they could have shown."""
    tested = [each for each in claims if not math.isnan(each.smallest)]
    if not tested:
        return "Verdicts need at least two seeds."
    exploratory = any(each.exploratory for each in tested)
    together = sum(not (each.exploratory or math.isnan(each.p_value)) for each in analysis.claims.values())
    correction = (
        f"for the {len(tested)} comparisons of the table, and exploratory"
        if exploratory
        else f"for all {together} confirmatory tests of the report"
    )
    smallest = [each.smallest for each in tested]
    ends = dict.fromkeys([size(min(smallest)).removesuffix(" points"), size(max(smallest))])
    shows = " to ".join(ends) if len(ends) > 1 else size(max(smallest))
    return f"Verdicts are corrected {correction} (Holm); a true difference of {shows} is shown with a probability of 80%."


def _about(row: SummaryRow) -> list[str]:
    learner = " on ".join(row.kind.learner or ())
    unfinished = f" ({row.finished} of {row.planned} runs)" if row.finished < row.planned else ""
    return [learner, row.kind.source + unfinished]


def _numbers(row: SummaryRow) -> list[str]:
    # Baselines are not trained: they have no N.
    if row.unique is None:
        return ["", "", "", ""]
    epochs = f"{row.epochs:,.0f}" if row.epochs >= 100 else f"{row.epochs:.3g}"
    return [f"{row.unique:,}", f"{row.diversity:.3g}", epochs, "{} [{}, {}]".format(*map(two_digits, row.shift.index[:3]))]


def task_table(analysis: Analysis) -> Table:
    """Returns all kinds of runs on all tasks; no rows if there is only one task, which the main table shows."""
    tasks = analysis.opened.tasks
    lines = []
    for row in analysis.rows if len(tasks) > 1 else ():
        cells = []
        for task in tasks:
            gain = row.gains.get(task.name)
            text = f" ({percent(gain, signed=True)}: {verdict_text(gain)})" if gain else ""
            score = row.scores[task.name].get("linear")
            unknown = "" if row.finished == row.planned else "missing"
            cells.append(percent(score) + text if score else unknown)
        lines.append([*_about(row), "" if row.unique is None else f"{row.unique:,}", *cells])
    head = ["source", "N", *(f"{task.name}: {METRICS[task.metric].text} %" for task in tasks)]
    note = (
        f"Linear probe, with its gain over the {analysis.baseline} in parentheses. Verdicts on the first task are corrected "
        "for all confirmatory tests of the report; those on other tasks are exploratory, and corrected for each method and "
        "task (Holm)."
    )
    return _learner_table(analysis, "tasks", "Every source on every task", head, lines, note)


def trend_table(analysis: Analysis) -> Table:
    """Returns the effect of diversity for each source, and its change with the shift."""
    lines = []
    tested = []
    for evaluation, learners in analysis.task.by_evaluation.items():
        for own in learners.values():
            about = [" on ".join(own.learner), evaluation_title(evaluation)]
            lines += [[about[0], each[0], about[1], *each[1:]] for each in _trend_lines(own)]
            tested += [each.trend for each in own.trends] + ([own.change] if isinstance(own.change, Claim) else [])
    seeds = analysis.opened.design.seeds
    note = (
        "Slope of accuracy for each factor of ten in D, in points, fitted to the runs of each seed; its curvature is the "
        f"change of the slope for each factor of ten. Intervals include the variation of seeds ({seeds}) and test images; the "
        f"interval of the change for any sources also includes the variation between sources. {_corrected(analysis, tested)}"
    )
    head = ["source", "evaluation", "points per factor of ten", "verdict", "95% interval", "shift index", "N"]
    title = "Effect of diversity, and its change with the shift"
    return _learner_table(analysis, "trends", title, head, lines, note, words=2, verdicts=["verdict"])


def _trend_lines(own: LearnerAnalysis) -> list[list[str]]:
    """Returns the trends of a learner by one evaluation, without the columns of learner and evaluation."""
    lines = []
    for each in own.trends:
        about = [two_digits(each.shift), f"{each.levels[0].unique:,} to {each.levels[-1].unique:,}"]
        lines.append([each.source, *_slope(each.trend), *about])
        if each.curvature is not None:
            lines.append([f"{each.source}, curvature", *_slope(each.curvature), *about])
    if isinstance(own.change, Claim):
        # Without the scatter of sources, the interval is valid only for these sources, and is narrower.
        for found, of_any in ((own.change_of_any, True), (own.change_of_these, False)):
            which = f"change for each unit of the shift index, {'any' if of_any else 'these'} sources"
            verdict = verdict_text(own.change) if of_any == own.change_is_of_any else ""
            lines.append([which, points(found.value), verdict, interval_text(found.low, found.high), "", ""])
    return lines


def _slope(claim: Claim) -> list[str]:
    return [points(claim.value), verdict_text(claim), interval_text(claim.low, claim.high) or "n/a"]


def pair_table(analysis: Analysis) -> Table:
    """Returns the difference of every pair of sources."""
    lines = []
    shown = []
    for learner, own in analysis.task.learners.items():
        # All pairs of kinds would be hundreds; the best kind is compared with all others by the answer.
        for (a, b), each in own.pairs.items():
            if {a, b} <= {*own.largest, own.best}:
                cells = [percent(each, signed=True), p_text(each), verdict_text(each)]
                lines.append([" on ".join(learner), f"{a.source}, N = {a.unique:,}", f"{b.source}, N = {b.unique:,}", *cells])
                shown.append(each)
    count = " and ".join(dict.fromkeys(str(len(own.pairs)) for own in analysis.task.learners.values()))
    note = (
        "Differences of the linear probe in points, first minus second, paired over seeds and test images: each source with "
        "its largest number of images, and the kind with the highest score. ± is half the width of the pair's own 95% "
        "interval. "
    )
    if any(not math.isnan(each.smallest) for each in shown):
        note += f"p is corrected for all {count} pairs of kinds of a method (Holm); all of these comparisons are exploratory."
    else:
        note += "Intervals and p-values need at least two seeds."
    head = ["first", "second", "difference", "adjusted p", "verdict on the first"]
    return _learner_table(analysis, "pairs", "Pairwise comparison of sources", head, lines, note, words=2)


def order_table(analysis: Analysis) -> Table:
    """Returns differences of mixtures and sources from the nearest source; no rows if there are no mixtures."""
    lines = []
    references = []
    tested = []
    for evaluation, learners in analysis.task.by_evaluation.items() if analysis.mixtures else ():
        for learner, own in learners.items():
            references.append(f"{own.reference.source}, N = {own.reference.unique:,}")
            for kind, each in own.against_reference.items():
                cells = [f"{kind.unique:,}", percent(each, signed=True), verdict_text(each), p_text(each)]
                lines.append([" on ".join(learner), kind.source, evaluation_title(evaluation), *cells])
                tested.append(each)
    note = f"Differences in points from {references[0] if references else ''}. {_corrected(analysis, tested)}"
    head = ["candidate", "evaluation", "N", "difference", "verdict", "adjusted p"]
    return _learner_table(analysis, "order", "Orders and mixtures", head, lines, note, words=2, verdicts=["verdict"])


def shift_table(analysis: Analysis) -> Table:
    """Returns the distance of each candidate from the downstream images of each task, the nearest first."""
    lines = []
    for task, shifts in analysis.results.task_shifts.items():
        for name, shift in sorted(shifts.items(), key=lambda item: item[1].order):
            index = shift.index
            values = ("n/a" if math.isnan(each) else f"{each:.3g}" for each in (index.distance, index.floor, index.ceiling))
            span = f"{two_digits(index.low)} to {two_digits(index.high)}"
            size = "n/a" if math.isnan(index.sample_size) else f"{index.sample_size:,.0f}"
            lines.append((task, name, two_digits(index.value), span, *values, size))
    head = (
        "source",
        "shift index",
        "95% interval",
        "distance",
        "distance at index 0",
        "distance at index 1",
        "images per side",
    )
    note = (
        "The index is 0 at the distance between two halves of the downstream images, and 1 at "
        f"{far_end_text(analysis.opened.design.shift)}."
    )
    title = "Shift of each source from the downstream images"
    if len(analysis.results.task_shifts) == 1:
        return Table("shift", title, head, [line[1:] for line in lines], note)
    return Table("shift", title, ("task", *head), lines, note, text_columns=2)


def mixture_table(analysis: Analysis) -> Table:
    """Returns the samples of each mixture, stage by stage; no rows if there are no mixtures."""
    opened = analysis.opened
    lines = []
    for candidate in (each for each in opened.candidates if each.text):
        # All seeds and draws have the same counts. The plan is made only for counting; no image is read.
        plan = sample_plan(candidate.mixture, opened.design.budget, opened.design.batch_size, opened.sources, seed=0, draw=0)
        for number, (stage, counts) in enumerate(zip(candidate.mixture.stages, plan.counts, strict=True), 1):
            for part, count in zip(stage.components, counts, strict=True):
                share = " to ".join(dict.fromkeys(f"{end:.0%}" for end in part.ends))
                epochs = f"{count / part.unique:.3g}"
                cost = f"{part.unique * opened.sources[part.source].cost_per_image:,.6g}"
                lines.append((candidate.name, part.source, str(number), f"{part.unique:,}", f"{count:,}", share, epochs, cost))
    head = ("mixture", "source", "stage", "N", "samples", "share", "E", "cost")
    return Table("mixtures", "Samples of each mixture", head, lines, text_columns=2)


def run_table(analysis: Analysis) -> Table:
    """Returns every run of the grid with its score and time, or the reason why they are missing."""
    task = analysis.opened.task.name
    lines = []
    found = {each.run: each for each in analysis.results.runs}
    failed = dict(analysis.results.failed)
    # Missing runs have rows too, so that the page shows the progress of the study.
    for run in analysis.opened.runs:
        place = [f"{run.method} on {run.encoder}", run.source, f"{run.unique:,}", str(run.seed), str(run.draw)]
        if run in found:
            finished = found[run]
            seconds = finished.trained.seconds
            took = "n/a" if seconds is None else f"{seconds:,.1f}"
            lines.append([*place, f"{finished.evaluated.scores[task].linear * 100:.2f}", took, "finished"])
        else:
            state = f"failed: {failed[run]}" if run in failed else "missing"
            lines.append([*place, "missing", "n/a", state])
    head = ["source", "N", "seed", "draw", "linear %", "training, seconds", "state"]
    note = "Seconds are wall-clock time of the training; for a run that was interrupted, the time since it resumed."
    return _learner_table(analysis, "runs", "Every run", head, lines, note)


def _learner_table(
    analysis: Analysis,
    name: str,
    title: str,
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    note: str = "",
    words: int = 1,
    verdicts: Sequence[str] = (),
) -> Table:
    """Returns a table; the first column, method and encoder, is dropped if the study has only one of both.

    Args:
      analysis: analysis of the study.
      name: name of the table's files.
      title: title of the table.
      head: names of the columns, without the first.
      lines: rows of the table, with the first column.
      note: note of the table.
      words: number of text columns, without the first.
      verdicts: names of further columns that hold words.
    """
    if len(analysis.opened.learners) == 1:
        return Table(name, title, head, [line[1:] for line in lines], note, words, verdicts)
    return Table(name, title, ["method", *head], lines, note, words + 1, verdicts)

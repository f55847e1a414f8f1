"""Results of a survey: tables, remarks and notes for people, CSV and JSON for programs."""

import math
from collections.abc import Mapping
from typing import Any

from sslshift.data.decode import Canvas
from sslshift.data.ranges import compare_ranges
from sslshift.reporting import Table, csv_text
from sslshift.shift.distances import DISTANCES, distance_of
from sslshift.shift.index import FAR_ENDS, NEAR_END, NOISE
from sslshift.shift.survey.inputs import COSINES, Encoded, ImageLook, MixtureAbout, SourceAbout
from sslshift.shift.survey.measure import Measured, Survey
from sslshift.shift.survey.sentences import digits, listed

# Names of rows and lines that are no sources; a source of the same name is refused.
FLOOR = "floor: halves of the target"
REFERENCE = f"reference: {FAR_ENDS[NOISE]}"
# With more sources than this, their sizes are summarised.
_MANY = 6

Sets = Mapping[str, Encoded]


def main_table(survey: Survey, sets: Sets) -> Table:
    """Returns the sources and mixtures, the nearest first; those that could not be measured come last."""
    # A column that would be empty for every source is omitted.
    copies = any(isinstance(each.about, SourceAbout) and each.about.copies for each in sets.values())
    costs = any(each.about.cost_per_image for each in sets.values())
    # A telephone shows the first three columns without scrolling.
    head = ["source", "index", "covers", "images", "unique", *(["copies"] if copies else []), *(["cost"] if costs else [])]
    lines = []
    for name in [*survey.measured, *survey.failed]:
        about = sets[name].about if name in sets else None
        found = survey.measured.get(name)
        of_source = about if isinstance(about, SourceAbout) else None
        lines.append(
            [
                name,
                index_text(found) if found else "not measured",
                f"{100 * found.coverage.target:.0f}%" if found else "",
                _used(about),
                f"{of_source.unique:,}" if of_source else "",
                *([f"{of_source.copies:,}" if of_source and of_source.copies else ""] if copies else []),
                *([_cost(about)] if costs else []),
                about.licence if about else "",
            ]
        )
    # A narrow terminal wraps these columns of words and no columns of numbers.
    more = ("licence", "cost")
    return Table("index", "Distance from the target", [*head, "licence"], lines, more_text=more)


def _used(about: SourceAbout | MixtureAbout | None) -> str:
    if about is None:
        return ""
    if isinstance(about, MixtureAbout):
        return f"{about.used:,} planned"
    return f"{about.used:,} of {about.images:,}" if about.used < about.images else f"{about.used:,}"


def _cost(about: SourceAbout | MixtureAbout | None) -> str:
    if about is None or not about.cost_per_image:
        return ""
    total = f", {about.cost_per_image * about.images:,.6g} in all" if isinstance(about, SourceAbout) else ""
    return f"{about.cost_per_image:.3g} each{total}"


def index_text(found: Measured) -> str:
    """Returns the index with its interval.

    Example:
      >>> from sslshift.shift import ShiftIndex
      >>> from sslshift.shift.neighbourhoods import Coverage
      >>> index_text(Measured(ShiftIndex(0.514, 0.2, 0.8, 0, 0, 1, 100, 20), {}, Coverage(1, 1), 1, 1))
      '0.51 [0.20, 0.80]'
    """
    return "{} [{}, {}]".format(*digits(found.index))


def raw_table(survey: Survey) -> Table | None:
    """Returns the raw distances with their floor, which is the same for all sources; None if no raw distance was asked for."""
    names = list(next(iter(survey.measured.values())).raw)
    if not names:
        return None
    lines = [[source, *(_number(found.raw[name].value) for name in names)] for source, found in survey.measured.items()]
    floors = {name: [found.raw[name].floor for found in survey.measured.values()] for name in names}
    known = [[floor for floor in each if not math.isnan(floor)] for each in floors.values()]
    # The floor is that of the target's halves for all sources; a source that could not be measured has none.
    lines.append([FLOOR, *(_number(each[0]) if each else "n/a" for each in known)])
    return Table("raw", "Raw distances", ["source", *(DISTANCES[name].title for name in names)], lines)


def _number(value: float) -> str:
    # A mean of rounding errors is shown as 0.
    return "n/a" if math.isnan(value) else f"{0.0 if abs(value) < 1e-12 else value:.3g}"


def diversity_table(survey: Survey, sets: Sets, target: Encoded) -> Table:
    """Returns the share of each source near the target, diversity scores, and images without near-duplicates if known."""
    cosines = list(target.about.unlike or {})
    lines = []
    rows = [(sets[name], f"{100 * each.coverage.source:.0f}%", each.vendi, each.rank) for name, each in survey.measured.items()]
    for each, share, vendi, rank in [*rows, (target, "", survey.vendi, survey.rank)]:
        unlike = each.about.unlike if isinstance(each.about, SourceAbout) else None
        numbers = (f"{unlike[cosine]:,}" if unlike else "" for cosine in cosines)
        lines.append([each.name, share, _number(vendi), _number(rank), *numbers])
    head = ["source", "near the target", "Vendi score", "effective rank", *(f"unlike at {each}" for each in cosines)]
    return Table("diversity", "Coverage and diversity", head, lines)


def notes(survey: Survey, by_features: bool) -> list[str]:
    """Returns sentences about how to read the tables.

    Args:
      survey: the survey.
      by_features: whether near-duplicates were counted by features, as with a trained encoder.
    """
    names = list(next(iter(survey.measured.values())).raw)
    unlike = (
        "unlike: images without those whose cosine to another image is at least this number; whether these are duplicates "
        "depends on the encoder, so look at some of them."
    )
    return [
        f"index: 0 is {NEAR_END}, 1 is {FAR_ENDS[survey.far_end]}{_beyond(survey)}; by the "
        f"{distance_of(survey.distance).title} distance ({distance_of(survey.distance).caveat}), {survey.images:,} images of "
        "each source and of the target in two halves, 95% interval over samples of images.",
        f"covers: share of the target's images that have a near image among {survey.images:,} images of the source; as many "
        f"further images of the target itself would cover {100 * survey.coverage_expected:.0f}%. near the target: the same in "
        "the other direction.",
        "unique: images looked at, without exact copies; python -m tools.find_duplicates looks at all images.",
        *([unlike] if by_features else []),
        "Vendi score and effective rank: number of kinds of images or of features; they depend on the number of images "
        f"({survey.images:,} here) and on the encoder.",
        *(f"{DISTANCES[name].title}: {DISTANCES[name].caveat}." for name in names),
        *([f"{FLOOR}, which is the distance that chance gives; raw distances have no interval."] if names else []),
    ]


def _beyond(survey: Survey) -> str:
    """Returns what can be said of values above 0, as a part of a sentence."""
    if survey.far_end == NOISE:
        return ", larger values are possible"
    return ", and its square is the share of the distance between two sets in all differences between their images"


def remarks(survey: Survey, sets: Sets, target: Encoded) -> list[str]:
    """Returns warnings: failed sources, copies of the target, images that cannot be read, numbers that are missing."""
    own = target.about
    everyone = {target.name: target, **sets}
    ranges = {name: each.about.pixel_range for name, each in everyone.items() if isinstance(each.about, SourceAbout)}
    return [
        *(f"{name} was not measured: {why.rstrip('.')}." for name, why in survey.failed.items()),
        *(f"{name}: {note}" for name, found in survey.measured.items() for note in found.notes),
        *_smallest(survey, sets, target),
        *(
            [
                f"{own.used - own.unique:,} of the {own.used:,} images of {target.name} are copies of others of it, as the "
                "encoder sees them."
            ]
            if own.unique < own.used
            else []
        ),
        *(f"Warning: {sentence}." for sentence in compare_ranges(ranges)),
        *(
            remark
            for name, each in everyone.items()
            if isinstance(each.about, SourceAbout)
            for remark in _source_remarks(name, each.about, target)
        ),
    ]


def _source_remarks(name: str, about: SourceAbout, target: Encoded) -> list[str]:
    said = []
    if about.copies:
        same = " It is the target itself." if about.fingerprint == target.about.fingerprint else ""
        are = "is a copy" if about.copies == 1 else "are copies"
        near = f", {about.near_copies:,} of them nearly the same" if about.near_copies else ""
        example = f" (for example {about.example})" if about.example else ""
        count = f"{about.copies:,} of its {about.used:,} {are} as the encoder sees them{near}{example}"
        # An accuracy on images that were trained on means nothing: this is the gravest finding of a survey.
        said.append(f"Warning: {name} and {target.name} share images, {count}; do not train on what you test on.{same}")
    if about.broken:
        count = f"{len(about.broken):,} of {about.looked_at:,} images"
        said.append(f"{name}: {count} cannot be read and are excluded, e.g. {about.broken[0]}.")
    said += [f"{name}: {note}." for note in about.notes]
    if about.refused:
        are = "file is" if len(about.refused) == 1 else "files are"
        more = f"; and {len(about.refused) - 3:,} more, see `refused` in shift.json" if len(about.refused) > 3 else ""
        said.append(f"{name}: {len(about.refused):,} {are} refused and not counted: {'; '.join(about.refused[:3])}{more}.")
    return said


def _smallest(survey: Survey, sets: Sets, target: Encoded) -> list[str]:
    """Returns a sentence if a few sources reduce all comparisons to less than half of the images."""
    # Mixtures have exactly the images that are compared, and so reduce no comparison.
    used = {name: sets[name].about.used for name in survey.measured if sets[name].images}
    names = sorted(used, key=used.get)
    for few in range(1, len(names)):
        without = min(target.about.used, used[names[few]])
        if without >= 2 * used[names[0]]:
            sizes = listed([f"{name} ({used[name]:,})" for name in names[:few]])
            have, it = ("has", "it") if few == 1 else ("have", "them")
            return [
                f"{sizes} {have} few images, so {survey.images:,} images of every source are compared; without {it}, it could "
                f"be {without // 2 * 2:,}, with narrower intervals."
            ]
    return []


def about_images(looks: Mapping[str, ImageLook], canvas: Canvas) -> list[str]:
    """Returns sentences about the canvas, and about sources whose sizes or colours differ from it."""
    shown = "; ".join(f"{name} {look.text}" for name, look in looks.items())
    if len(looks) > _MANY:
        first = next(iter(looks))
        lows, highs = zip(*((min(look.sides)[0], max(look.sides)[1]) for look in looks.values()), strict=True)
        sides = f"{min(lows)} to {max(highs)}" if min(lows) < max(highs) else f"{min(lows)}"
        shown = f"{first} {looks[first].text}; sides of all are {sides} pixels (`looks` in shift.json)"
    small = [name for name, look in looks.items() if min(look.sides)[0] < min(canvas[:2])]
    seen = f"{canvas.height} x {canvas.width} {'grey' if canvas.channels == 1 else 'colour'}"
    texts = {look.text for look in looks.values()}
    shown = f"all are {texts.pop()}" if len(texts) == 1 else shown
    said = [f"Images are brought to {seen}, scaled to cover it and cropped at the centre: {shown}."]
    if len({look.colour > 0 for look in looks.values()}) > 1:
        effect = "colours are converted to grey" if canvas.channels == 1 else "that is part of the distance"
        said.append(f"Some sources are grey and some in colour: {effect}.")
    if small and len(small) < len(looks):
        said.append(f"Images smaller than that are enlarged, and their blur is part of the distance: {listed(small)}.")
    return said


def as_csv(survey: Survey, sets: Sets) -> str:
    """Returns a line per source with numbers of six digits; equal results give equal bytes."""
    raw = list(next(iter(survey.measured.values())).raw)
    # Programs of users read these columns: columns may be added but never renamed.
    head = ["source", "kind", "uri", "images", "used", "unique", "copies_of_target"]
    head += [f"unlike_{each:g}" for each in COSINES] + ["cost_per_image", "licence"]
    head += ["distance", "index", "low", "high", "sample_size", "covers_target", "near_target", "vendi", "effective_rank"]
    head += [f"{name}{what}" for name in raw for what in ("", "_floor", "_index")] + ["why"]
    lines = []
    for name in [*survey.measured, *survey.failed]:
        about = sets[name].about.record if name in sets else {}
        found = survey.measured.get(name)
        line = [name, *(about.get(key, "") for key in ("kind", "uri", "images", "used", "unique", "copies"))]
        line += [about.get("unlike", {}).get(f"{each:g}", "") for each in COSINES]
        line += [about.get("cost_per_image", ""), about.get("licence", "")]
        if found:
            index = found.index
            line += [survey.distance, *index[:3], index.sample_size, *found.coverage, found.vendi, found.rank]
            line += [value for each in found.raw.values() for value in each[:3]] + ["; ".join(found.notes)]
        else:
            line += [""] * (len(head) - len(line) - 1) + [survey.failed[name]]
        lines.append([_cell(value) for value in line])
    return csv_text(head, lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return str(value)


def as_json(survey: Survey, sets: Sets, target: Encoded) -> dict[str, Any]:
    """Returns all results; numbers that could not be computed are null."""
    found = {
        name: {
            **sets[name].about.record,
            "index": each.index._asdict(),
            "raw": {other: raw._asdict() for other, raw in each.raw.items()},
            "coverage": each.coverage._asdict(),
            "vendi": each.vendi,
            "effective_rank": each.rank,
            "notes": list(each.notes),
        }
        for name, each in survey.measured.items()
    }
    about = {"distance": survey.distance, "sample_size": survey.sample_size, "coverage_expected": survey.coverage_expected}
    target_about = {**target.about.record, "vendi": survey.vendi, "effective_rank": survey.rank}
    return _plain({**about, "target": target_about, "sources": found, "failed": survey.failed})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    # JSON has no NaN, and other languages refuse Python's spelling of it.
    return None if isinstance(value, float) and not math.isfinite(value) else value

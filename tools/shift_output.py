"""What `tools.shift` tells: tables as text, how to read them, and warnings."""

import math
from collections.abc import Mapping

from sslshift.data.decode import Canvas
from sslshift.data.ranges import compare_ranges
from sslshift.shift.distances import DISTANCES, distance_of
from sslshift.shift.reading import digits, listed
from sslshift.shift.survey import Measured, Survey
from tools.shift_inputs import Encoded, Look

Lines = list[list[str]]
FLOOR = "floor"
# Of more sources than these, sizes are told in sum.
_MANY = 6


def main_table(survey: Survey, sets: Mapping[str, Encoded]) -> Lines:
    """Sources and mixtures, the nearest first; those that could not be measured at the end."""
    copies = any(each.about.get("copies") for each in sets.values())
    costs = any(each.about["cost_per_image"] for each in sets.values())
    head = ["source", "images", "unique", *(["copies"] if copies else []), *(["cost"] if costs else [])]
    lines = [[*head, "licence", "index", "covers"]]
    for name in [*survey.measured, *survey.failed]:
        about = sets[name].about if name in sets else {}
        found = survey.measured.get(name)
        lines.append(
            [
                name,
                _used(about),
                f"{about['unique']:,}" if "unique" in about else "",
                *([f"{about['copies']:,}" if about.get("copies") else ""] if copies else []),
                *([_cost(about)] if costs else []),
                about.get("licence", ""),
                index_text(found) if found else "not measured",
                f"{100 * found.coverage.target:.0f}%" if found else "",
            ]
        )
    return lines


def _used(about: Mapping) -> str:
    if not about:
        return ""
    if about["kind"] == "mixture":
        return f"{about['used']:,} planned"
    return f"{about['used']:,} of {about['images']:,}" if about["used"] < about["images"] else f"{about['used']:,}"


def _cost(about: Mapping) -> str:
    if not about or not about["cost_per_image"]:
        return ""
    total = f", {about['cost_per_image'] * about['images']:,.6g} in all" if "images" in about else ""
    return f"{about['cost_per_image']:.3g} each{total}"


def index_text(found: Measured) -> str:
    return "{} [{}, {}]".format(*digits(found.index))


def raw_table(survey: Survey) -> Lines:
    """Raw distances with their floor, which is the same for all sources; empty if none was asked for."""
    names = list(next(iter(survey.measured.values())).raw)
    if not names:
        return []
    lines = [["source", *(DISTANCES[name].title for name in names)]]
    lines += [[source, *(_number(found.raw[name].value) for name in names)] for source, found in survey.measured.items()]
    floors = {name: [found.raw[name].floor for found in survey.measured.values()] for name in names}
    known = [[floor for floor in each if not math.isnan(floor)] for each in floors.values()]
    return [*lines, [FLOOR, *(_number(each[0]) if each else "n/a" for each in known)]]


def _number(value: float) -> str:
    # Averages of what rounding left are 0.
    return "n/a" if math.isnan(value) else f"{0.0 if abs(value) < 1e-12 else value:.3g}"


def diversity_table(survey: Survey, sets: Mapping[str, Encoded], target: Encoded) -> Lines:
    """Coverage the other way, scores of diversity, and images without near-duplicates if the encoder can tell these."""
    cosines = list(target.about.get("unlike", {}))
    lines = [["source", "near the target", "Vendi score", "effective rank", *(f"unlike at {each}" for each in cosines)]]
    rows = [(sets[name], f"{100 * each.coverage.source:.0f}%", each.vendi, each.rank) for name, each in survey.measured.items()]
    for each, share, vendi, rank in [*rows, (target, "", survey.vendi, survey.rank)]:
        unlike = each.about.get("unlike", {})
        numbers = (f"{unlike[cosine]:,}" if unlike else "" for cosine in cosines)
        lines.append([each.name, share, _number(vendi), _number(rank), *numbers])
    return lines


def notes(survey: Survey, by_features: bool) -> list[str]:
    """How to read the tables."""
    names = list(next(iter(survey.measured.values())).raw)
    unlike = (
        "unlike: less those of a cosine of at least so much to another; whether these are duplicates depends on the encoder: "
        "look at some."
    )
    return [
        f"index: 0 is another sample of the target, 1 is noise with the target's pixel values, more is possible; by the "
        f"{distance_of(survey.distance).title} distance ({distance_of(survey.distance).caveat}), {survey.sample_size:,} images "
        "on each side, 95% interval over halves of the images.",
        f"covers: share of the target's images with a near one among {survey.images:,} of the source; more of the target "
        f"itself would cover {100 * survey.coverage_expected:.0f}%. near the target: the same the other way round.",
        "unique: of the images looked at, less exact copies; python -m tools.find_duplicates looks at all.",
        *([unlike] if by_features else []),
        "Vendi score and effective rank: how many kinds of images or of features there are; they depend on the number of "
        f"images ({survey.images:,} here) and on the encoder.",
        *(f"{DISTANCES[name].title}: {DISTANCES[name].caveat}." for name in names),
        *([f"{FLOOR}: between two halves of the target; raw distances have no interval."] if names else []),
    ]


def remarks(survey: Survey, sets: Mapping[str, Encoded], target: Encoded) -> list[str]:
    """Warnings: sources that were not measured, copies of the target, images that cannot be read, numbers that are missing."""
    said = [f"{name} was not measured: {why.rstrip('.')}." for name, why in survey.failed.items()]
    said += [f"{name}: {note}" for name, found in survey.measured.items() for note in found.notes]
    said += _smallest(survey, sets, target)
    own = target.about
    if own["unique"] < own["used"]:
        said.append(
            f"{own['used'] - own['unique']:,} of the {own['used']:,} images of {target.name} are copies of others of it, as "
            "the encoder sees them."
        )
    everyone = {target.name: target, **sets}
    ranges = {name: each.about.get("pixel_range") for name, each in everyone.items()}
    said += [f"Warning: {sentence}." for sentence in compare_ranges(ranges)]
    for name, each in everyone.items():
        about = each.about
        if about["kind"] == "mixture":
            continue
        if about.get("copies"):
            same = " It is the target itself." if about["fingerprint"] == target.about["fingerprint"] else ""
            are = "is an exact copy" if about["copies"] == 1 else "are exact copies"
            count = f"{about['copies']:,} of its {about['used']:,} {are} as the encoder sees them"
            said.append(f"Warning: {name} and {target.name} share images, {count}; do not train on what you test on.{same}")
        if about["broken"]:
            count = f"{len(about['broken']):,} of {about['looked_at']:,} images"
            said.append(f"{name}: {count} cannot be read and are left out, e.g. {about['broken'][0]}.")
        said += [f"{name}: {note}." for note in about.get("notes", ())]
        if about["refused"]:
            count = f"{len(about['refused']):,}"
            said.append(f"{name}: files that are no readable images, not counted: {count}, e.g. {about['refused'][0]}.")
    return said


def _smallest(survey: Survey, sets: Mapping[str, Encoded], target: Encoded) -> list[str]:
    """Whether some sources make all comparisons rest on far fewer images."""
    used = {name: sets[name].about["used"] for name in survey.measured if sets[name].images}
    names = sorted(used, key=used.get)
    for few in range(1, len(names)):
        without = min(target.about["used"], used[names[few]])
        if without >= 2 * used[names[0]]:
            sizes = listed([f"{name} ({used[name]:,})" for name in names[:few]])
            have, it = ("has", "it") if few == 1 else ("have", "them")
            return [
                f"{sizes} {have} few images, so that all is compared at {survey.sample_size:,} a side; without {it}, it could "
                f"be {without // 2:,}, with narrower intervals."
            ]
    return []


def about_images(looks: Mapping[str, Look], canvas: Canvas) -> list[str]:
    """That sizes or colours differ, if they do, and what that does."""
    told = "; ".join(f"{name} {look.text}" for name, look in looks.items())
    if len(looks) > _MANY:
        first = next(iter(looks))
        lows, highs = zip(*((min(look.sides)[0], max(look.sides)[1]) for look in looks.values()), strict=True)
        sides = f"{min(lows)} to {max(highs)}" if min(lows) < max(highs) else f"{min(lows)}"
        told = f"{first} {looks[first].text}; sides of all are {sides} pixels (`looks` in shift.json)"
    small = [name for name, look in looks.items() if min(look.sides)[0] < min(canvas[:2])]
    seen = f"{canvas.height} x {canvas.width} {'grey' if canvas.channels == 1 else 'colour'}"
    texts = {look.text for look in looks.values()}
    told = f"all are {texts.pop()}" if len(texts) == 1 else told
    said = [f"Images are brought to {seen}, scaled to cover it and cropped at the centre: {told}."]
    if len({look.colour > 0 for look in looks.values()}) > 1:
        kind = "turned grey and do not count" if canvas.channels == 1 else "part of the distance"
        said.append(f"Some sources are grey and some in colour: {'colours are' if canvas.channels == 1 else 'that is'} {kind}.")
    if small and len(small) < len(looks):
        said.append(f"Images smaller than that are enlarged, and the blur of it is part of the distance: {listed(small)}.")
    return said

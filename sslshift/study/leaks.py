"""Test images that are among the images that encoders are pretrained on, or similar to some: sought in every source."""

import csv
import io
from pathlib import Path

import numpy as np

from sslshift.data.curation import find_leaks
from sslshift.data.curation.leaks import NEAR, differently_labelled
from sslshift.data.decode import BrokenImageError
from sslshift.data.sources import Source, SyntheticSource
from sslshift.study.judged import slug
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.study.records import remembered, write_atomically

# Pairs that a folder remembers and the report can show.
_KEPT = 10_000
# A source of more images would be read whole for this alone; one with stored hashes is not read.
_SEARCHED = 200_000


def search_leaks(opened: Opened, out: Path, progress: Progress) -> dict[str, dict]:
    """Returns what each source shares with the test split, by its URI.

    `count` of test images, of which `equal` have the same pixels as an image of the source; `same` and `near` pairs, of which
    `other_label` have different labels on their sides; whether `colour` was compared, which is not where encoders take gray
    images; and `pairs` as (source index, test index, distance, how, where the first is from, where the second is from). Or
    `why` none were sought.

    Writes `leaks.csv`, all pairs, if there are any.
    """
    found = {}
    for uri, source in opened.sources.items():
        if isinstance(source, SyntheticSource):
            continue
        if len(source) > _SEARCHED and source.stored_identities() is None:
            why = f"it has more than {_SEARCHED:,} images and no stored hashes; python -m tools.import_images stores them"
            found[uri] = {"why": why}
            continue
        test, indices = opened.task.test
        record = {"source": source.fingerprint, "test": test.fingerprint, "test_images": len(indices), "search": 2}
        record["colour"] = opened.canvas.channels > 1
        folder = out / "leaks" / slug(uri)
        found[uri] = remembered(folder, record, lambda source=source: _searched(source, opened))
        if "why" not in found[uri] and found[uri]["count"]:
            progress.note(f"WARNING: {told(uri, found[uri], opened)} (leaks.csv lists the pairs)")
    _write(found, out)
    return found


def told(uri: str, leaks: dict, opened: Opened) -> str:
    """Returns what was found in a source, in a sentence without its full stop.

    That a test image is also in a source is said of equal pixels alone; others are similar, and a person decides.
    """
    images = len(opened.task.test.indices)
    similar = leaks["count"] - leaks["equal"]
    said = []
    if leaks["equal"]:
        are = "is" if leaks["equal"] == 1 else "are"
        said.append(f"{leaks['equal']:,} of the {images:,} test images {are} also in {uri}, pixel for pixel")
    if similar:
        is_similar = "is similar" if similar == 1 else "are similar"
        of = f"{similar:,} others" if said else f"{similar:,} of the {images:,} test images"
        by = "detail and colours" if leaks["colour"] else "detail, without colours, which these encoders do not see"
        said.append(f"{of} {is_similar} to images in {'it' if said else uri} by {by}{_example(leaks)}")
    if leaks["other_label"]:
        said.append(f"{leaks['other_label']:,} of the pairs have different labels")
    return "; ".join(said)


def _example(leaks: dict) -> str:
    pair = next((pair for pair in leaks["pairs"] if pair[3] == NEAR), None)
    return f", for example {pair[5]} to {pair[4]}" if pair else ""


def _searched(source: Source, opened: Opened) -> dict:
    test, indices = opened.task.test
    try:
        leaks = find_leaks(source, test, indices, colour=opened.canvas.channels > 1)
    except BrokenImageError as error:
        return {"why": f"an image cannot be read: {error}"}
    columns = zip(
        leaks.pairs.first.tolist(), leaks.pairs.second.tolist(), leaks.pairs.distance.tolist(), leaks.how, strict=True
    )
    pairs = [(*pair, source.origin(pair[0]), test.origin(pair[1])) for pair in columns]
    same = np.array([how != NEAR for how in leaks.how], bool)
    return {
        "count": leaks.count,
        "equal": len(np.unique(leaks.pairs.second[same])),
        "same": int(same.sum()),
        "near": int((~same).sum()),
        "other_label": int(differently_labelled(source, leaks.pairs.first, test, leaks.pairs.second).sum()),
        "colour": opened.canvas.channels > 1,
        "pairs": pairs[:_KEPT],
    }


def _write(found: dict[str, dict], out: Path) -> None:
    rows = [(uri, *pair) for uri, leaks in found.items() for pair in leaks.get("pairs", ())]
    if not rows:
        (out / "leaks.csv").unlink(missing_ok=True)
        return
    text = io.StringIO()
    head = ("source", "source_index", "test_index", "distance", "how", "source_image", "test_image")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_atomically(out / "leaks.csv", text.getvalue())

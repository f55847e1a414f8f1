"""Test images among the images that encoders are pretrained on: searched for in every source, told wherever results are."""

import csv
import io
from pathlib import Path

from sslshift.data.curation import find_leaks
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
    """What each source shares with the test split, by its URI: `count` of test images, `same` and `near` pairs, and `pairs` as
    (source index, test index, distance, how, where the first is from, where the second is from); or `why` none were sought.

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
        record = {"source": source.fingerprint, "test": test.fingerprint, "test_images": len(indices), "search": 1}
        folder = out / "leaks" / slug(uri)
        found[uri] = remembered(folder, record, lambda source=source: _searched(source, opened))
        if "why" not in found[uri] and found[uri]["count"]:
            progress.note(f"WARNING: {told(uri, found[uri], opened)} (leaks.csv lists the pairs)")
    _write(found, out)
    return found


def told(uri: str, leaks: dict, opened: Opened) -> str:
    """What was found in a source, in a sentence without its full stop."""
    images = len(opened.task.test.indices)
    return (
        f"{leaks['count']:,} of the {images:,} test images are also in {uri}: {leaks['same']:,} pairs of the same pixels, "
        f"{leaks['near']:,} that look alike"
    )


def _searched(source: Source, opened: Opened) -> dict:
    test, indices = opened.task.test
    try:
        leaks = find_leaks(source, test, indices)
    except BrokenImageError as error:
        return {"why": f"an image cannot be read: {error}"}
    columns = zip(
        leaks.pairs.first.tolist(), leaks.pairs.second.tolist(), leaks.pairs.distance.tolist(), leaks.how, strict=True
    )
    pairs = [(*pair, source.origin(pair[0]), test.origin(pair[1])) for pair in columns]
    same = sum(how != "near" for how in leaks.how)
    return {"count": leaks.count, "same": same, "near": len(leaks.how) - same, "pairs": pairs[:_KEPT]}


def _write(found: dict[str, dict], out: Path) -> None:
    rows = [(uri, *pair) for uri, leaks in found.items() for pair in leaks.get("pairs", ())]
    if not rows:
        (out / "leaks.csv").unlink(missing_ok=True)
        return
    text = io.StringIO()
    head = ("source", "source_index", "test_index", "distance", "how", "source_image", "test_image")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_atomically(out / "leaks.csv", text.getvalue())

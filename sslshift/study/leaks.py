"""Leaks in a study: test images that equal or resemble images of a source. Every source is searched; see `transfer.leaks`."""

import csv
import io
from collections.abc import Iterable, Mapping

from sslshift.data.curation.leaks import VERSION
from sslshift.shards import editing
from sslshift.storage import NotStoredError, Store, slug, write
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.transfer.leaks import LeakFinder, SourceLeaks


def search_leaks(opened: Opened, store: Store, progress: Progress) -> dict[str, SourceLeaks]:
    """Returns the test images of the first task that each source contains or resembles, by the URI of the source.

    Writes the kept pairs, if there are any, to `leaks.csv`.

    Raises:
      NotStoredError: a source was not searched yet, and the store is read only.
    """
    found = {}
    test, indices = opened.task.test
    finder = LeakFinder(test, indices, colour=opened.canvas.channels > 1, note=progress.note)
    for uri, source in opened.sources.items():
        why = finder.why_not(source)
        if why:
            found[uri] = SourceLeaks(why=why)
            continue
        record = {
            "source": source.fingerprint,
            "test": test.fingerprint,
            "test_images": len(indices),
            "search": VERSION,
            "colour": opened.canvas.channels > 1,
        }
        folder = opened.design.out / "leaks" / slug(uri)
        result = store.remembered(folder, record, lambda source=source: finder.among(source).as_result())
        leaks = found[uri] = SourceLeaks.of_result(result)
        if leaks.count:
            progress.note(f"WARNING: {leaks.sentence(opened.names[uri], len(indices))} (leaks.csv lists the pairs)")
    if not store.read_only:
        _write(found, opened)
    return found


def read_leaks(opened: Opened, store: Store, progress: Progress) -> dict[str, SourceLeaks]:
    """Returns the leaks in a study's folder, from a read-only store."""
    try:
        return search_leaks(opened, store, progress)
    except NotStoredError:
        return {uri: SourceLeaks(why="the study is not finished") for uri in opened.sources}


def _write(found: Mapping[str, SourceLeaks], opened: Opened) -> None:
    path = opened.design.out / "leaks.csv"
    rows: Iterable[tuple] = [(uri, *pair) for uri, leaks in found.items() for pair in leaks.pairs]
    text = io.StringIO()
    head = ("source", "source_index", "test_index", "distance", "how", "source_image", "test_image")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    with editing(opened.design.out):
        if rows:
            write(path, text.getvalue())
        else:
            # An earlier search may have left the file.
            path.unlink(missing_ok=True)

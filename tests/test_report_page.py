"""The page of a small study in a real browser, on the screen of a phone and on a large screen, without a network."""

import csv
import dataclasses
import json
import re

import pytest
from browser import browsing, find_chromium
from PIL import Image
from report_builders import MIDDLE, NEAR, SHIFTS, STUDY, results_of, truth

from sslshift.reporting.ledger import append, fingerprint
from sslshift.study.analysis import Analysis
from sslshift.study.opened import open_study
from sslshift.study.report import write_report

PHONE = 400
DESK = 1600
# Pixels of the screen; smaller letters cannot be read.
SMALLEST = 9

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Made-up results: these tests are about the page. tests/test_study.py has the page of a study that was run."""
    out = tmp_path_factory.mktemp("study")
    mixed = f"mixed = near:{NEAR}@160*0.5 + far:{MIDDLE}@160*0.5"
    shares = dataclasses.replace(STUDY, mixture=(*STUDY.mixture, mixed), seeds=2, out=str(out))
    results = results_of(
        open_study(shares), lambda run: truth(run) if run.source != "mixed" else 0.7, shifts=SHIFTS | {"mixed": 0.3}
    )
    rows = [
        {"source": each.run.source, "licence": "ours, né 2026", "fingerprint": fingerprint({"run": str(each.run)})}
        for each in results.runs
    ]
    append([], rows, out)
    write_report(Analysis(results))
    return out


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture(params=[PHONE, DESK])
def page(study, browser, request):
    browser.open(study / "report.html", request.param)
    return browser


def test_the_page_requests_nothing_and_logs_no_error(page):
    reported = page.events
    asked = [params["request"]["url"] for name, params in reported if name == "Network.requestWillBeSent"]
    assert asked[0].startswith("file://")
    assert asked[0].endswith("report.html")
    assert all(url.startswith("data:") for url in asked[1:])
    complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
    assert [event for event in reported if event[0] in complaints] == []
    assert page.run("document.images.length") > 30
    assert page.run("Array.from(document.images).every((image) => image.naturalWidth > 0)")


def test_the_policy_of_the_page_blocks_requests_and_scripts(page):
    page.run("fetch('http://example.org/').catch(() => 0)")
    page.run("new Promise((done) => { const i = new Image(); i.onerror = done; i.src = 'https://example.org/a.png'; })")
    page.run("window.ran = 0; document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert page.run("window.ran") == 0
    tried = {
        params["requestId"]
        for name, params in page.events
        if name == "Network.requestWillBeSent" and "example" in params["request"]["url"]
    }
    stopped = {params["requestId"]: params for name, params in page.events if name == "Network.loadingFailed"}
    assert all(stopped[request].get("blockedReason") == "csp" for request in tried)


def test_the_page_fits_the_screen(page):
    width = page.run("innerWidth")
    page.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.run("document.documentElement.scrollWidth") <= width
    # Tables and figures stay within the screen; a wider table scrolls in its own box.
    wide = "Array.from(document.querySelectorAll('svg, img, p, li, figure, .wide, h2, pre, .download, .answer'))"
    shown = f"{wide}.map((e) => e.getBoundingClientRect()).filter((r) => r.width > 0)"
    assert page.run(f"{shown}.every((r) => r.left >= 0 && r.right <= {width} + 0.5)")


@pytest.mark.parametrize(("name", "columns"), [("kinds", 5), ("evaluations", 4), ("classes", 4), ("trends", 4)])
def test_what_decides_is_visible_on_a_phone_without_scrolling_sideways(page, name, columns):
    """Source, N, index, gain and verdict of the main table, and the numbers and verdicts of the others."""
    head = page.run(f"Array.from(document.querySelectorAll('table[data-name={name}] th'), (e) => e.textContent)")
    assert name != "kinds" or head[:columns] == ["source", "N", "shift index", "gain over untrained", "verdict"]
    rows = f"Array.from(document.querySelectorAll('table[data-name={name}] tr'))"
    edges = page.run(f"{rows}.map((row) => row.cells[{columns - 1}].getBoundingClientRect().right)")
    assert len(edges) > 5
    assert max(edges) <= page.run("innerWidth")


def test_every_figure_is_shown_once_with_letters_that_can_be_read(page):
    shown = "Array.from(document.querySelectorAll('svg')).filter((svg) => svg.getBoundingClientRect().width > 0)"
    assert page.run(f"{shown}.length") == 3
    sizes = page.run(
        f"{shown}.flatMap((svg) => Array.from(svg.querySelectorAll('text'), (text) => {{"
        " const m = text.getScreenCTM(); return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(m.a, m.b); }))"
    )
    assert len(sizes) > 40
    assert min(sizes) >= SMALLEST
    words = page.run(f"{shown}.map((svg) => svg.textContent).join(' ')")
    for part in ("diversity D", "shift index", "difference in points", "untrained encoder", "raw pixels", "bundled:mnist"):
        assert part in words
    # No label is cut off at its figure's edge.
    cut = page.run(
        f"{shown}.flatMap((svg) => {{ const box = svg.getBoundingClientRect();"
        " return Array.from(svg.querySelectorAll('text')).filter((text) => { const r = text.getBoundingClientRect();"
        " return r.left < box.left - 2 || r.right > box.right + 2; }).map((text) => text.textContent); })"
    )
    assert cut == []


def test_ids_are_unique(page):
    assert page.run("new Set(Array.from(document.querySelectorAll('[id]'), (e) => e.id)).size") == page.run(
        "document.querySelectorAll('[id]').length"
    )
    # Marks are drawn by reference: each must lead somewhere.
    assert page.run(
        "Array.from(document.querySelectorAll('use'), (e) => e.getAttribute('xlink:href'))"
        ".every((to) => document.getElementById(to.slice(1)))"
    )


COLUMN = """(() => {
  const table = document.querySelector('table[data-name="kinds"]');
  const at = Array.from(table.tHead.rows[0].cells).findIndex((cell) => cell.textContent.startsWith(%s));
  return {head: table.tHead.rows[0].cells[at], cells: Array.from(table.tBodies[0].rows, (row) => row.cells[at].textContent)};
})()"""


def column(page, name):
    return page.run(f"{COLUMN % json.dumps(name)}.cells")


def number(cell):
    return float(re.match(r"[+-]?[\d,.]+(e-?\d+)?", cell).group().replace(",", ""))


@pytest.mark.parametrize("name", ["N", "D", "E", "shift index", "linear %", "gain over untrained"])
def test_a_click_on_a_head_sorts_numbers_as_numbers(page, name):
    before = sorted(column(page, name))
    for direction in ("ascending", "descending"):
        page.run(f"{COLUMN % json.dumps(name)}.head.querySelector('button').click()")
        assert page.run(f"{COLUMN % json.dumps(name)}.head.getAttribute('aria-sort')") == direction
        cells = column(page, name)
        assert sorted(cells) == before
        said = [number(cell) for cell in cells if cell]
        assert said == sorted(said, reverse=direction == "descending")
        # Baselines, which have no N, stay at the end.
        assert cells.index("") == len(said) if "" in cells else True
    assert page.run("document.querySelectorAll('table[data-name=kinds] [aria-sort]').length") == 1


def test_words_are_sorted_and_the_keyboard_works_like_the_mouse(page):
    page.run(f"{COLUMN % json.dumps('source')}.head.querySelector('button').focus()")
    page.press("Enter", 13)
    cells = column(page, "source")
    assert cells == sorted(cells)
    assert page.run(f"{COLUMN % json.dumps('source')}.head.getAttribute('aria-sort')") == "ascending"


def test_tables_and_whole_results_can_be_downloaded(page, tmp_path, study):
    page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.run("document.querySelector('table[data-name=kinds]').closest('figure').querySelector('.download').click()")
    with page.wait_for(tmp_path / "kinds.csv").open() as file:
        lines = list(csv.reader(file))
    with (study / "tables/kinds.csv").open() as file:
        assert lines == list(csv.reader(file))
    for name in ("results.csv", "scores.csv"):
        text = page.run(f"atob(document.querySelector('a[download=\"{name}\"]').href.split(',')[1])")
        assert text.encode("latin-1").decode() == (study / name).read_text()


def test_on_paper_everything_but_long_tables_is_unfolded(page):
    folded = "Array.from(document.querySelectorAll('details:not([open]) > summary'), (e) => e.textContent)"
    before = page.run(folded)
    assert {"The command", "Versions, seeds and device", "Every run"} <= set(before)
    page.run("document.querySelectorAll('details')[1].querySelector('tbody').innerHTML = '<tr><td>1</td></tr>'.repeat(61)")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(folded) == ["Every run"]
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(folded) == before


def test_the_page_can_be_printed(page):
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 30_000


def test_a_screenshot_is_mostly_white_with_ink_on_it(page, tmp_path):
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        # The scroll bar is not in the picture.
        assert 0 <= page.run("innerWidth") - image.width < 20
        colours = image.convert("RGB").getcolors(2**24)
    assert max(colours)[1] == (255, 255, 255)
    assert len(colours) > 200

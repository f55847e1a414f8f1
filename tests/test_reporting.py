"""Tables, pages and figures, whatever they are about."""

import csv
import io
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from sslshift.reporting import Captioned, Picture, Table, csv_text, png_uri, print_table, render_page
from sslshift.reporting.figures import COLOURS, draw_forms, legend_below, look, panels, save, styled, svg_element
from sslshift.reporting.progress import LogLines

AWKWARD = Table("t", "T", ("source", "gain %"), (("a_b & c#|~^\\{x}", "-1.0 ± 0.5"), ("100% → <i>", "")), text_columns=1)
HARD = Table(
    "t", "T", ("source", "p"), (('[1] *a--b `q` "q"', "≤0.1"), ("*é ł 日本\x07\u200b", ""), *AWKWARD.lines), text_columns=1
)


def test_tables_escape_what_each_form_reads_otherwise():
    assert AWKWARD.markdown.splitlines()[2] == r"| a_b & c#\|~^\\{x} | -1.0 ± 0.5 |"
    tex = AWKWARD.latex
    assert r"a\_b \& c\#\textbar{}\textasciitilde{}\textasciicircum{}\textbackslash{}\{x\} & $-$1.0 $\pm$ 0.5 \\" in tex
    assert r"100\% $\to$ \textless{}i\textgreater{} &  \\" in tex
    assert all(rule in tex for rule in (r"\begin{tabular}{lr}", r"\toprule", r"\midrule", r"\bottomrule", "booktabs"))
    assert "<i>" not in AWKWARD.html
    assert "<td>&lt;0.001</td>" in Table("t", "T", ("p",), (("<0.001",),), text_columns=0).html
    assert "a:<wbr>b?<wbr>c=<wbr>1&amp;<wbr>d" in Table("t", "T", ("p",), (("a:b?c=1&d",),)).html
    assert list(csv.reader(AWKWARD.csv.splitlines()))[1:] == [list(line) for line in AWKWARD.lines]
    assert csv_text(AWKWARD.head, AWKWARD.lines) == AWKWARD.csv


def test_latex_takes_every_name():
    lines = HARD.latex.splitlines()
    assert r"{[}1] {*}a-{}-b {`}q{`} {''}q{''} & {\ifdefined\Umathchar ≤\else U+2264\fi}0.1 \\" in lines
    assert r"{*}é ł {\ifdefined\Umathchar 日本\else U+65E5 U+672C\fi}  &  \\" in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX on this machine")
def test_latex_compiles(tmp_path):
    text = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{HARD.latex}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "table"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_rows_have_as_many_cells_as_the_header():
    with pytest.raises(ValueError, match="expected 2 cells in every row, as in the header, got 1 in row 1"):
        Table("t", "T", ("a", "b"), (("1",),))


def test_columns_of_words_are_aligned_to_the_left():
    table = Table("t", "T", ("source", "N", "licence"), (("a", "1", "MIT"),), more_text=("licence",))
    assert table.markdown.splitlines()[1] == "| --- | ---: | --- |"
    assert r"\begin{tabular}{lrl}" in table.latex
    assert '<th scope="col" class="text">licence</th>' in table.html


def test_a_terminal_shows_cells_as_they_are():
    console = Console(width=60, record=True)
    print_table(Table("t", "The title", ("source", "p [x]"), (("[red]name", "0.5 [0.4, 0.6]"),)), console)
    said = console.export_text()
    for text in ("The title", "p [x]", "[red]name", "0.5 [0.4, 0.6]"):
        assert text in said


@pytest.fixture
def render(tmp_path, monkeypatch):
    """Renders the text of a template that extends the base of all pages."""
    (tmp_path / "room_of_a_test").mkdir()
    (tmp_path / "room_of_a_test/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def rendered(template, **values):
        start = '{% extends "reporting/page.html" %}{% import "reporting/macros.html" as show %}{% set title = "A <title>" %}'
        (tmp_path / "room_of_a_test/page.html").write_text(start + template)
        return render_page("room_of_a_test", "page.html", **values)

    yield rendered
    sys.modules.pop("room_of_a_test", None)


EVIL = '<script>alert("1")</script>'
PARTS = """
{% set about = [evil] %}
{% block body %}
{{ evil }}
{{ show.box("answer", evil, [evil]) }}
{{ show.bullets([evil]) }}
{{ show.section(table) }}
{% call show.details(evil) %}{{ evil }}{% endcall %}
{{ show.drawing(forms, evil) }}
{{ show.strip(pictures, evil) }}
{{ show.gallery(items) }}
{{ show.downloads({evil: evil}) }}
{% endblock %}
"""


def test_every_part_of_a_page_is_escaped(render):
    picture = Picture(png_uri(Image.new("L", (300, 20))), EVIL)
    text = render(
        PARTS,
        evil=EVIL,
        table=Table(EVIL, EVIL, (EVIL,), ((EVIL,),), EVIL),
        forms=(Markup("<svg></svg>"),),
        pictures=[picture],
        items=[Captioned([picture, picture], [EVIL, EVIL])],
    )
    assert text.count("<script>") == 1
    assert "alert(" in text
    assert "alert(" not in text.split("<script>")[1]
    assert "<title>A &lt;title&gt;</title>" in text
    assert "<svg></svg>" in text
    assert text.count("<img ") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_a_page_without_a_script_forbids_scripts(render):
    text = render("{% set sortable = false %}{% block body %}{% endblock %}")
    assert "<script" not in text
    assert "script-src 'none'" in text
    assert "default-src 'none'" in text
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", render("{% block body %}{% endblock %}"))


def test_a_misspelt_variable_is_an_error(render):
    with pytest.raises(jinja2.UndefinedError, match="anwser"):
        render("{% block body %}{{ anwser }}{% endblock %}", answer="")


def test_the_wheel_holds_every_part_of_every_page():
    root = Path(__file__).parents[1]
    included = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    parts = [path for kind in ("html", "css", "js") for path in (root / "sslshift").rglob(f"*.{kind}")]
    assert len(parts) >= 6
    for path in parts:
        package = ".".join(path.relative_to(root).parts[:-1])
        assert f"*{path.suffix}" in included.get(package, ()), path


def test_nothing_is_shown_of_empty_parts(render):
    body = '{{ show.box("answer", "A", []) }}{{ show.bullets([]) }}{{ show.section(none) }}{{ show.section(table) }}'
    text = render("{% block body %}" + body + "{% endblock %}", table=Table("t", "Nothing here", ("a",), ()))
    assert not any(part in text for part in ("<section", "<ul", "<table", "Nothing here"))


def test_pictures_become_smaller_and_keep_their_proportions():
    start = "data:image/png;base64,"
    assert png_uri(Image.new("RGB", (8, 4))).startswith(start)
    assert len(png_uri(Image.fromarray(np.random.default_rng(0).integers(0, 256, (999, 999), np.uint8)))) < 30_000


def drawing(width):
    with styled():
        found, (panel, _) = panels(2, width, height=1.5, below=1)
        panel.plot([1, 2], [1, 2], label="a line")
        legend_below(found, width)
    return found


def test_figures_have_both_forms_and_equal_ones_are_equal_files(tmp_path):
    first, second = (draw_forms(drawing, tmp_path / each, "f", element="f", label='"a" & b') for each in "ab")
    assert [path.name for path in first.files] == [
        f"f{wide}.{kind}" for wide in ("", "-wide") for kind in ("png", "pdf", "svg")
    ]
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]
    narrow, wide = first.svg
    assert narrow.startswith('<svg class="narrow" role="img" aria-label="&#34;a&#34; &amp; b"')
    assert 'class="wide-form"' in wide
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in first.svg]
    assert not set(ids[0]) & set(ids[1])
    with Image.open(first.files[0]) as image:
        assert image.width / 300 == pytest.approx(3.35, abs=0.01)
    assert draw_forms(lambda width: None, tmp_path, "g", element="g", label="g") == ((), ())


def test_colours_do_not_repeat_before_21_sources_and_looks_before_168():
    assert [look(number).colour for number in range(7)] == list(COLOURS)
    assert len({look(number).colour for number in range(21)}) == 21
    assert len({look(number) for number in range(168)}) == 168
    assert all(re.fullmatch("#[0-9A-F]{6}", look(number).colour) for number in range(21))


def test_an_svg_element_has_no_addresses(tmp_path):
    element = svg_element(save(drawing("narrow"), tmp_path, "f")[2].read_text(), "f", "label")
    assert element.startswith("<svg role")
    assert "<metadata" not in element
    assert "DOCTYPE" not in element


NOTEBOOK = """
import sys
import matplotlib
from pathlib import Path
matplotlib.use("template")
before = matplotlib.rcParams.copy()
import sslshift.study
from sslshift.reporting.figures import panels, save, styled
with styled():
    figure, _ = panels(1, "wide", height=2, below=0)
save(figure, Path(sys.argv[1]), "f")
assert matplotlib.get_backend() == "template"
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""


def test_a_notebook_keeps_its_backend_and_its_settings(tmp_path):
    done = subprocess.run([sys.executable, "-c", NOTEBOOK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.png").exists()


def test_drawing_leaves_the_style_of_others(tmp_path):
    before = matplotlib.rcParams.copy()
    save(drawing("wide"), tmp_path, "f")
    assert matplotlib.rcParams.copy() == before
    assert Figure().get_figwidth() == before["figure.figsize"][0]


def test_a_log_gets_a_line_with_the_time_left_now_and_then(monkeypatch):
    seconds = 0.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    out = io.StringIO()
    lines = LogLines(Console(file=out), done=100)
    for second in range(50):
        seconds = float(second)
        # Two images a second; 100 were there before.
        lines.show("reading", 100 + 2 * second, 300, "fast")
    assert out.getvalue().splitlines() == [
        "reading: 120 of 300, fast, about 2 min left",
        "reading: 160 of 300, fast, about 70 s left",
    ]
    seconds = 60.0
    lines.show("training", 50, 100)
    seconds = 80.0
    lines.show("training", 60, 100)
    seconds = 101.0
    lines.show("training", 80, None)
    # The second part has a speed of its own, and a part without an end has no time left.
    assert out.getvalue().splitlines()[2:] == ["training: 50 of 100", "training: 60 of 100, about 80 s left", "training: 80"]
    on_terminal = io.StringIO()
    LogLines(Console(file=on_terminal, force_terminal=True)).show("reading", 1, 2)
    assert on_terminal.getvalue() == ""

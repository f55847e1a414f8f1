"""Output for people: tables, pages and figures. This package knows nothing of studies and imports only `sslshift.storage`.

* `Table` (`table.py`) is a table of text cells with the properties `html`, `markdown`, `latex` and `csv`; `csv_text` writes
  files for programs, and `print_table` (`terminal.py`) shows a table on a terminal.
* `render_page` (`page.py`) renders a self-contained HTML page. `page.html` is the base of all pages, `macros.html` has the
  parts that they share, `page.css` is their style, and `page.js` sorts tables and offers them as CSV files.
* `figures` has the one style of matplotlib figures; import it inside functions that draw, since matplotlib is slow to import.
* `counting_images` (`progress.py`) shows the progress of a command that counts images.
* `versions` and `devices` (`environment.py`) describe the software and devices that computed a result.
* `Picture`, `Captioned` and `png_uri` (`pictures.py`) put images into a page.

A page is a template beside the module that renders it, for example `sslshift/shift/survey/page.html`::

    {% extends "reporting/page.html" %}
    {% import "reporting/macros.html" as show %}
    {% set title = "How far is each source from " ~ target ~ "?" %}
    {% set about = [summary] %}
    {% set sortable = false %}
    {% block style %}
    svg.chart { width: 100%; max-width: 38rem; }
    {% endblock %}
    {% block body %}
    {{ show.box("answer", "The answer", answer) }}
    {{ show.box("warning", "Warnings", warnings) }}
    <h2>How far each source is</h2>
    {{ chart }}
    {% for table in tables %}
    {{ show.section(table) }}
    {% endfor %}
    {{ show.gallery(examples) }}
    <h2>How to read this</h2>
    {{ show.bullets(notes) }}
    {% call show.details("Settings") %}{{ settings.html }}{% endcall %}
    {% endblock %}

and is rendered by one call::

    text = render_page(__package__, "page.html", target=name, summary=..., answer=..., warnings=..., chart=Markup(svg),
                       tables=[...], examples=[...], notes=..., settings=Table(...))

All text is escaped. HTML enters a page only as `markupsafe.Markup`, which `Table.html` and `figures.svg_element` return. To
build HTML by hand, use `Markup("<text>{}</text>").format(text)`, which escapes its arguments. A call that does not give every
variable of the template raises an error.

To change something, edit this file:
  a sentence of a page: the template of the page.
  the look of all pages: `page.css`; the look of all figures: `figures.py`.
  a part that several pages share: `macros.html`.
  a new page in another package: add `"its.package" = ["*.html"]` to `package-data` in pyproject.toml for the wheel.
"""

from sslshift.reporting.page import render_page
from sslshift.reporting.pictures import Captioned, Picture, png_uri
from sslshift.reporting.table import Table, csv_text
from sslshift.reporting.terminal import print_table, say

__all__ = ["Captioned", "Picture", "Table", "csv_text", "png_uri", "print_table", "render_page", "say"]

"""Self-contained HTML pages, rendered from a template that escapes all text by default."""

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

# Other packages refer to templates of this package as `reporting/NAME`, so that their own `page.html` does not extend itself.
_PREFIX = "reporting"


def render_page(package: str, template: str, **values: Any) -> str:
    """Renders a template of a package that extends `reporting/page.html`.

    See the docstring of `sslshift.reporting` for an example. All text is escaped; only `markupsafe.Markup`, which `Table.html`
    and `figures.svg_element` return, is inserted as HTML.

    Args:
      package: name of the package, usually `__package__`.
      template: name of the file in the package, which `package-data` in pyproject.toml must include.
      **values: variables of the template.

    Returns:
      The page. It loads nothing from any server, and its Content-Security-Policy forbids such requests.

    Raises:
      jinja2.UndefinedError: the template uses a variable that was not given.
    """
    script = _part("page.js")
    # The policy allows only the script with this hash: no script in the text of a page can run.
    return (
        _environment(package)
        .get_template(template)
        .render(
            values,
            page_style=Markup(_part("page.css")),
            page_script=Markup(script),
            page_script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        )
    )


def _environment(package: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PrefixLoader({_PREFIX: _loader(__package__)}), _loader(package)]),
        autoescape=True,
        # A misspelt variable is an error; by default it would be an empty string.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    return environment


def _loader(package: str) -> jinja2.FunctionLoader:
    # `jinja2.PackageLoader` expects templates in a separate folder; here they are beside the module that renders them.
    folder = resources.files(package)
    return jinja2.FunctionLoader(
        lambda name: (folder / name).read_text(encoding="utf-8") if (folder / name).is_file() else None
    )


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")

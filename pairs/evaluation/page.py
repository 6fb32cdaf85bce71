"""What the pages to click through share: a template, data in a script, tables.

A page is one file. It needs no network and forbids itself any. Names of classes
and files are data in it, never markup.
"""

import html
import json
import pathlib
import string
from collections.abc import Sequence
from typing import Any


def fill_template(name: str, **values: str) -> str:
    """A page from a template beside this module.

    Args:
        name: of the template. Its `$head`, `$style` and `$helpers` are page_head.html,
            page.css and page.js.
        values: of its other names; HTML.
    """
    folder = pathlib.Path(__file__).parent
    template, head, style, helpers = (
        (folder / file).read_text(encoding="utf-8").rstrip()
        for file in (name, "page_head.html", "page.css", "page.js")
    )
    return string.Template(template).substitute(head=head, style=style, helpers=helpers, **values)


def script_json(data: Any) -> str:
    """JSON that cannot end the `<script>` element that it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = ()) -> str:
    """An HTML table; cells are escaped, unless they are `Markup`."""

    def cell(tag, column, content):
        text = content if isinstance(content, Markup) else html.escape(str(content))
        return f'<{tag} class="n">{text}</{tag}>' if column in numeric else f"<{tag}>{text}</{tag}>"

    lines = [("th", header), *(("td", row) for row in rows)]
    return (
        '<table class="list">'
        + "".join(
            f"<tr>{''.join(cell(tag, column, text) for column, text in enumerate(line))}</tr>"
            for tag, line in lines
        )
        + "</table>"
    )


class Markup(str):
    """Text that is HTML already."""

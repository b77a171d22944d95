"""report.html: a page that loads nothing and runs nothing, in the light or dark that its reader has chosen."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

#: pixels of a figure's file that become one pixel of the page: sharp on a display of twice the density
DENSITY = 2
#: what figures are to be saved with
DPI = 110 * DENSITY

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --line: #e6e6e6; --paper: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a3a8ad; --line: #3a3d41; --paper: #17191c } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1140px;
  margin: 2rem auto; padding: 0 1rem }
h1, figcaption { overflow-wrap: anywhere } p { max-width: 50rem } .soft, figcaption { color: var(--soft) }
.row { display: grid; gap: 1.5rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)) }
.wide { grid-column: 1 / -1 }
figure { margin: 0; min-width: 0 } figcaption { font-size: 14px; margin-top: .25rem }
img { display: block; max-width: 100%; height: auto; border-radius: 6px }
.table { max-height: 27rem; overflow: auto; font-size: 14px; font-variant-numeric: tabular-nums }
table { border-spacing: 0; width: 100% } th, td { padding: .25rem .5rem; text-align: right }
th:first-child { text-align: left; font-weight: inherit; min-width: 5rem; overflow-wrap: anywhere }
thead th, thead th:first-child { position: sticky; top: 0; background: var(--paper); font-weight: 600;
  border-bottom: 2px solid var(--ink) }
tbody th, tbody td { border-bottom: 1px solid var(--line) } tbody tr:first-child { font-weight: 600 }
@media print { .table { max-height: none } figure, tr { break-inside: avoid } }
"""
# The browser itself refuses whatever else a name of a class or of a file might bring in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file; the parts are HTML."""
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style>",
    ]
    body = [f"<h1>{html.escape(title)}</h1>", *parts]
    return "\n".join(["<!doctype html>", '<html lang="en"><head>', *head, "</head><body>", *body, "</body></html>", ""])


def row(*parts: str) -> str:
    """Side by side where there is room."""
    return "\n".join(['<div class="row">', *parts, "</div>"])


def figure(path: Path, alt: str, caption: str = "") -> str:
    """A picture that was saved with ``DPI``, inside the page."""
    kind = {".png": "png", ".jpg": "jpeg"}[path.suffix]
    with Image.open(path) as image:
        width, height = (round(side / DENSITY) for side in image.size)
    content = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" src="data:image/{kind};base64,{content}">'
    told = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    is_wide = ' class="wide"' if width > 600 else ""
    return f"<figure{is_wide}>{image}{told}</figure>"


def table(head: Sequence[str], *rows: Sequence) -> str:
    """A name and figures in each row; the first has those of all. It scrolls where it is long."""
    lines = ["<thead><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr></thead>", "<tbody>"]
    for name, *values in rows:
        cells = "".join(f"<td>{_number(value)}</td>" for value in values)
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return "\n".join(['<div class="table" tabindex="0"><table>', *lines, "</tbody></table></div>"])


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if math.isnan(value) else f"{value:.1f}"

"""One self-contained HTML page: texts, tables and pictures in the order they are given."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landslip import __version__
from landslip.geo.output import whole_file

LARGE_BYTES = 500_000
"""Size of a PNG file above which a page takes it as JPEG (bytes)."""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid #ddd; }
td { font-variant-numeric: tabular-nums; } td:not(:first-child) { white-space: pre; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption, footer { color: #666; font-size: .88rem; }
@media print { body { margin: 0; max-width: none; } section { break-inside: avoid; } }
</style>
<h1>{{ title }}</h1>
{% for section in sections %}<section>
<h2>{{ section.heading }}</h2>
{% for text in section.paragraphs %}<p>{{ text }}</p>
{% endfor %}{% if section.table %}<table>
<tr>{% for cell in section.table[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in section.table[1:] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endif %}{% if section.picture %}<figure>
<img src="{{ encoded(section.picture) }}" alt="{{ section.heading }}">
{% if section.caption %}<figcaption>{{ section.caption }}</figcaption>{% endif %}
</figure>
{% endif %}</section>
{% endfor %}<footer>Made by landslip {{ version }}.</footer>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report."""

    heading: str
    """Above it."""
    paragraphs: Sequence[str] = ()
    """Plain text; it is escaped."""
    table: Sequence[Sequence[str]] = ()
    """Rows of cells; the first is the header."""
    picture: Path | None = None
    """A PNG file, taken into the page."""
    caption: str = ""
    """Below the picture."""


def write_report(
    path: Path, title: str, sections: Sequence[Section], *, overwrite: bool = False
) -> None:
    """Write a page that needs no other file and no network.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True, keep_trailing_newline=True).from_string(_PAGE)
    text = template.render(title=title, sections=sections, encoded=_encoded, version=__version__)
    with whole_file(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def _encoded(picture: Path) -> str:
    """A picture as text; large ones, which show imagery, as JPEG, a tenth of the size."""
    content, kind = picture.read_bytes(), "png"
    if len(content) > LARGE_BYTES:
        from PIL import Image

        file = io.BytesIO()
        with Image.open(picture) as image:
            image.convert("RGB").save(file, "jpeg", quality=88)
        content, kind = file.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"

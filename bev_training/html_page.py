"""HTML pages that need no other file: style, tables, figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; background: #fff;
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
h1, h2 { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .87rem; display: block;
  overflow-x: auto; }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #e4e6e9;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child, .left, th:first-child, .findings td, .findings th { text-align: left; }
.findings td { white-space: normal; vertical-align: top; }
.findings td.tag { white-space: nowrap; font-weight: 600; }
.error { color: #b3261e; } .warning { color: #9a5b00; } .info { color: #55606e; }
.advice, .note { color: #55606e; font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .87rem; }
dt { color: #55606e; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f5f6f8; padding: .6rem .8rem; font-size: .82rem; overflow-x: auto; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #55606e; font-size: .85rem; }
.plots { display: flex; flex-wrap: wrap; gap: .8rem 1.2rem; margin: .8rem 0; }
.plots img { flex: none; } .sheet { overflow-x: auto; } .sheet img { min-width: 60rem; }
 summary { cursor: pointer; color: #55606e; font-size: .87rem; }
"""


def page(title: str, body: str) -> str:
    """Return a page; `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>'
        f'{body}</body></html>\n'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
    """Return a table that scrolls sideways where it is too wide.

    Args:
        head: the first row.
        rows: all others, as wide as the first.
        left: columns that are aligned left; the first one is anyway.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        opened = [f'<{tag} class="left">' if i in left else f'<{tag}>' for i in range(len(cells))]
        return (
            '<tr>'
            + ''.join(f'{o}{html.escape(c)}</{tag}>' for o, c in zip(opened, cells, strict=True))
            + '</tr>'
        )

    return f'<table>{row(head, "th")}{"".join(row(cells, "td") for cells in rows)}</table>'


def figure(caption: str, data: bytes, kind: str = 'png', *, sheet: bool = False) -> str:
    """Return a picture with its caption.

    Args:
        caption: below it.
        data: of the file.
        kind: 'png' or 'jpeg'.
        sheet: it is full of small things: on a narrow screen it scrolls instead of shrinking.
    """
    return (
        f'<figure{" class=sheet" if sheet else ""}>{_image(caption, data, kind)}'
        f'<figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def plot_row(plots: Sequence[tuple[str, bytes]]) -> str:
    """Return small SVGs beside each other, as many as fit; each is (what it shows, data)."""
    images = ''.join(_image(what, data, 'svg+xml') for what, data in plots)
    return f'<div class="plots">{images}</div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and what they are, below each other."""
    rows = ''.join(f'<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>' for k, v in pairs)
    return f'<dl>{rows}</dl>'


def paragraph(text: str, kind: str = '') -> str:
    """Return a paragraph; `kind` is a class of the style, such as 'note'."""
    opened = f'<p class="{kind}">' if kind else '<p>'
    return f'{opened}{html.escape(text)}</p>'


def heading(text: str, level: int = 2) -> str:
    """Return the heading of a page (1) or a section (2)."""
    return f'<h{level}>{html.escape(text)}</h{level}>'


def folded(title: str, content: str) -> str:
    """Return what a reader unfolds with a click; `content` is HTML."""
    return f'<details><summary>{html.escape(title)}</summary>{content}</details>'


def preformatted(text: str) -> str:
    """Return text with its lines and spaces as they are."""
    return f'<pre>{html.escape(text)}</pre>'


def _image(what: str, data: bytes, kind: str) -> str:
    inside = base64.b64encode(data).decode('ascii')
    return f'<img alt="{html.escape(what)}" src="data:image/{kind};base64,{inside}">'

"""Pieces of the page as HTML text. Every value that comes from outside is escaped here."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from pixelcontrast.words import STATES

_CONFIG = {"responsive": True, "displaylogo": False, "displayModeBar": False, "scrollZoom": False}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table's cell: what is read, and by what it is sorted."""

    html: str
    sort: float | str | None = None
    """None: nothing to sort by; such rows come last."""
    is_number: bool = False


def text(value: object) -> str:
    return escape(str(value))


def cell(value: object) -> Cell:
    return Cell(html=text(value), sort=str(value))


def number(shown: str, value: float | None) -> Cell:
    return Cell(html=text(shown), sort=value, is_number=True)


def state(name: str) -> str:
    return f'<span class="state {text(name.lower())}">{text(STATES.get(name, name.lower()))}</span>'


def section(title: str, *parts: str) -> str:
    """A part of the page with a heading, which the list of contents names; empty without parts."""
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    return f'<section id="{_anchor(title)}"><h2>{text(title)}</h2>\n{content}\n</section>'


def paragraph(words: str, *, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def cards(values: Sequence[tuple[str, str, str]], *, accent: bool = False) -> str:
    """(what, value, remark) side by side; the first may be set off."""
    items = [
        f"<div><dt>{text(what)}</dt><dd>{text(value)}</dd><dd>{text(remark)}</dd></div>"
        for what, value, remark in values
    ]
    return f'<dl class="cards{" accent" if accent else ""}">{"".join(items)}</dl>'


def facts(values: Mapping[str, object]) -> str:
    """Names and values, one below the other."""
    rows = [f"<tr><th scope=row>{text(key)}</th><td>{text(value)}</td></tr>" for key, value in values.items()]
    return _scrolled(f'<table class="facts">{"".join(rows)}</table>', "values")


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    label: str,
    sortable: bool = False,
    strong: int | None = None,
) -> str:
    """A table that scrolls in its own box.

    Args:
        label: what it holds, for screen readers.
        sortable: by a click on a head, or the keyboard.
        strong: index of a row to set off.
    """
    content = [list(row) for row in rows]
    body = [
        f'<tr class="strong">{_cells(row)}</tr>' if index == strong else f"<tr>{_cells(row)}</tr>"
        for index, row in enumerate(content)
    ]
    numeric = [bool(content) and content[0][column].is_number for column in range(len(heads))]
    titles = [
        f"<th scope=col{' class=number' if right else ''}>{_head(head, sortable)}</th>"
        for head, right in zip(heads, numeric, strict=True)
    ]
    kind = ' class="sortable"' if sortable else ""
    return _scrolled(
        f"<table{kind}><thead><tr>{''.join(titles)}</tr></thead><tbody>{''.join(body)}</tbody></table>", label
    )


def figure(plot: go.Figure, *, name: str, label: str, wide: bool = False) -> str:
    """A plot that fits the page's width; a wide one scrolls in its own box on a narrow screen."""
    inner = plot.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG, div_id=f"plot-{name}")
    kind = "plot wide" if wide else "plot"
    focus = " tabindex=0" if wide else ""
    return f'<div class="{kind}" role="group" aria-label="{text(label)}"{focus}>{inner}</div>'


def grid(plots: Sequence[tuple[str, go.Figure]], *, name: str, label: str) -> str:
    """Small titled plots side by side, as many in a row as the page has room for: one picture."""
    cells = [
        f"<div><h4>{text(title)}</h4>{figure(plot, name=f'{name}-{number}', label=title)}</div>"
        for number, (title, plot) in enumerate(plots)
    ]
    return (
        f'<div class="plots" id="{text(name)}" role="group" aria-label="{text(label)}">{"".join(cells)}</div>'
    )


def picture(png: bytes, *, label: str) -> str:
    content = base64.b64encode(png).decode()
    return f'<div class="picture"><img alt="{text(label)}" src="data:image/png;base64,{content}"></div>'


def command_line(line: str) -> str:
    return f'<pre class="command" tabindex=0><code>{text(line)}</code></pre>'


def folded(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{text(title)}</summary>\n{content}\n</details>"


def link(name: str, shown: str) -> str:
    return f'<a href="{text(name)}">{text(shown)}</a>'


def page(title: str, *, lead: str, sections: Sequence[str]) -> str:
    """The whole file: nothing in it is loaded from elsewhere."""
    shown = [part for part in sections if part]
    places = files("pixelcontrast.reports")
    plotly = f"<script>{get_plotlyjs()}</script>" if any('class="plot' in part for part in shown) else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{places.joinpath("page.css").read_text()}</style>
<script>window.PlotlyConfig = {{MathJaxConfig: "local"}};</script>
{plotly}
</head>
<body>
<header>
{lead}
{_contents(shown)}
</header>
<main>
{chr(10).join(shown)}
</main>
<script>{places.joinpath("table.js").read_text()}</script>
</body>
</html>
"""


def _contents(sections: Sequence[str]) -> str:
    links = []
    for part in sections:
        anchor, _, rest = part.removeprefix('<section id="').partition('"><h2>')
        links.append(f'<a href="#{anchor}">{rest.partition("</h2>")[0]}</a>')
    return f'<nav aria-label="Contents">{"".join(links)}</nav>'


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _head(title: str, sortable: bool) -> str:
    return f"<button type=button>{text(title)}</button>" if sortable else text(title)


def _cells(row: Sequence[Cell]) -> str:
    return "".join(
        f"<td{' class=number' if cell.is_number else ''}"
        + (f' data-sort="{text(cell.sort)}"' if cell.sort is not None else "")
        + f">{cell.html}</td>"
        for cell in row
    )


def _scrolled(content: str, label: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex=0>{content}</div>'

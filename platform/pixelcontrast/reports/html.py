"""Pieces of the page, rendered by Jinja's templates, which escape every value that is not a piece itself."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pixelcontrast.words import STATES

_PLOT = {"responsive": True, "displaylogo": False, "displayModeBar": False, "scrollZoom": False}
_TEMPLATES = Environment(
    loader=PackageLoader("pixelcontrast.reports"), autoescape=True, undefined=StrictUndefined
)
_PIECES = _TEMPLATES.get_template("pieces.html").module
NOTHING_TO_SHOW = Markup()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table's cell: what is read, and by what it is sorted."""

    content: str
    """Text, or a piece."""
    sort: float | str | None = None
    """None: nothing to sort by; such rows come last."""
    is_number: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, which the list of contents names; left out where it is empty."""

    title: str
    content: Markup

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True, kw_only=True)
class Lead:
    """The page's head."""

    kicker: str
    """What kind of page it is."""
    title: str
    words: str
    location: str
    written: str


def page(title: str, *, lead: Lead, sections: Iterable[Section]) -> str:
    """The whole file: nothing in it is loaded from elsewhere."""
    shown = [section for section in sections if section.content]
    has_plots = any('class="plot' in section.content for section in shown)
    plotly = Markup(get_plotlyjs()) if has_plots else None
    return _TEMPLATES.get_template("page.html").render(title=title, lead=lead, sections=shown, plotly=plotly)


def join(*pieces: Markup) -> Markup:
    """Pieces one below the other; empty ones are left out."""
    return Markup("\n").join(piece for piece in pieces if piece)


def cell(value: object) -> Cell:
    return Cell(content=str(value), sort=str(value))


def number(shown: str, value: float | None) -> Cell:
    return Cell(content=shown, sort=value, is_number=True)


def state(name: str) -> Markup:
    """A trial's state with its colour."""
    return _render("state", name.lower(), STATES.get(name, name.lower()))


def with_detail(value: str, detail: str) -> Markup:
    """A value, and smaller beside it what belongs to it."""
    return _render("with_detail", value, detail)


def heading(words: str) -> Markup:
    """A heading within a section."""
    return _render("heading", words)


def paragraph(words: str, *, kind: str = "") -> Markup:
    return _render("paragraph", words, kind)


def cards(values: Sequence[tuple[str, str, str]], *, accent: bool = False) -> Markup:
    """(what, value, remark) side by side; the first may be set off."""
    return _render("cards", values, accent)


def facts(values: Mapping[str, object]) -> Markup:
    """Names and values, one below the other."""
    return _render("facts", values.items())


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    label: str,
    sortable: bool = False,
    strong: int | None = None,
) -> Markup:
    """A table that scrolls in its own box.

    Args:
        label: what it holds, for screen readers.
        sortable: by a click on a head, or the keyboard.
        strong: index of a row to set off.
    """
    return _render("table", heads, list(rows), label, sortable, strong)


def figure(plot: go.Figure, *, name: str, label: str, min_width: int = 0) -> Markup:
    """A plot that fits the page's width.

    Args:
        min_width: in pixels; where the page is narrower, the plot scrolls in its own box.
    """
    # plotly escapes what it puts into its script
    inner = plot.to_html(full_html=False, include_plotlyjs=False, config=_PLOT, div_id=f"plot-{name}")
    return _render("figure", Markup(inner), label, min_width)


def grid(plots: Sequence[tuple[str, go.Figure]], *, name: str, label: str) -> Markup:
    """Small titled plots side by side, as many in a row as the page has room for: one picture."""
    figures = [
        (title, figure(plot, name=f"{name}-{index}", label=title))
        for index, (title, plot) in enumerate(plots)
    ]
    return _render("grid", figures, name, label)


def picture(png: bytes, *, label: str) -> Markup:
    return _render("picture", base64.b64encode(png).decode(), label)


def drawing(png: bytes, *, label: str) -> Markup:
    """A picture with text in it: no larger than it is, scrolled where the page is too narrow to read it."""
    return _render("drawing", base64.b64encode(png).decode(), label)


def command_line(line: str) -> Markup:
    return _render("command_line", line)


def folded(title: str, content: Markup, *, opened: bool = False) -> Markup:
    return _render("folded", title, content, opened)


def downloads(rows: str, files: Sequence[str]) -> Markup:
    """Which files beside the page have the same rows."""
    return _render("downloads", rows, files)


def _render(piece: str, *values: object) -> Markup:
    """One macro of ``pieces.html``."""
    return getattr(_PIECES, piece)(*values)

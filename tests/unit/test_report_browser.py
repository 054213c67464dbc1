"""The report as a reader opens it: from the disk, in a browser, wide and narrow, without a network."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

import browser
from pixelcontrast import Search, config
from pixelcontrast.reports import html, parallel, write_report
from searches import ARMS, SPACE, experiment, run_search

INK_AND_PAPER = ("color", "backgroundColor")
LONG = "a-name-without-any-place-to-break-it-" * 3


@pytest.fixture(scope="module")
def reports(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = tmp_path_factory.mktemp("browser") / LONG
    settings = experiment(scenes, runs)
    run_search(settings, Search(space=SPACE, trials=3, name="space"))
    few = config.replace(settings, {"optim.steps": 2})
    run_search(few, Search(arms=ARMS, seeds=(0,), name="arms"), arms=True, limit=2)
    places = {"search": "space", "arms": "arms", "run": "space/trial-0000"}
    return {kind: Path(write_report(str(runs / place))) for kind, place in places.items()}


@contextmanager
def opened(report: Path, *, width: int, scheme: Literal["light", "dark"] = "light") -> Iterator[Page]:
    """The report in a browser; at the end nothing was fetched from anywhere, and nothing went wrong."""
    wrong: list[str] = []
    with browser.page(width=width, scheme=scheme) as page:
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if is_remote(request.url) else None)
        page.set_default_timeout(20_000)
        page.goto(report.as_uri())
        yield page
    assert wrong == []


def is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


@pytest.mark.parametrize(("kind", "plots"), [("search", 4), ("arms", 2), ("run", 12)])
def test_it_fits_and_its_plots_are_drawn(reports: dict[str, Path], kind: str, plots: int) -> None:
    with opened(reports[kind], width=1280) as page:
        assert page.locator(".js-plotly-plot").count() == plots
        assert_fits(page, plots, width=1280)
        loaded = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
        assert page.evaluate(loaded) == [True] * page.locator(".picture img").count()
        page.set_viewport_size({"width": 390, "height": 844})
        page.reload()
        assert_fits(page, plots, width=390)


def assert_fits(page: Page, plots: int, *, width: int) -> None:
    """Nothing is wider than the window, also with all that is folded open; plots are drawn, and fill it."""
    page.wait_for_function(
        "count => [...document.querySelectorAll('.js-plotly-plot')]"
        ".filter(plot => plot.querySelector('.main-svg')).length === count",
        arg=plots,
    )
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "pictures => pictures.filter(picture => picture.getBoundingClientRect().right > innerWidth).length"
    assert page.locator(".picture img").evaluate_all(cut) == 0
    drawn = page.locator(".plot:not(.wide, .plots *)").evaluate_all(
        "plots => plots.map(plot => plot.querySelector('.main-svg').getBoundingClientRect().width)"
    )
    assert all(0.8 * width <= found <= width for found in drawn)


@pytest.mark.parametrize("width", [1280, 390])
def test_titles_of_the_parallel_coordinates_do_not_touch(reports: dict[str, Path], width: int) -> None:
    """Those of a space with the longest names and as many settings as the experiments search."""
    keys = ["contrast.anchors_per_class", "contrast.negative_mining", "contrast.semi_hard_share"] * 4
    axes = [parallel.axis_of(key, {"low": 0.1, "high": 1.0, "log": False}, [0.2, 0.9]) for key in keys] + [
        parallel.objective_axis("mIoU, %", [0.1, 0.2])
    ]
    plot = parallel.parallel(axes, ["a", "b"], best=0)
    piece = html.figure(plot, name="p", label="p", min_width=parallel.width(axes))
    lead = html.Lead(kicker="", title="", words="", location="", written="")
    written = reports["run"].with_name(f"parallel-{width}.html")
    written.write_text(html.page("p", lead=lead, sections=[html.Section("P", piece)]))
    with opened(written, width=width) as page:
        boxes = page.locator(
            ".annotation-text:has-text('_'), .annotation-text:has-text('mIoU')"
        ).evaluate_all(
            "titles => titles.map(title => title.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert len(boxes) == len(axes)
        boxes.sort()
        assert all(left[1] < right[0] for left, right in itertools.pairwise(boxes))
        frame = page.locator("#plot-p").evaluate(
            "plot => [plot.getBoundingClientRect().left, plot.getBoundingClientRect().right]"
        )
        assert frame[0] <= boxes[0][0]
        assert boxes[-1][1] <= frame[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_in_figures_can_be_read_in_either_scheme(
    reports: dict[str, Path], scheme: Literal["light", "dark"]
) -> None:
    with opened(reports["run"], width=390, scheme=scheme) as page:
        ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in INK_AND_PAPER)
        assert ink != paper
        for kind in (".bartext", ".heatmap-label text"):
            fills = page.locator(f".js-plotly-plot {kind}").evaluate_all(
                "texts => texts.map(text => getComputedStyle(text).fill)"
            )
            assert set(fills) == {ink}


def column(page: Page, head: str) -> list[str]:
    """The cells of the trials' table below a head, from top to bottom."""
    return page.locator("#trials table").evaluate(
        """(table, head) => {
            const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.innerText.trim() === head);
            return [...table.tBodies[0].rows].map((row) => row.cells[column].innerText);
        }""",
        head,
    )


def test_a_head_sorts_by_click_and_by_keyboard(reports: dict[str, Path]) -> None:
    with opened(reports["search"], width=1280) as page:
        names = column(page, "trial")
        assert names == ["trial-0000", "trial-0001", "trial-0002"]
        head = page.get_by_role("columnheader", name="mIoU, %", exact=True).first
        assert head.get_attribute("aria-sort") is None
        head.get_by_role("button").click()
        falling = [float(value) for value in column(page, "mIoU, %")]
        assert falling == sorted(falling, reverse=True)
        assert head.get_attribute("aria-sort") == "descending"
        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert [float(value) for value in column(page, "mIoU, %")] == sorted(falling)
        assert head.get_attribute("aria-sort") == "ascending"
        page.get_by_role("button", name="trial", exact=True).click()
        assert column(page, "trial") == names
        assert page.locator("[aria-sort]").count() == 1


def test_numbers_sort_as_numbers_and_what_is_missing_comes_last(
    reports: dict[str, Path], tmp_path: Path
) -> None:
    page_text = reports["search"].read_text()
    start = page_text.index("<tbody>") + len("<tbody>")
    rows = "".join(
        f'<tr><td data-sort="{name}">{name}</td><td></td><td class=number {sort}></td></tr>'
        for name, sort in [
            ("c", 'data-sort="9"'),
            ("a", ""),
            ("b", 'data-sort="10"'),
            ("d", 'data-sort="1e-05"'),
        ]
    )
    changed = tmp_path / "changed.html"
    changed.write_text(page_text[:start] + rows + page_text[page_text.index("</tbody>") :])
    with opened(changed, width=1280) as page:
        button = page.locator("#trials thead button").nth(2)
        button.click()
        assert column(page, "trial") == ["b", "c", "d", "a"]
        button.click()
        assert column(page, "trial") == ["d", "c", "b", "a"]

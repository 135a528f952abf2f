"""The documentation site in a real browser, opened from its folder, with every way out barred."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from documentation import HEIGHTS, shared_site

WIDTHS = (1280, 400)
BETWEEN = (800, 1000, 1024, 1320, 1600)  # where lists beside the text come and go


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_site(tmp_path_factory)


@pytest.fixture
def reader(chromium: Any, site: Path) -> Iterator[Callable[..., Any]]:
    "Open a page of the site; afterwards insist that nothing complained and nothing was asked of a network."
    complaints: list[str] = []
    contexts = []

    def open_page(name: str, width: int = 1280, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.route("http*://**", lambda route: (complaints.append(f"asked for {route.request.url}"), route.abort()))
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, complaints


def at_rest(page: Any) -> None:
    "Wait until formulas are set and figures drawn."
    page.wait_for_load_state("load")
    page.evaluate("async () => { if (window.MathJax?.startup) await MathJax.startup.promise; }")
    page.wait_for_function("() => [...document.querySelectorAll('.plotly-figure')].every(f => f.classList.contains('js-plotly-plot'))")


def portrait(page: Any, name: str) -> None:
    "A screenshot to be looked at, where one is asked for."
    if os.environ.get("IVDR_SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["IVDR_SCREENSHOTS"]) / f"docs-{name}.png")


@pytest.mark.parametrize("width", WIDTHS)
def test_reading_from_the_first_page_to_the_last(reader: Callable[..., Any], site: Path, width: int) -> None:
    page, seen = reader("index.html", width, color_scheme="dark" if width == 400 else "light"), list[str]()
    while True:
        at_rest(page)
        name = page.url.split("#")[0].removeprefix(f"{site.as_uri()}/")
        seen.append(name)
        portrait(page, f"{name.removesuffix('.html').replace('/', '-')}-{width}")
        too_wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert too_wide <= 0, f"{name} is {too_wide} pixels wider than a window of {width}"
        assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, f"a formula of {name} is not understood"
        if not (onward := page.locator("a.next-page")).count():
            break
        with page.expect_navigation():
            onward.click()
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"search.html", "genindex.html", "py-modindex.html"}
    assert len(seen) == len(set(seen)) and set(seen) == pages


@pytest.mark.parametrize("width", BETWEEN)
def test_text_and_lists_stand_side_by_side(reader: Callable[..., Any], width: int) -> None:
    page = reader("07_shuffle_rank.html", width)
    at_rest(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator("article").bounding_box()["width"] >= min(40 * 16, width - 50)
    portrait(page, f"between-{width}")


def test_the_list_of_lessons_opens_on_a_phone(reader: Callable[..., Any]) -> None:
    page = reader("index.html", 400)
    lesson = page.locator(".sidebar-tree a", has_text="07 shuffle_rank")
    assert lesson.bounding_box()["x"] < 0, "the list is folded away at first"
    unfold(page)
    portrait(page, "list-400")
    lesson.click()
    page.wait_for_url("**/07_shuffle_rank.html")
    assert page.locator("h1").inner_text().startswith("shuffle_rank")


def unfold(page: Any) -> None:
    "Open the list of pages, which is folded away where there is no room for it."
    if page.locator(".sidebar-drawer").bounding_box()["x"] < 0:
        page.locator("header .nav-overlay-icon").click()
        page.wait_for_function("() => document.querySelector('.sidebar-drawer').getBoundingClientRect().x >= 0")


@pytest.mark.parametrize("width", WIDTHS)
def test_search_finds_a_name(reader: Callable[..., Any], width: int) -> None:
    page = reader("index.html", width)
    unfold(page)
    page.locator("input[name=q]").fill("shuffle_rank")
    page.locator("input[name=q]").press("Enter")
    page.wait_for_selector("ul.search li a[href*='ivdr.shuffle_rank.shuffle_rank']")
    page.wait_for_selector("ul.search li a[href^='07_shuffle_rank.html']")
    portrait(page, f"search-{width}")
    page.locator("ul.search li a[href*='ivdr.shuffle_rank.shuffle_rank']").first.click()
    page.wait_for_url("**/api/shuffle_rank.html*")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_figure_moves_by_its_own_slider(reader: Callable[..., Any], width: int) -> None:
    page = reader("walkthroughs/99_specimen.html", width)
    at_rest(page)
    figure = page.locator(".plotly-figure")
    height = "() => Number(document.querySelector('.plotly-figure').data[0].y[1])"
    assert page.evaluate(height) == HEIGHTS[0] and figure.get_attribute("aria-label") == "a line that a slider lifts"
    drawn = "() => document.querySelector('.plotly-figure .scatterlayer path.js-line').getAttribute('d')"
    before = page.evaluate(drawn)
    figure.scroll_into_view_if_needed()
    rail = figure.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(rail["x"] + rail["width"] - 8, rail["y"] + rail["height"] / 2)
    page.wait_for_function(f"({height})() === {HEIGHTS[-1]}")
    page.wait_for_function("before => document.querySelector('.plotly-figure .scatterlayer path.js-line').getAttribute('d') !== before", arg=before)
    portrait(page, f"slider-{width}")


def test_light_and_dark(reader: Callable[..., Any]) -> None:
    page = reader("07_shuffle_rank.html", color_scheme="light")
    paint = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paint) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(paint)
    assert sum(int(part) for part in dark.removeprefix("rgb(").removesuffix(")").split(",")) < 150, dark
    page.emulate_media(color_scheme="light")
    toggle = page.locator("button.theme-toggle:visible").first
    for _ in range(3):
        toggle.click()
        if page.evaluate(paint) == dark:
            return
    pytest.fail("the switch does not darken the page")

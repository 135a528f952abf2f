"""Each walkthrough in a real JupyterLab, run whole: every picture is seen, everything that can be moved moves, and nothing complains."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
WALKTHROUGHS = sorted((ROOT / "nbs" / "walkthroughs").glob("[0-9]*.ipynb"))
LEFT_OUT = re.compile(r"^#\s*\|\s*(notest|slow|cuda|eval:\s*false)\b", re.M)  # as `nbdev-test` leaves them out
WIDGET = "application/vnd.jupyter.widget-view+json"

OUTPUTS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].map(c => c.type !== 'code' ? [] :
    c.outputs.toJSON().map(o => o.data ? Object.keys(o.data) : []))"""
GO_TO = """async i => { const shown = window.jupyterapp.shell.currentWidget.content; shown.activeCellIndex = i;
    await shown.scrollToItem(i, 'start'); document.querySelectorAll('[data-here]').forEach(e => delete e.dataset.here); shown.widgets[i].node.dataset.here = ''; }"""
SEEN = {
    "picture": "() => { const all = [...document.querySelectorAll('[data-here] .jp-OutputArea img')]; return all.length && all.every(p => p.complete && p.naturalWidth > 1); }",
    "widget": "() => document.querySelector('[data-here] .js-plotly-plot .main-svg, [data-here] .ivdr-film canvas[data-frame], [data-here] .ivdr button')",
    "figure": "() => document.querySelector('[data-here] .js-plotly-plot .main-svg')",
}


def kind_of(output: list[str]) -> str | None:
    "What a reader is to see of an output."
    if WIDGET in output:
        return "widget"
    if any("plotly" in kind for kind in output):
        return "figure"
    return "picture" if any(kind.startswith("image/") for kind in output) else None


def laid_out(path: Path, folder: Path) -> Path:  # the copy
    "A walkthrough as it lies in a checkout, with the data that it reads beside it."
    copy = folder / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    beside = {folder / place.relative_to(ROOT): place for place in (ROOT / "data_samples", ROOT / "README.md", *path.parent.iterdir()) if place.suffix != ".ipynb" and not place.name.startswith(".")}
    for place, real in beside.items():
        if not place.exists():
            place.symlink_to(real, target_is_directory=real.is_dir())
    content = nbformat.read(path, 4)
    content.cells = [cell for cell in content.cells if cell.cell_type != "code" or not LEFT_OUT.search(cell.source)]
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what is seen is new
    nbformat.write(content, copy)
    return copy


def stderr_of(path: Path) -> set[str]:
    "A refusal that a walkthrough is about stands in it as committed; nothing else may be said on stderr."
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    return {output.text.strip() for output in outputs if output.get("name") == "stderr"}


def moves(shown: Any) -> bool:
    "Whether some control of the cell in view changes its figures or films: its sliders, else its first button (`train`)."
    page, here = shown.page, shown.page.locator("[data-here]")
    handles = here.locator(".jupyter-widgets:not([disabled]) .noUi-handle:visible")
    for number in range(handles.count()):
        for key in ("ArrowRight", "ArrowLeft"):
            handles.nth(number).focus()
            if shown.tries(lambda: page.keyboard.press(key), 8):
                return True
    button = here.locator("button.jupyter-button:visible:enabled").first
    if not shown.tries(lambda: button.press("Enter"), 90):
        return False
    if (stop := here.get_by_role("button", name="stop")).count():
        stop.press("Enter")
    return True


@pytest.mark.parametrize("walkthrough", WALKTHROUGHS, ids=lambda path: path.stem)
def test_walkthrough(lab: Any, in_lab: Callable[[Path], Any], walkthrough: Path) -> None:
    shown = in_lab(laid_out(walkthrough, lab.folder))
    shown.foreseen = stderr_of(walkthrough)
    page, seen = shown.page, list[str]()
    for number, outputs in enumerate(page.evaluate(OUTPUTS)):
        kinds = {kind for output in outputs if (kind := kind_of(output))}
        if not kinds:
            continue
        page.evaluate(GO_TO, number)
        for kind in kinds:
            page.wait_for_function(SEEN[kind], timeout=60_000)
        seen += sorted(kinds)
        if "widget" in kinds:
            shown.settle()
            assert moves(shown), f"nothing moves in the widget of cell {number}"
        if os.environ.get("IVDR_SCREENSHOTS"):
            page.screenshot(path=Path(os.environ["IVDR_SCREENSHOTS"]) / f"{walkthrough.stem}-{number:02d}.png")
    ran = page.evaluate("() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code' && c.sharedModel.getSource().trim()).every(c => c.executionCount)")
    assert ran and seen, "every cell ran, and something was seen"
    print(f"\n{walkthrough.stem}: {len(seen)} pictures and widgets seen")

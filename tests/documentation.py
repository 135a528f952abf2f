"""The documentation site as the tests see it: built once, with one page more than the house has, which uses all that a notebook may."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from filelock import FileLock
from PIL import Image

ROOT = Path(__file__).parents[1]
HEIGHTS = (1, 2, 4, 8)
WIDGET = "application/vnd.jupyter.widget-view+json"
NOT_BUILT = "THE DOCUMENTATION SITE WAS NEITHER BUILT NOR READ: pip install 'ivdr[docs]'"


def sliding_figure() -> go.Figure:
    "A line that a slider of its own lifts, without a kernel."
    frames = [go.Frame(name=str(height), data=[go.Scatter(x=[0, 1], y=[0, height])]) for height in HEIGHTS]
    steps = [{"label": frame.name, "method": "animate", "args": [[frame.name], {"mode": "immediate", "frame": {"duration": 0}, "transition": {"duration": 0}}]} for frame in frames]
    return go.Figure(frames[0].data, {"width": 900, "height": 320, "yaxis": {"range": [0, 8]}, "sliders": [{"steps": steps}]}, frames)


def specimen() -> nbformat.NotebookNode:
    "A walkthrough with a slider, a widget's still picture, hidden cells, links, and what else must not break a page."
    buffer = io.BytesIO()
    Image.new("RGB", (900, 40), "teal").save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    figure = {"application/vnd.plotly.v1+json": json.loads(sliding_figure().to_json())}
    still = {WIDGET: {"model_id": "none", "version_major": 2, "version_minor": 0}, "image/png": picture, "text/plain": "a panel"}
    lost = {WIDGET: {"model_id": "none", "version_major": 2, "version_minor": 0}, "text/plain": "WIDGET WITHOUT A PICTURE"}

    def cell(source: str, *outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
        return nbformat.v4.new_code_cell(source, outputs=list(outputs))

    def output(data: dict[str, object], **metadata: object) -> nbformat.NotebookNode:
        return nbformat.v4.new_output("display_data", data, metadata=metadata)

    words = ("# A specimen\n\n> You will be able to move a slider\n\nSee [the lesson](../07_shuffle_rank.ipynb), [the rules](../../CONTRIBUTING.md) and "
             "[the samples](../../data_samples/manifest.csv). `shuffle_rank` and `train_split` and `train`.\n\n$$ a = b $$")  # fmt: skip
    return nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell(words),
        cell("#| hide\nHIDDEN = 'cell'", nbformat.v4.new_output("stream", name="stdout", text="HIDDEN output")),
        cell("#| echo: false\nUNSEEN = 'source'", nbformat.v4.new_output("stream", name="stdout", text="a result\n" + "w" * 300)),
        cell('#| fig-alt: "a line that a slider lifts"\nfigure', output(figure)),
        cell("panel", output(still, **{"image/png": {"alt": "a panel in <teal>"}})),
        cell("lost", output(lost)),
        cell("show(one, 'a first of two')", output({"image/png": picture})),
        nbformat.v4.new_markdown_cell("$$ c = d $$\n\nIt ends."),
        cell("one, another", output({"image/png": picture}), output({"image/png": picture})),
    ], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})  # fmt: skip


def build(folder: Path) -> Path:  # the site
    "The whole site, in a folder of its own; a warning is a failure."
    nbs, site = folder / "nbs", folder / "site"
    shutil.copytree(ROOT / "nbs", nbs, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (nbs / "walkthroughs").mkdir(exist_ok=True)
    nbformat.write(specimen(), nbs / "walkthroughs" / "99_specimen.ipynb")
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "make.py"), "--nbs", str(nbs), "--out", str(site)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(site / "index.html")
    return site


def shared_site(factory: pytest.TempPathFactory) -> Path:
    "The site, built by the first test process that asks; the others wait for it."
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason=NOT_BUILT)
    folder = factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "documentation"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            build(folder)
    assert (folder / "site" / "index.html").exists(), "the build failed; the first test to ask for it shows why"
    return folder / "site"

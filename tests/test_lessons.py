"""Every notebook runs from top to bottom, offline, in a process of its own, as `nbdev-test` runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import system_browser

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_runs(notebook: Path) -> None:
    if notebook.parent.name == "walkthroughs" and system_browser.find():
        pytest.skip("a walkthrough runs once, and here there is a browser for it: tests/browser/test_walkthroughs_in_lab.py")
    command = [str(Path(sys.executable).with_name("nbdev-test")), str(notebook.relative_to(ROOT)), "--n-workers", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg"})
    assert done.returncode == 0 and "Success" in done.stdout + done.stderr, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"

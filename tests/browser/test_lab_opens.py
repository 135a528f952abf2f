"""`make lab`: whoever comes for the first time sees where to begin."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_make_lab_opens_on_the_first_walkthrough(chromium: Any, running_lab: Callable[..., Any], tmp_path: Path) -> None:
    asked = subprocess.run(["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = shlex.split(asked.replace("\\\n", " ").splitlines()[-1])
    assert command[0].endswith("/jupyter") and "--ip=127.0.0.1" in command
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*", "networks"))
    (home := tmp_path / "home").mkdir()
    with running_lab([str(Path(sys.executable).with_name("jupyter")), *command[1:]], tmp_path, home, quiet=False) as lab:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{lab.address}/?token={lab.token}")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=60_000)
        walkthroughs = sorted(path.name for path in (ROOT / "nbs" / "walkthroughs").glob("*.ipynb"))
        assert page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path") == f"walkthroughs/{walkthroughs[0]}"
        for name in walkthroughs:
            page.locator(".jp-DirListing-item", has_text=name).wait_for()
        page.locator(".jp-Notebook h1").first.wait_for()
        page.wait_for_timeout(1000)
        assert not page.locator(".Toastify__toast").count(), "no question is in the way"
        if os.environ.get("IVDR_SCREENSHOTS"):
            page.screenshot(path=Path(os.environ["IVDR_SCREENSHOTS"]) / "make-lab.png")
        page.close()

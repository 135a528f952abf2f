"""`make lab`: whoever comes for the first time sees where to begin."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_make_lab_opens_on_the_first_walkthrough(chromium: Any, starting: Any, tmp_path: Path) -> None:
    made = subprocess.run(["make", "--no-print-directory", "--dry-run", "--always-make", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ").splitlines()
    command, asked = made[-1], next(line for line in made if "labextension disable" in line)
    assert "/jupyter lab " in command and "--ip=127.0.0.1" in command and "--level=sys_prefix" in asked

    def here(line: str) -> list[str]:
        return [str(Path(sys.executable).with_name("jupyter")), *shlex.split(line, comments=True)[1:]]

    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*", "networks"))
    (home := tmp_path / "home").mkdir()
    settings, running = starting
    newcomer = settings(home, quiet=False)
    subprocess.run(here(asked.replace("sys_prefix", "user")), env=newcomer, check=True, capture_output=True)  # what `make lab` does to its own environment
    with running(here(command), tmp_path, newcomer) as lab:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{lab.address}/?token={lab.token}")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=60_000)
        walkthroughs = sorted(path.name for path in (ROOT / "nbs" / "walkthroughs").glob("[0-9]*.ipynb"))
        assert page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path") == f"walkthroughs/{walkthroughs[0]}"
        for name in walkthroughs:
            page.locator(".jp-DirListing-item", has_text=name).wait_for()
        page.locator(".jp-Notebook h1").first.wait_for()
        page.wait_for_timeout(3000)  # for questions to come up
        assert page.locator(".Toastify__toast").all_inner_texts() == [], "no question is in the way"
        if os.environ.get("IVDR_SCREENSHOTS"):
            page.screenshot(path=Path(os.environ["IVDR_SCREENSHOTS"]) / "make-lab.png")
        page.close()

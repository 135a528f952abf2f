"""The gate: library and notebooks in step, notebooks clean, rooms import downwards only, lint and types clean."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
ROOMS = {re.sub(r"^\d+_", "", path.stem): int(path.stem[:2]) for path in NOTEBOOKS if path.parent.name == "nbs" and re.match(r"\d\d_", path.stem)}


def run(*command: str, cwd: Path = ROOT) -> str:
    "Run a command, fail with all it printed."
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tool(name: str) -> str:
    "A command of this environment, whether or not it is on the PATH."
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The project as export and clean would leave it, in a copy, so that the check changes nothing."
    copy = tmp_path_factory.mktemp("gate") / "ivdr"
    for name in ("nbs", "ivdr"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, copy)
    run(tool("nbdev-export"), cwd=copy)
    run(tool("nbdev-clean"), cwd=copy)
    return copy


@pytest.mark.parametrize("folder, pattern", [("ivdr", "*.py"), ("nbs", "*.ipynb")])
def test_export_and_clean_change_nothing(exported: Path, folder: str, pattern: str) -> None:
    here = {path.relative_to(ROOT): path.read_text() for path in (ROOT / folder).rglob(pattern) if ".ipynb_checkpoints" not in path.parts}
    there = {path.relative_to(exported): path.read_text() for path in (exported / folder).rglob(pattern)}
    differing = sorted(str(name) for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    assert not differing, f"run `make notebooks` and commit what it changes: {differing}"


def test_readme_is_the_index_notebook() -> None:
    text = run(sys.executable, "-m", "nbconvert", "--to", "markdown", "nbs/index.ipynb", "--stdout")
    text = re.sub(r"\]\((images/|walkthroughs/|\d\d_)", r"](nbs/\1", text).replace("](../", "](")
    squeezed = re.sub(r"\n{3,}", "\n\n", text)
    assert squeezed.strip() == (ROOT / "README.md").read_text().strip(), "run `make readme`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_a_lesson_that_ran(path: Path) -> None:
    cells = nbformat.read(path, 4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# "), "opens with a title"
    for number, cell in enumerate(cells):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 40, f"cell {number} is longer than 40 lines"
            assert not any(output.output_type == "error" for output in cell.outputs), f"cell {number} ended in an error"
    assert any(cell.get("outputs") for cell in cells), "was committed without its outputs"
    assert path.stat().st_size < 2**20, "keep committed outputs small"


@pytest.mark.parametrize("room", sorted(ROOMS, key=ROOMS.__getitem__))
def test_rooms_import_downwards_only(room: str) -> None:
    tree = ast.parse((ROOT / "ivdr" / f"{room}.py").read_text())
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and (node.level or node.module.startswith("ivdr.")):
            used.add(node.module.removeprefix("ivdr.").split(".")[0])
    upwards = sorted(name for name in used & ROOMS.keys() if ROOMS[name] >= ROOMS[room])
    assert not upwards, f"{room} is room {ROOMS[room]} and may not import {upwards}"


def test_a_loss_can_be_imported_alone() -> None:
    heavy = ["matplotlib", "sklearn", "pandas", "plotly", "accelerate", "IPython", "torchvision", "decord", "av"]
    code = f"import sys, ivdr.contrastive; print([m for m in {heavy} if m in sys.modules])"
    assert run(sys.executable, "-c", code).strip() == "[]"


def test_lint() -> None:
    run(tool("ruff"), "check", "ivdr", "tests", "nbs", "docs", "setup.py")


def test_types() -> None:
    run(tool("mypy"))

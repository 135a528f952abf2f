"""The wheel holds what a user needs, and works where there is no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Built from the files of the checkout, as `pip wheel` would."
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_library_recipes_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"ivdr/{path.name}" for path in (ROOT / "ivdr").glob("*.py")} | {f"ivdr/recipes/{path.name}" for path in (ROOT / "ivdr/recipes").glob("*.yaml")}
    assert expected | {"ivdr/py.typed", "ivdr/published.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests", "nbs", "data_samples"))]


def test_wheel_states_the_facts_of_settings_ini(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    entry_points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    assert "Requires-Dist: torch>=2.11" in metadata and "Provides-Extra: dev" in metadata and "License: Apache-2.0" in metadata.replace("-Expression", "")
    assert "ivdr = ivdr.cli:main" in entry_points


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, home = tmp_path / "site", tmp_path / "home"
    zipfile.ZipFile(wheel).extractall(site)
    home.mkdir()

    def ivdr(*words: str) -> str:
        done = subprocess.run([sys.executable, "-P", "-m", "ivdr.cli", *words], cwd=home, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(site)})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run([sys.executable, "-P", "-c", "import ivdr; print(ivdr.__file__)"], cwd=home, capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(site)}).stdout
    assert where.startswith(str(site)), "the installed wheel is what runs"
    ivdr("render", "--videos", "24", "--out", "videos", "--seed", "1", "--frames", "32", "--height", "48", "--width", "64")
    ivdr("pretrain", "--data", "videos", "--method", "iivdr", "--recipe", "laptop", "--out", "run", "--epochs", "1", "--batch-size", "8", "--workers", "0")
    assert "chance" in ivdr("evaluate", "run", "--data", "videos")
    ivdr("report", "run", "--out", "report.html")
    assert (home / "report.html").stat().st_size > 10_000

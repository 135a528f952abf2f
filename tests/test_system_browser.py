"""How `make test` comes by a browser, with installers that only pretend."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import system_browser

WORKS, BROKEN = "#!/bin/sh\necho Chromium 1\n", "#!/bin/sh\necho install the snap >&2\nexit 1\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    "A machine without a browser, and with an apt-get that finds packages only after an update."

    def made(browser: str = WORKS, root: bool = True) -> Path:
        (tmp_path / "browser").write_text(browser)
        (tmp_path / "apt-get").write_text(f"""#!/bin/sh
cd {tmp_path}; echo "$@" | /bin/sed 's/-o [^ ]* //g' >> log
case "$*" in *update*) : > updated; exit 0;; esac
[ -e updated ] || exit 100
/bin/cp browser chromium && /bin/chmod +x chromium
""")
        (tmp_path / "apt-get").chmod(0o755)
        (tmp_path / "log").touch()
        return tmp_path

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(system_browser, "PLAYWRIGHT", ("/bin/sh", "-c", f"echo playwright >> {tmp_path}/log; exit 1"))
    return made


def test_debians_after_an_update(machine: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    folder = machine()
    wanted = "install -y --no-install-recommends chromium fonts-dejavu-core"
    system_browser.ready()
    assert system_browser.find() == str(folder / "chromium") and (folder / "log").read_text().splitlines() == [wanted, "update", wanted]
    system_browser.ready()
    assert len((folder / "log").read_text().splitlines()) == 3, "nothing to do where there is one"
    assert "NO BROWSER" not in capfd.readouterr().out


def test_a_browser_that_does_not_start_is_none(machine: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    folder = machine(BROKEN)
    system_browser.ready()
    assert system_browser.find() is None and (folder / "log").read_text().splitlines()[-1] == "playwright"
    assert system_browser.NO_BROWSER in capfd.readouterr().out


def test_only_root_installs_for_everyone(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = machine()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    system_browser.ready()
    assert (folder / "log").read_text().splitlines() == ["playwright"]


def test_the_command_goes_on_without_a_browser(machine: Callable[..., Path]) -> None:
    folder = machine()
    (folder / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    unreachable = {"PATH": str(folder), "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9", "PLAYWRIGHT_BROWSERS_PATH": str(folder / "none"), "HOME": str(folder)}
    done = subprocess.run([sys.executable, system_browser.__file__], env=unreachable, capture_output=True, text=True)
    assert done.returncode == 0 and system_browser.NO_BROWSER in done.stdout

"""The browser of the tests: found, or installed where that can be done (`make test` asks for it; cheap where there is one)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
APT = ("apt-get", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30")
DEBIAN = (*APT, "install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core")
PLAYWRIGHT = (sys.executable, "-m", "playwright", "install", "chromium")
BY_HAND = "`apt-get install -y --no-install-recommends chromium fonts-dejavu-core` as root, or `playwright install chromium`"
NO_BROWSER = f"NO BROWSER, SO NO WIDGET, NO WALKTHROUGH AND NO PAGE WAS TRIED IN ONE: install one with {BY_HAND}"


def runs(path: str | Path) -> bool:
    "Whether a browser starts; Ubuntu's package is a note that points to a snap, and a bare machine may lack its libraries."
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def playwrights_own() -> str:
    "Where playwright keeps its Chromium."
    # in a process of its own: the one that asks may have a browser open, and playwright bears no second start
    ask = "from playwright.sync_api import sync_playwright as start\nwith start() as playwright: print(playwright.chromium.executable_path)"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def find() -> str | None:
    "The system's browser, else playwright's own."
    system = next((path for name in NAMES if (path := shutil.which(name)) and runs(path)), None)
    return system or (own if runs(own := playwrights_own()) else None)


def attempt(*command: str) -> bool:
    "Run an installer; what it has to say goes to the terminal."
    print("$", " ".join(Path(command[0]).name if part is command[0] else part for part in command), flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "30000"}
    try:
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=900).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error)
        return False


def install() -> str | None:
    "A browser by the system's own means where one may use them, else by playwright's."
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("No Chromium: installing Debian's, once.", flush=True)
        if (attempt(*DEBIAN) or attempt(*APT, "update") and attempt(*DEBIAN)) and (found := find()):
            return found
    print("No Chromium: fetching playwright's, once.", flush=True)
    return find() if attempt(*PLAYWRIGHT) else None


def ready() -> None:
    "Have a browser, or say loudly that there is none."
    if not (find() or install()):
        print("\n".join(("", "!" * 80, NO_BROWSER, "The tests that need one are skipped.", "!" * 80, "")), flush=True)


if __name__ == "__main__":
    ready()

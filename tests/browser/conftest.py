"""A throw-away JupyterLab and a real browser, for what only they can show."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

playwright_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: pip install 'ivdr[dev]'")

ROOT = Path(__file__).parents[2]


@dataclass
class Lab:
    "A running JupyterLab."
    address: str
    token: str
    folder: Path


def settings(home: Path, quiet: bool = True) -> dict[str, str]:
    "An environment in which nobody's own configuration is read or written: a newcomer's, or one who has asked not to be asked."
    places = {"HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data", "JUPYTER_RUNTIME_DIR": home / "runtime",
              "IPYTHONDIR": home / "ipython", "JUPYTERLAB_SETTINGS_DIR": home / "settings", "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces"}  # fmt: skip
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    if quiet:
        asked = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        asked.parent.mkdir(parents=True)
        asked.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IVDR"))}
    return environment | {name: str(place) for name, place in places.items()} | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(command: Sequence[str], port: int, ready: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    "A server on this machine only, from its first answer at an address to its end."
    said = Path(environment["HOME"]) / "server.log"
    with said.open("wb") as log:
        server = subprocess.Popen(list(command), env=environment, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}{ready}", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if server.poll() is not None:
                    break
                time.sleep(0.25)
        else:
            pytest.fail(f"no answer within a minute:\n{said.read_text()[-3000:]}")
        if server.poll() is not None:
            pytest.fail(f"the server ended by itself:\n{said.read_text()[-3000:]}")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def free_port() -> int:
    "A port that nobody uses."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Lab]:
    "A JupyterLab that this command starts, until it is no longer needed."
    token, port = secrets.token_hex(16), free_port()
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--expose-app-in-browser"]
    with serving([*command, *options], port, f"/api?token={token}", folder, environment) as address:
        yield Lab(address, token, folder)


@pytest.fixture
def starting() -> tuple[Callable[..., dict[str, str]], Callable[..., AbstractContextManager[Lab]]]:
    "An environment of one's own, and a JupyterLab started in it by a command of one's own."
    return settings, running


@pytest.fixture(scope="session")
def lab(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    "JupyterLab with a folder of its own."
    folder = tmp_path_factory.mktemp("notebooks")
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    with running(command, folder, settings(tmp_path_factory.mktemp("home"))) as started:
        yield started


# extensions of JupyterLab that the tests' environment has, and that complain in voila, where there is no file browser
UNLIKE_VOILA = ("jupyterlab-jupytext", "@jupyter-notebook/lab-extension", "@jupyter/nbgrader")


@pytest.fixture
def classroom(chromium: Any, tmp_path: Path) -> Iterator[Lab]:
    "The page for the class, served as `make class` does, but with a token that the test knows."
    token, port = secrets.token_hex(16), free_port()
    page = ROOT / "nbs" / "walkthroughs" / "class_page.ipynb"
    command = [sys.executable, "-m", "voila", page.name, "--Voila.ip=127.0.0.1", "--no-browser", f"--port={port}", f"--token={token}",
               *(f"--VoilaConfiguration.extension_denylist={name}" for name in UNLIKE_VOILA)]  # fmt: skip
    with serving(command, port, "/login", page.parent, settings(tmp_path)) as address:
        yield Lab(address, token, page.parent)


WATCH = """() => {
  // of a long array some entries are looked at: spelling out a map of 50,000 points would take longer than the move that is timed
  const some = a => a === null || typeof a !== 'object' || a.length === undefined ? a : a.length <= 120 ? [...a] : [a.length, ...Array.from({ length: 60 }, (_, i) => a[Math.floor(i * (a.length - 1) / 59)])];
  window.fingerprint = () => JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(g => (g.data || []).map(t =>
    [t.x, t.y, t.z, t.visible, t.marker && t.marker.color, t.marker && t.marker.symbol, t.selectedpoints].map(some))));
  // films count as changed when words and pictures are there
  window.filmprint = () => JSON.stringify([...document.querySelectorAll('.ivdr-player')].map(p => [...p.querySelectorAll('.ivdr-film')].map(f => [f.querySelector('canvas').dataset.sheet, ...[...f.querySelectorAll('b, small')].map(e => e.textContent)])));
  const drawn = () => [...document.querySelectorAll('.ivdr-film canvas')].every(c => c.dataset.sheet);
  window.watch = name => { const probe = window[name], before = probe(); window.took = null; let start = performance.now();
    for (const e of ['keydown', 'pointerdown']) document.addEventListener(e, () => { start = performance.now(); }, { once: true, capture: true });
    const poll = () => { if (probe() !== before && (name !== 'filmprint' || drawn())) window.took = performance.now() - start; else requestAnimationFrame(poll); }; poll(); };
}"""


@dataclass
class Notebook:
    "A notebook open in the browser, all its cells run."
    page: Any
    errors: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    foreseen: set[str] = field(default_factory=set)  # what it may say on stderr

    def listen(self) -> None:
        "Write down what the browser complains of from now on."
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def slider(self, name: str) -> Any:
        "The handle of a slider, which takes the arrow keys."
        return self.page.locator(".widget-slider", has=self.page.locator(f".widget-label:text-is('{name}')")).locator(".noUi-handle")

    def choice(self, name: str) -> Any:
        "A drop-down list by its label."
        return self.page.locator(".widget-dropdown", has=self.page.locator(f".widget-label:text-is('{name}')")).locator("select")

    def changes(self, act: Callable[[], Any], what: str = "fingerprint") -> float:
        "Do something, wait until the figures ('fingerprint') or the films ('filmprint') differ, and give the milliseconds it took."
        self.page.evaluate("name => window.watch(name)", what)
        act()
        self.page.wait_for_function("window.took !== null", timeout=20_000)
        self.times.append(float(self.page.evaluate("window.took")))
        self.settle()
        return self.times[-1]

    def settle(self) -> None:
        "Wait until nothing on the page has changed for a while."
        self.page.evaluate("""() => new Promise((done, fail) => { let last = '', still = 0; const start = performance.now(); const look = () => { const now = fingerprint() + filmprint();
            still = now === last ? still + 1 : 0; last = now; if (still >= 4) done(); else if (performance.now() - start > 5000) fail('the page did not come to rest'); else setTimeout(look, 80); }; look(); })""")

    def tries(self, act: Callable[[], Any], seconds: float) -> bool:
        "Whether doing something changes a figure or a film in this time."
        self.page.evaluate("() => { window.everything = () => fingerprint() + filmprint(); window.watch('everything'); }")
        act()
        try:
            self.page.wait_for_function("window.took !== null", timeout=1000 * seconds)
        except playwright_api.TimeoutError:
            return False
        self.times.append(float(self.page.evaluate("window.took")))
        return True

    def frames(self) -> list[str]:
        "Which frame each film shows at this moment."
        return list(self.page.eval_on_selector_all(".ivdr-film canvas", "all => all.map(c => c.dataset.frame || '')"))

    def plays(self) -> bool:
        "Whether all films move on."
        before = self.frames()
        self.page.wait_for_function("b => { const now = [...document.querySelectorAll('.ivdr-film canvas')].map(c => c.dataset.frame);"
                                    "return now.length && now.every((f, i) => f !== b[i]); }", arg=before, timeout=10_000)  # fmt: skip
        return bool(before)

    def portraits(self, folder: Path, name: str) -> None:
        "Screenshots to be looked at: wide, dark, and as narrow as a phone."
        self.page.screenshot(path=folder / f"{name}-1280.png")
        self.page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        self.page.wait_for_timeout(1500)
        self.page.screenshot(path=folder / f"{name}-dark.png")
        self.page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
        self.page.set_viewport_size({"width": 400, "height": 2400})
        self.page.wait_for_timeout(1500)
        self.page.screenshot(path=folder / f"{name}-400.png")

    def report(self, name: str) -> None:
        "Say how long control to figure took; that is a figure to read, not a test."
        ordered = sorted(self.times)
        if ordered:
            print(f"\n{name}: control to changed figure, median {ordered[len(ordered) // 2]:.0f} ms, slowest {ordered[-1]:.0f} ms of {len(ordered)}")


COMPLAINTS = """() => [...document.querySelectorAll(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type$='stderr']")]
    .map(e => e.innerText).concat([...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code').flatMap(c => c.outputs.toJSON())
    .filter(o => o.output_type === 'error' || o.name === 'stderr').map(o => o.text || o.traceback.join('\\n')))"""


@pytest.fixture
def in_lab(lab: Lab, chromium: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Notebook]]:
    "Open a notebook of the lab's folder, run all its cells, and afterwards insist that nothing complained."
    opened: list[Notebook] = []
    context = chromium.new_context(viewport={"width": 1280, "height": 1400})

    def open_notebook(path: Path) -> Notebook:
        page = context.new_page()
        shown = Notebook(page)
        opened.append(shown)
        shown.listen()
        page.goto(f"{lab.address}/lab/workspaces/{path.stem}/tree/{path.relative_to(lab.folder).as_posix()}?token={lab.token}")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context?.isReady && window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel", timeout=60_000)
        page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area').catch(() => null)")
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.evaluate(WATCH)
        return shown

    yield open_notebook
    complaints: list[str] = []
    for number, shown in enumerate(opened):
        if pictures := os.environ.get("IVDR_SCREENSHOTS"):
            shown.portraits(Path(pictures), f"{request.node.name}-{number}")
        shown.report(request.node.name)
        complaints += [said for said in shown.page.evaluate(COMPLAINTS) + shown.errors if said.strip() not in shown.foreseen]
        shown.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    context.close()
    assert not complaints, complaints


@pytest.fixture
def notebook(lab: Lab, in_lab: Callable[[Path], Notebook], request: pytest.FixtureRequest) -> Callable[..., Notebook]:
    "Open a notebook that shows a widget, with these cells."

    def open_cells(*cells: str) -> Notebook:
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
                                           metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})  # fmt: skip
        path = lab.folder / (re.sub(r"\W+", "-", request.node.name).strip("-") + ".ipynb")
        nbformat.write(content, path)
        shown = in_lab(path)
        shown.page.wait_for_selector(".ivdr", timeout=90_000)
        return shown

    return open_cells


@pytest.fixture
def class_page(classroom: Lab, chromium: Any) -> Iterator[Notebook]:
    "The page for the class, open in the browser; afterwards nothing may have complained."
    context = chromium.new_context(viewport={"width": 1280, "height": 1400})
    shown = Notebook(context.new_page())
    shown.listen()
    # voila's page asks a server far away for icons that it has itself; a class without a network must not miss them
    shown.page.route("https://cdn.jsdelivr.net/**", lambda route: route.fulfill(body="", content_type="text/css"))
    shown.page.goto(f"{classroom.address}/?token={classroom.token}", timeout=120_000)
    shown.page.wait_for_selector(".ivdr", timeout=120_000)
    shown.page.evaluate(WATCH)
    yield shown
    if pictures := os.environ.get("IVDR_SCREENSHOTS"):
        for width in (1280, 400):
            shown.page.set_viewport_size({"width": width, "height": 2600})
            shown.page.wait_for_timeout(1500)
            shown.page.screenshot(path=Path(pictures) / f"class-page-{width}.png")
    shown.report("class page")
    context.close()
    # anywidget says so of any model that takes more than two seconds, as on a busy machine; that all widgets came is for the test to see
    complaints = [error for error in shown.errors if "[anywidget] Failed to initialize model." not in error]
    assert not complaints, complaints

"""How long it takes from a control's move to the changed figure, with many clips: printed at the end of each test, to be read; nothing here fails for being slow.

`pytest tests/browser/test_speed_in_lab.py -s` on a quiet machine.
"""

import pytest

MANY = """
import tempfile
from pathlib import Path
import numpy as np
from ivdr.datasets import Manifest
from ivdr.evaluation import Features
from ivdr.widgets import *

def crowd(n, names=("one", "two"), clips=5, width=96, epochs=()):
    "Models of n clips: random features that know actions and videos; the videos are links to the samples."
    samples, folder, videos = sample_manifest().split("test"), Path(tempfile.mkdtemp()), n // clips
    table = samples.table.iloc[np.arange(videos) % len(samples)].reset_index(drop=True).assign(path=[f"{i}.mp4" for i in range(videos)])
    for i, name in enumerate(table["path"]):
        (folder / name).symlink_to(samples.files[i % len(samples)].resolve())
    classes, targets = np.unique(table["label"], return_inverse=True)
    where = np.tile(np.linspace(0.25, 0.75, clips, dtype=np.float32), (videos, 1))
    def features(seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(len(classes), 1, width))[targets] + rng.normal(size=(videos, 1, width)) + 0.5 * rng.normal(size=(videos, clips, width))
        return Features(x.astype(np.float32), where, targets, classes.tolist(), table["path"].tolist(), table["group"].tolist())
    return [model_over_epochs(name, {e: features(10 * m + e) for e in (*epochs, 9)}) for m, name in enumerate(names)], Manifest(table, folder)
"""
ARROWS = ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight")


def slide(shown, name, keys=ARROWS, what="fingerprint"):
    "Move a slider by its keys."
    for key in keys:
        shown.slider(name).focus()
        shown.changes(lambda: shown.page.keyboard.press(key), what)


@pytest.mark.parametrize("widget, sliders", [("ClipSamplerWidget", ("place", "stride", "clip length")), ("ShuffleRankWidget", ("θ", "cap"))])
def test_speed_of_one_video(notebook, widget, sliders):
    shown = notebook(f"from ivdr.widgets import *\nshown = {widget}()\nshown")
    shown.page.wait_for_selector(".js-plotly-plot .main-svg")
    for name in sliders:
        slide(shown, name)


def test_speed_of_a_ranking_of_2000_clips(notebook):
    shown = notebook(MANY + "models, manifest = crowd(2000, ('one', 'two', 'three'))\nClipRankingWidget(models, manifest)")
    shown.page.wait_for_function("[...document.querySelectorAll('button.ivdr-film canvas')].filter(c => c.dataset.sheet).length === 15", timeout=60_000)
    slide(shown, "clip", ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight"), "filmprint")
    slide(shown, "k", what="filmprint")
    shown.report("ranking of 2000 clips, clip and k")
    shown.times.clear()
    for _ in range(6):
        shown.changes(lambda: shown.page.get_by_role("button", name="another query").press("Enter"), "filmprint")
    shown.report("ranking of 2000 clips, another query (every picture decoded anew)")
    shown.times.clear()


@pytest.mark.parametrize("clips", [2000, 20_000, 50_000])
def test_speed_of_maps(notebook, clips):
    shown = notebook(MANY + f"models, manifest = crowd({clips}, epochs=(1, 4))\nEmbeddingExplorer(models, manifest)")
    page = shown.page
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2", timeout=120_000)
    page.wait_for_function("[...document.querySelectorAll('button.ivdr-film canvas')].filter(c => c.dataset.sheet).length === 12", timeout=120_000)
    parts = {"clip": lambda: slide(shown, "clip", ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight")),
             "colour": lambda: [shown.changes(lambda: shown.choice("colour").select_option(label=name)) for name in ("scene", "time in the video", "person", "scene")],
             "video": lambda: [shown.changes(lambda: shown.choice("video").select_option(index=i)) for i in (30, 60, 90, 120)],
             "epoch": lambda: slide(shown, "epoch of training", ("ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight"))}  # fmt: skip
    everything = []
    for name, act in parts.items():
        act()
        shown.report(f"maps of {clips} clips, {name}")
        everything += shown.times
        shown.times.clear()
    shown.times = everything


def test_speed_of_a_dial_of_2000_clips(notebook):
    shown = notebook(MANY + """
models, manifest = crowd(2000, ("contrast", "all", "less contrast", "sr"))
weights = [(1.0, 1.0, 0.0), (0.5, 1.0, 0.0), (0.1, 1.0, 0.0), (0.0, 1.0, 0.0)]
VarianceDial([Mix(m, dict(zip(("clip", "sr", "tc"), w)), {t: 0.5 for t in SCORES}, (0.5, 0.1 * (1 + i))) for i, (m, w) in enumerate(zip(models, weights))], manifest)""")
    shown.page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3", timeout=60_000)
    slide(shown, "contrast between videos", ("ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowRight"))
    for name in ("scene", "time in the video", "person"):
        shown.changes(lambda: shown.choice("colour").select_option(label=name))


def test_speed_of_a_watched_run_with_2000_clips(notebook):
    shown = notebook(MANY + """
models, manifest = crowd(2000)
live = LiveTraining(per_class=1, n_clips=5)
live.watched[1] = manifest
maps = dict(epoch_maps({e: model.test for e, model in enumerate(models * 3, 1)}))
live.looks = [Look(e, 0.5, (0.5, 0.1), points) for e, points in sorted(maps.items())]
live.epoch.max = live.epoch.value = len(live.looks)
draw_scores(live)
live""")
    shown.page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2", timeout=60_000)
    slide(shown, "map after epoch", ("ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowLeft"))

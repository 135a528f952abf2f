"Rendered videos: exact time reversal, rigid bodies, known factors, the same bytes whatever happens on the way."
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivdr import synthetic as syn
from ivdr.datasets import open_manifest
from ivdr.video import VideoReader

SAMPLES = Path(__file__).parents[1] / "data_samples"
TINY = {"n_frames": 5, "size": (64, 128), "progress": False}
seeds = st.integers(0, 2**31 - 1)
actions = st.sampled_from(syn.ACTIONS)


def small(seed, action=None, **changes):
    return replace(syn.random_scene(seed, action, n_frames=changes.pop("n_frames", 8), size=changes.pop("size", (48, 64))), **changes)


def coarse(film):
    "Means of blocks of 8 by 8 pixels: what compression leaves alone."
    t, h, w, _ = film.shape
    return film.reshape(t, h // 8, 8, w // 8, 8, 3).mean((2, 4))


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- motion ---------------------------------------------------------------------------------------------------------


def test_fourteen_actions_with_three_pairs_and_a_pair_of_tempi():
    assert len(syn.ACTIONS) == 14 and len({frozenset(pair) for pair in syn.REVERSALS.items()}) == 3
    assert all(syn.REVERSALS[b] == a for a, b in syn.REVERSALS.items())
    slow, fast = (syn.MOTIONS[name] for name in ("wave_slow", "wave_fast"))
    assert slow.curves == fast.curves and slow.tempo[1] < fast.tempo[0]
    assert syn.MOTIONS["walk"].tempo[1] < syn.MOTIONS["run"].tempo[0]


@pytest.mark.parametrize("action", syn.REVERSALS)
def test_pairs_are_the_same_poses_in_opposite_order(action):
    phase = np.linspace(0, 1, 65)  # multiples of 1/64: 1 - phase is exact
    assert np.array_equal(syn.pose(action, phase), syn.pose(syn.REVERSALS[action], phase)[::-1])
    assert not np.allclose(syn.pose(action, 0.0), syn.pose(action, 1.0), atol=0.1)  # a palindrome would pass without meaning anything


@pytest.mark.parametrize("action", syn.REVERSALS)
@pytest.mark.parametrize("camera", syn.CAMERAS)
def test_reversed_scene_is_the_film_backwards_to_the_last_bit(action, camera):
    thing = syn.Distractor("bird", syn.SHIRTS[0], -1.5, 1.2, 1.7, 3.3)
    scene = small(5, action, camera=camera, noise=2.5, distractors=(thing, replace(thing, kind="ball", height=0.1)), brightness=(0.9, 1.1))
    film, back = syn.render(scene), syn.render(syn.time_reversed(scene))
    assert np.array_equal(back, film[::-1]) and not np.array_equal(back, film)
    assert syn.time_reversed(syn.time_reversed(scene)) == scene


@settings(max_examples=40, deadline=None)
@given(actions, st.integers(0, 30), st.floats(-2, 3))
def test_bodies_are_rigid_and_stand_on_the_ground(action, number, start):
    who = syn.person(number)
    cyclic = syn.MOTIONS[syn.ACTION_MODELS[action][0]].cyclic
    joints = syn.pose(action, start + np.linspace(0, 2, 40) if cyclic else np.linspace(0, 1, 40), who)
    at = {name: joints[:, k] for k, name in enumerate(syn.JOINTS)}
    for a, b in (("shoulder", "elbow"), ("elbow", "hand"), ("hip", "knee"), ("knee", "ankle"), ("ankle", "toe")):
        lengths = np.array([np.linalg.norm(at[f"{a}_{s}"] - at[f"{b}_{s}"], axis=-1) for s in "lr"])
        assert np.ptp(lengths) < 1e-9 and 0.05 < lengths[0, 0] < 0.6
    assert joints[..., 1].min() > 0 and joints[..., 1].min(1).max() < 0.3
    assert np.abs(np.diff(joints, axis=0)).max() < 0.75  # no jumps: 40 steps through two cycles or one action


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(-180, 180)), min_size=2, max_size=6, unique_by=lambda k: k[0]), st.booleans())
def test_keyframes_pass_through_the_keys_and_never_beyond(keys, cyclic):
    keys = sorted((k / 100, v) for k, v in keys)
    x, y = np.array(keys).T
    assert np.allclose(syn.keyframes(keys, x, cyclic), y)
    line = np.linspace(-1, 2, 601)
    curve = syn.keyframes(keys, line, cyclic)
    assert y.min() - 1e-9 <= curve.min() and curve.max() <= y.max() + 1e-9
    if cyclic:
        assert np.allclose(curve, syn.keyframes(keys, line + 1, True), atol=1e-6)
    for a, b in zip(keys, keys[1:]):  # monotone between two keys
        steps = np.diff(syn.keyframes(keys, np.linspace(a[0], b[0], 30), cyclic)) * np.sign(b[1] - a[1])
        assert (steps >= -1e-9).all()


@given(seeds, actions, st.integers(2, 90))
@settings(max_examples=60, deadline=None)
def test_phase_takes_the_whole_video_or_keeps_its_tempo(seed, action, n_frames):
    scene = syn.random_scene(seed, action, n_frames=n_frames)
    motion, direction = syn.motion_of(scene)
    phase = syn.phases(scene)[::direction]
    assert (np.diff(phase) > 0).all()
    if motion.cyclic:
        assert np.allclose(np.diff(phase), scene.tempo / scene.fps) and motion.tempo[0] <= scene.tempo <= motion.tempo[1]
    else:
        assert phase[0] == 0 and abs(phase[-1] - 1) < 1e-12
        assert np.allclose(phase, 1 - phase[::-1])  # the pace itself has no direction of time


# --- pixels ---------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(seeds, actions, st.integers(1, 6), st.tuples(st.integers(32, 60), st.integers(32, 80)))
def test_render_gives_frames_of_the_size_asked_for(seed, action, n_frames, size):
    scene = syn.random_scene(seed, action, n_frames=n_frames, size=size)
    film = syn.render(scene)
    assert film.shape == (n_frames, *size, 3) and film.dtype == np.uint8 and film.std() > 5
    assert np.array_equal(film, syn.render(scene))


@settings(max_examples=20, deadline=None)
@given(seeds, actions)
def test_figure_is_in_the_picture_in_every_frame(seed, action):
    scene = small(seed, action, noise=0.0, distractors=())
    other = replace(scene, person=replace(scene.person, shirt=(0.1, 0.9, 0.1), skin=(0.1, 0.9, 0.9), trousers=(0.9, 0.1, 0.9)))
    changed = (np.abs(syn.render(scene).astype(int) - syn.render(other)).max(-1) > 20).sum((1, 2))
    assert changed.min() >= 30, f"pixels of the figure in each frame: {changed}"


@pytest.mark.parametrize("factor, value", [("place", "stage"), ("mirrored", True), ("yaw", 11.0), ("camera", "pan"), ("light", "cool"),
                                           ("noise", 2.0), ("brightness", (0.8, 0.8)), ("offset", 0.2), ("spot", 0.8)])
def test_each_factor_reaches_the_pixels(factor, value):
    base = syn.Scene(action="sit_down", n_frames=4, size=(48, 64))
    assert not np.array_equal(syn.render(base), syn.render(replace(base, **{factor: value})))


def test_only_the_action_moves_in_a_still_scene():
    scene = syn.Scene(action="wave_slow", n_frames=12, size=(96, 128))
    film = syn.render(scene).astype(int)
    moving = (np.ptp(film, axis=0).max(-1) > 8).mean()
    assert 0.005 < moving < 0.2


# --- factors of a dataset -------------------------------------------------------------------------------------------


def cramers_v(a, b):
    table = pd.crosstab(np.asarray(a), np.asarray(b)).to_numpy()
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return np.sqrt((((table - expected) ** 2) / expected).sum() / table.sum() / (min(table.shape) - 1))


def test_correlation_says_how_strongly_the_place_follows_the_action():
    strength = {}
    for correlation in (0.0, 0.3, 0.7, 1.0):
        plan = [scene for _, scene in syn.dataset_scenes(700, seed=3, correlation=correlation)]
        strength[correlation] = cramers_v([s.action for s in plan], [s.place for s in plan])
        home = np.mean([s.place == syn.HOME[s.action] for s in plan])
        assert abs(home - (correlation + (1 - correlation) / 7)) < 0.06
    assert strength[0.0] < 0.2 and strength[1.0] == pytest.approx(1.0)
    for low, high in zip((0.0, 0.3, 0.7), (0.3, 0.7, 1.0)):
        assert strength[low] + 0.1 < strength[high]


def test_correlation_changes_the_place_and_nothing_else():
    for (_, free), (_, bound) in zip(syn.dataset_scenes(60, seed=1), syn.dataset_scenes(60, seed=1, correlation=1.0)):
        assert bound == replace(free, place=syn.HOME[free.action])


def test_nuisances_do_not_give_the_action_away():
    plan = [scene for _, scene in syn.dataset_scenes(700, seed=5)]
    for name in ("camera", "light", "mirrored", "spot"):
        assert cramers_v([s.action for s in plan], [getattr(s, name) for s in plan]) < 0.23, name


def test_split_is_by_person_and_every_action_is_in_both():
    plan = syn.dataset_scenes(84, seed=9, persons=(5, 3))
    names = {split: {s.person.name for part, s in plan if part == split} for split in ("train", "test")}
    assert len(names["train"]) == 5 and len(names["test"]) == 3 and not names["train"] & names["test"]
    for split, each in (("train", 4), ("test", 2)):
        assert (pd.Series([s.action for part, s in plan if part == split]).value_counts() == each).all()
        assert {s.action for part, s in plan if part == split} == set(syn.ACTIONS)


def test_a_longer_dataset_begins_with_other_videos_only_where_it_must():
    short, long = syn.dataset_scenes(10, test_share=0), syn.dataset_scenes(20, test_share=0)
    assert long[:10] == short


@pytest.mark.parametrize("call, words", [
    (lambda: syn.random_scene(0, "fly"), "fly"), (lambda: syn.pose("fly", 0.0), "sit_down"), (lambda: syn.random_scene(0, correlation=1.5), "1.5"),
    (lambda: syn.Scene(place="moon"), "moon"), (lambda: syn.Scene(camera="crane"), "crane"), (lambda: syn.Scene(n_frames=0), "0 frames"),
    (lambda: syn.Scene(size=(8, 8)), "32"), (lambda: syn.time_reversed(syn.Scene(action="walk")), "walk"), (lambda: syn.background("moon"), "moon"),
    (lambda: syn.dataset_scenes(0), "0 videos"), (lambda: syn.dataset_scenes(5, places=["moon"]), "moon"), (lambda: syn.dataset_scenes(5, actions=[]), "action"),
])
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "videos"
    assert syn.render_dataset(out, 18, workers=0, **TINY) == out / "manifest.csv"
    return out


def test_same_bytes_with_two_workers(rendered, tmp_path):
    syn.render_dataset(tmp_path / "pair", 18, workers=2, **TINY)
    assert digests(tmp_path / "pair") == digests(rendered)


def test_manifest_tells_the_truth(rendered):
    table = pd.read_csv(rendered / "manifest.csv")
    assert list(table)[:9] == ["path", "label", "group", "split", "frames", "fps", "width", "height", "sha256"]
    assert len(table) == 18 and (table.split == "test").sum() == 6 and (table["correlation"] == 0).all()
    assert not set(table.group[table.split == "train"]) & set(table.group[table.split == "test"])
    for row, (split, scene) in zip(table.itertuples(), syn.dataset_scenes(18, n_frames=5, size=(64, 128))):
        assert row.path.startswith(f"{split}/{row.label}/") and row.label == scene.action and row.scene == scene.place
        assert hashlib.sha256((rendered / row.path).read_bytes()).hexdigest() == row.sha256
        with VideoReader(rendered / row.path) as reader:
            assert (len(reader), reader.height, reader.width) == (row.frames, row.height, row.width) == (5, 64, 128)
            stored = reader.frames(range(5)).numpy()
        assert np.abs(coarse(stored) - coarse(syn.render(scene))).mean() < 6  # two videos differ by 20 and more
    assert len(open_manifest(rendered)) == 18


def test_killed_rendering_is_continued_and_ends_the_same(rendered, tmp_path):
    out = tmp_path / "killed"
    script = f"from ivdr.synthetic import render_dataset; render_dataset({str(out)!r}, 18, workers=0, **{TINY!r})"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(syn.__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not list(out.rglob("*.mp4")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")}
    assert kept and not (out / "manifest.csv").exists()
    syn.render_dataset(out, 18, workers=0, **TINY)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # what was finished is not rendered again
    visible = {name: digest for name, digest in digests(out).items() if not Path(name).name.startswith(".")}
    assert visible == digests(rendered)


def test_foreign_folder_and_other_options_are_refused_untouched(rendered, tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not an empty folder"):
        syn.render_dataset(tmp_path, 2, workers=0, **TINY)
    assert digests(tmp_path).keys() == {"holiday.mp4"}
    with pytest.raises(ValueError, match="not an empty folder"):
        syn.render_dataset(tmp_path / "holiday.mp4", 2, workers=0, **TINY)
    before = digests(rendered)
    with pytest.raises(ValueError, match="seed 0, now 4"):
        syn.render_dataset(rendered, 18, seed=4, workers=0, **TINY)
    assert digests(rendered) == before


def test_odd_sizes_are_stated_as_they_are_stored(tmp_path):
    table = pd.read_csv(syn.render_dataset(tmp_path / "odd", 1, workers=0, n_frames=3, size=(33, 45), progress=False))
    assert (table.height[0], table.width[0]) == (34, 46)


# --- the committed samples ------------------------------------------------------------------------------------------


def test_samples_are_whole_small_and_split_by_person():
    manifest = open_manifest(SAMPLES)
    table = manifest.table
    assert manifest.classes == sorted(syn.ACTIONS) and dict(table.split.value_counts()) == {"train": 400, "test": 200}
    assert (table.groupby("group").split.nunique() == 1).all()
    assert sum(p.stat().st_size for p in SAMPLES.rglob("*") if p.is_file()) <= 10_000_000
    wrong = [path for path, sha in zip(table.path, table.sha256) if hashlib.sha256((SAMPLES / path).read_bytes()).hexdigest() != sha]
    assert not wrong
    assert {str(p.relative_to(SAMPLES)) for p in SAMPLES.rglob("*.mp4")} == set(table.path)


def test_samples_are_what_the_renderer_makes_today():
    table = pd.read_csv(SAMPLES / "manifest.csv")
    plan = syn.dataset_scenes(600, seed=0)
    assert [s.action for _, s in plan] == list(table.label) and [s.person.name for _, s in plan] == list(table.person)
    for index in (0, 205, 411, 599):
        with VideoReader(SAMPLES / table.path[index]) as reader:
            stored = reader.frames(range(0, 64, 9)).numpy()
        assert np.abs(coarse(stored) - coarse(syn.render(plan[index][1])[::9])).mean() < 3, table.path[index]

"""Measuring and comparing runs: what is measured, what a failing method costs, what is said of the figures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from ivdr import measure as room
from ivdr.compare import Comparison, compare, matched_epochs, method_rows, plan_jobs, story
from ivdr.measure import COLUMNS, cost, headline, inter_figures, intra_figures, measure, progress_figures, protocol_of, video_cost
from ivdr.datasets import open_manifest
from ivdr.evaluation import Features, load_result
from ivdr.synthetic import render_dataset
from ivdr.training import pretrain, read_config

TINY = {"backbone_options.width": 4, "clips.length": 4, "clips.stride": 3, "clips.size": 16, "batch_size": 8, "epochs": 1, "tensorboard": False}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Two dozen small rendered videos."
    return render_dataset(tmp_path_factory.mktemp("compare") / "videos", 24, seed=5, n_frames=24, size=(48, 64), workers=0, progress=False).parent


def features(n_videos: int, seed: int, n_clips: int = 4, width: int = 6) -> Features:
    "Features of which one direction is the clip's position in its video."
    rng = np.random.default_rng(seed)
    targets = np.arange(n_videos) % 2
    position = np.broadcast_to(np.linspace(0.1, 0.9, n_clips), (n_videos, n_clips)).astype(np.float32).copy()
    clips = rng.normal(size=(n_videos, n_clips, width)).astype(np.float32) * 0.1
    clips[..., 0] += 3 * position
    clips[..., 1] += 4 * targets[:, None]
    return Features(clips, position, targets.astype(np.int64), ["fall", "walk"], [f"{i}.mp4" for i in range(n_videos)], [f"p{i % 5}" for i in range(n_videos)])


def test_every_column_of_the_table_is_measured() -> None:
    train, test = features(40, 0), features(20, 1)
    backwards_train, backwards_test = (Features(np.roll(f.clips, 1, 2), f.position, f.targets, f.classes, f.paths, f.groups) for f in (train, test))
    protocol = protocol_of(read_config("laptop", data="d", out="o")).replace(ks=(1, 5, 50))
    inter, inter_blind = inter_figures(train, test, ("retrieval", "linear"), protocol)
    intra, intra_blind = intra_figures(train, test, (backwards_train, backwards_test))
    found, blind = inter | intra, inter_blind | intra_blind
    row = headline(found)
    assert row.keys() == COLUMNS.keys() and not any(np.isnan(value) for value in row.values())
    assert row["R@1 %"] == 100 and row["linear %"] == 100 and row["order %"] > 80 and row["progress R2"] > 0.95
    assert "R@50" not in found["retrieval"], "no R@k beyond the gallery"
    assert headline(blind)["order %"] == 50 and headline(blind)["linear %"] == 50


def test_videos_too_short_to_have_a_progress_are_counted_not_judged() -> None:
    train, test = features(40, 0), features(20, 1)
    test.position[:5] = 0.5
    figures = progress_figures(train, test)
    assert figures["passed_over"] == 5 and figures["r2"] is not None and figures["r2"] > 0.9
    test.position[:] = 0.5
    assert progress_figures(train, test) == {"r2": None, "r2_shared": None, "passed_over": 20}
    assert np.isnan(headline({"progress": progress_figures(train, test)})["progress R2"])


def test_a_failing_method_does_not_take_the_others_down(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "simclr-s0").write_text("a file where the run folder should be")
    comparison = compare(videos, ["untrained", "simclr"], tmp_path, "laptop", overrides=TINY)
    assert [run.name for run in comparison.runs] == ["untrained-s0"] and list(comparison.failed) == ["simclr-s0"]
    assert "simclr-s0.out" in comparison.failed["simclr-s0"], "the reason says where everything that was printed lies"
    (tmp_path / "simclr-s0").unlink()
    stamp = (tmp_path / "untrained-s0" / "results" / "evaluation.json").stat().st_mtime_ns
    again = compare(videos, ["untrained", "simclr"], tmp_path, "laptop", overrides=TINY)
    assert len(again.runs) == 2 and not again.failed
    assert stamp == (tmp_path / "untrained-s0" / "results" / "evaluation.json").stat().st_mtime_ns, "a finished run is not run again"
    assert json.loads((tmp_path / "table.json").read_text())["failed"] == {}
    assert pd.read_csv(tmp_path / "table.csv")["method"].tolist() == ["untrained", "simclr"]
    assert "chance" in (tmp_path / "table.txt").read_text()


def test_all_methods_failing_is_an_error(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "simclr-s0").write_text("in the way")
    with pytest.raises(RuntimeError, match="simclr-s0"):
        compare(videos, ["simclr"], tmp_path, "laptop", overrides=TINY)


def test_a_result_of_another_configuration_is_not_passed_off_as_this_one(videos: Path, tmp_path: Path) -> None:
    compare(videos, ["untrained"], tmp_path, "laptop", overrides=TINY)
    with pytest.raises(RuntimeError, match="clips.stride"):
        compare(videos, ["untrained"], tmp_path, "laptop", overrides=TINY | {"clips.stride": 2})


def test_measure_states_what_it_depends_on_and_asks_for_known_things(videos: Path, tmp_path: Path) -> None:
    run = pretrain(read_config("laptop", data=str(videos), out=str(tmp_path / "run"), **(TINY | {"epochs": 0})), progress=False)
    result = measure(run, videos, progress=False)
    assert (result.method, result.backbone, result.seed, result.protocol.clip_len) == ("untrained", "small", 0, 4)
    assert len(Features.load(run / "results" / "features_train.npz")) + len(Features.load(run / "results" / "features_test.npz")) == 24
    with pytest.raises(ValueError, match="juggling.*retrieval"):
        measure(run, videos, tasks=["juggling"])
    with pytest.raises(ValueError, match="secret.*iivdr"):
        measure(run, videos, protocol="secret")


def test_jobs_differ_in_method_and_seed_only() -> None:
    jobs = plan_jobs("videos", method_rows(["untrained", "simclr", "iivdr"], [0, 1]), Path("out"), "laptop", {})
    assert [(job.method, job.seed) for job in jobs] == [(m, s) for s in (0, 1) for m in ("untrained", "simclr", "iivdr")]
    assert len({(job.config.batch_size, job.config.optim.lr, job.config.clips.stride) for job in jobs}) == 1
    assert {job.config.epochs for job in jobs if job.method != "untrained"} == {read_config("laptop", data="d", out="o").epochs}
    with pytest.raises(ValueError, match="byol"):
        method_rows(["byol"], [0])


def test_flops_are_those_of_the_layers() -> None:
    config = read_config("laptop", data="d", out="o", method="simclr", **{"backbone_options.width": 1, "clips.length": 4, "clips.size": 16, "batch_size": 2})
    # multiply-adds of five 3x3x3 convolutions, channels 3 1 2 4 8 8, on maps of 4x8x8, 4x4x4, 2x2x2, 1x1x1, 1x1x1
    forward = 27 * (3 * 1 * 256 + 1 * 2 * 64 + 2 * 4 * 8 + 4 * 8 + 8 * 8)
    head = 8 * 8 + 8 * 128
    backward = 2 * (forward + head) - 27 * 3 * 256  # no gradient for the pixels
    # cosines of 4 clips with one another: forward, and twice backward (both factors are the same clips)
    cosines = 3 * 4 * 4 * 128 / 2
    found = video_cost(config)
    assert found.clips == 2 and found.flops == pytest.approx(2 * (2 * (forward + head + backward) + cosines), rel=1e-3)


def test_a_configuration_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, real = [], room._count
    monkeypatch.setattr(room, "_counted", {})
    monkeypatch.setattr(room, "_count", lambda config: counted.append(config.method) or real(config))
    jobs = plan_jobs("videos", method_rows(["simclr", "moco", "iivdr"], [0, 1, 2]), Path("out"), "laptop", TINY, "flops")
    for job in jobs:
        video_cost(job.config)
    assert sorted(counted) == ["iivdr", "moco", "simclr"]


def test_budgets_are_equal_in_what_they_name() -> None:
    reference = read_config("laptop", data="d", out="o")
    for name in ("simclr", "moco", "tclr", "tcgl"):
        config = read_config("laptop", data="d", out="o", method=name)
        assert matched_epochs(config, reference, "epochs") == reference.epochs
        for budget, of in (("clips", lambda c: video_cost(c).clips), ("flops", lambda c: video_cost(c).flops)):
            epochs = matched_epochs(config, reference, budget)  # type: ignore[arg-type]
            assert abs(epochs * of(config) - reference.epochs * of(reference)) <= 0.51 * of(config), (name, budget)
    with pytest.raises(ValueError, match="hours.*epochs, clips, flops"):
        matched_epochs(reference, reference, "hours")  # type: ignore[arg-type]


def test_all_methods_meet_under_one_budget_and_one_protocol(videos: Path, tmp_path: Path) -> None:
    methods = ["untrained", "simclr", "moco", "iivdr", "iivdr-moco", "tclr", "tcgl"]
    tiny = TINY | {"clips.length": 8, "clips.size": 32, "epochs": 3}
    comparison = compare(videos, methods, tmp_path, "laptop", overrides=tiny, budget="flops")
    assert not comparison.failed and comparison.table["method"].tolist() == methods
    assert {str(load_result(run / "results" / "evaluation.json").protocol) for run in comparison.runs} == {str(protocol_of(read_config(
        "laptop", data="d", out="o", **tiny)).replace(name="clips of laptop"))}, "TCGL, which trains on other clips, is measured on the same"
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["budget"] == "flops" and len(table["runs"]) == len(methods) and table["failed"] == {}
    for row in table["runs"]:
        assert row["hours"] >= 0 and (row["method"] == "untrained") == (row["TFLOP"] == 0 == row["clips seen"])
    assert "floating-point operations" in (tmp_path / "table.txt").read_text()


def test_what_cannot_be_trained_is_refused_before_anything_is(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tclr.*dilated"):
        compare(videos, ["simclr", "tclr"], tmp_path / "out", "laptop", overrides=TINY | {"backbone_options.dilated": "false"})
    assert not (tmp_path / "out").exists()


def test_cost_counts_what_was_done(videos: Path, tmp_path: Path) -> None:
    config = read_config("laptop", data=str(videos), out=str(tmp_path / "run"), method="simclr", **TINY)
    found = cost(pretrain(config, progress=False))
    steps = len(open_manifest(videos).split("train")) // config.batch_size
    assert found["epochs"] == 1 and found["clips seen"] == steps * config.batch_size * 2 and found["hours"] > 0
    assert found["TFLOP"] == pytest.approx(video_cost(config).flops * steps * config.batch_size / 1e12)


def test_the_story_says_when_one_seed_cannot_carry_it() -> None:
    def table(seeds: int) -> pd.DataFrame:
        rows = [{"method": m, "seed": s, **{title: value + s for title in COLUMNS}} for m, value in (("simclr", 1.0), ("iivdr", 3.0)) for s in range(seeds)]
        return pd.DataFrame(rows)
    assert "one seed" in story(Comparison([], table(1), {}, {}))
    assert "2.0 standard deviations" in story(Comparison([], table(2), {}, {}))
    assert "FAILED moco-s0: why" in story(Comparison([], table(1), {}, {"moco-s0": "why"}))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_comparison_that_is_stopped_takes_its_jobs_along_and_goes_on_later(number: signal.Signals, videos: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ivdr.cli", "compare", "--data", str(videos), "--methods", "simclr,moco", "--out", str(tmp_path / "out"), "--budget", "epochs",
             *(f"--{key}={value}" for key, value in (TINY | {"epochs": 80}).items())]
    with (tmp_path / "printed").open("w") as printed:
        # a shell that starts something in the background lets it ignore Ctrl-C, and what it starts inherits that
        stopped = subprocess.Popen(words, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        started = time.monotonic()
        while not all(log.is_file() and len(log.read_text().splitlines()) > 4 for log in (tmp_path / "out" / f"{name}-s0" / "log.csv" for name in ("simclr", "moco"))):
            assert stopped.poll() is None and time.monotonic() - started < 200, (tmp_path / "printed").read_text()
            time.sleep(0.05)
        jobs = [child for child in psutil.Process(stopped.pid).children(recursive=True) if "ivdr.compare" in child.cmdline()]
        os.kill(stopped.pid, number)
        code = stopped.wait(120)
    assert len(jobs) == 2 and code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert not psutil.wait_procs(jobs, timeout=60)[1], "a job outlives its comparison"
    steps = {name: len(pd.read_csv(tmp_path / "out" / f"{name}-s0" / "log.csv")) for name in ("simclr", "moco")}
    assert max(steps.values()) < 160, "it was stopped too late to show anything"
    assert subprocess.run(words, capture_output=True).returncode == 0
    for name, before in steps.items():
        log = pd.read_csv(tmp_path / "out" / f"{name}-s0" / "log.csv")
        assert log["step"].tolist() == list(range(1, len(log) + 1)) and len(log) > before

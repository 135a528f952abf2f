"""The `ivdr` command as a person types it: help, one clear line for every mistake, and the whole way from videos to a report."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivdr.cli import dotted_options, main

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "realdata"
VERBS = ("demo", "render", "scan", "prepare", "pretrain", "evaluate", "export", "features", "retrieve", "compare", "bench", "report", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_help_gives_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0 and f"ivdr {verb}" in capsys.readouterr().out.split("example:")[1]


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from ivdr.cli import make_parser; make_parser().format_help(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_dotted_options() -> None:
    assert dotted_options(["--optim.lr=0.1", "--clips.length", "8", "--grad-accum", "2"]) == {"optim.lr": "0.1", "clips.length": "8", "grad_accum": "2"}
    for words in (["stray"], ["--optim.lr"], ["--optim.lr", "--seed=1"]):
        with pytest.raises(ValueError, match="--"):
            dotted_options(words)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Two dozen small rendered videos."
    out = tmp_path_factory.mktemp("cli") / "videos"
    assert main(["render", "--videos", "24", "--out", str(out), "--seed", "3", "--frames", "32", "--height", "48", "--width", "64", "--workers", "2"]) == 0
    return out


@pytest.fixture(scope="module")
def trained(videos: Path) -> Path:
    "A run of one epoch."
    run = videos.parent / "run"
    assert main(["pretrain", "--data", str(videos), "--method", "iivdr", "--recipe", "laptop", "--out", str(run), "--epochs", "1",
                 "--batch-size", "8", "--workers", "0", "--method_options.ramp_steps", "10"]) == 0
    return run


@pytest.mark.parametrize("words, named", [
    (["report", "no/such/run"], "no/such/run"),
    (["prepare", "no/such/folder", "--out", "o"], "no/such/folder"),
    (["prepare", "VIDEOS", "--out", "o", "--crf", "60"], "crf 60"),
    (["evaluate", "no/such/run", "--data", "VIDEOS"], "no/such/run"),
    (["scan", "no/such/folder", "--out", "m.csv"], "no/such/folder"),
    (["scan", "marsian", "VIDEOS", "--out", "m.csv"], "marsian"),
    (["pretrain", "--data", "no/such/folder", "--out", "r", "--recipe", "laptop"], "no/such/folder"),
    (["pretrain", "--data", "VIDEOS", "--out", "r", "--recipe", "lapdog"], "lapdog"),
    (["pretrain", "--data", "VIDEOS", "--out", "r", "--recipe", "laptop", "--method", "byol"], "byol"),
    (["pretrain", "--data", "VIDEOS", "--out", "r", "--recipe", "laptop", "--backbone", "vit"], "vit"),
    (["pretrain", "--data", "VIDEOS", "--out", "r", "--recipe", "laptop", "--optim.lrr", "1"], "lrr"),
    (["pretrain", "--data", "VIDEOS", "--out", "r", "--recipe", "laptop", "--epochs", "1", "--method_options.thetta", "1"], "thetta"),
    (["compare", "--data", "VIDEOS", "--methods", "simclr,byol", "--out", "c"], "byol"),
    (["compare", "--data", "VIDEOS", "--methods", "simclr", "--out", "c", "--batch-size", "500"], "500"),
    (["compare", "--data", "VIDEOS", "--methods", "tclr", "--out", "c", "--backbone_options.dilated", "false"], "dilated"),
    (["compare", "--data", "no/such/folder", "--methods", "tclr", "--out", "c"], "no/such/folder"),
    (["bench", "losses", "--batch-size", "1"], "batch_size is 1"),
    (["bench", "retrieval", "--queries", "0"], "queries is 0"),
    (["features", "RUN", "--data", "VIDEOS", "--out", "f", "--protocol", "mine"], "mine"),
    (["features", "no/such/run", "--data", "VIDEOS", "--out", "f"], "no/such/run"),
    (["evaluate", "RUN", "--data", "VIDEOS", "--tasks", "juggling"], "juggling"),
    (["evaluate", "RUN", "--data", "VIDEOS", "--protocol", "mine"], "mine"),
])
def test_a_mistake_is_one_line_that_names_it(words: list[str], named: str, videos: Path, trained: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([{"VIDEOS": str(videos), "RUN": str(trained)}.get(word, word) for word in words])
    lines = [line for line in capfd.readouterr().err.splitlines() if "ivdr: error:" in line]
    assert code == 2 and len(lines) == 1 and named in lines[0]
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["scan", "x", "--out", "y", "--wrokers", "2"])
    assert end.value.code == 2 and "--wrokers" in capsys.readouterr().err


def test_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nowhere"]) == 2 and "Traceback" not in capsys.readouterr().err
    for words in (["report", "nowhere", "--debug"], ["--debug", "report", "nowhere"]):
        with pytest.raises(ValueError, match="nowhere"):
            main(words)


@pytest.mark.parametrize(("room", "name", "words", "code"), [
    ("ivdr.training", "pretrain", ["pretrain", "--data", "data_samples", "--method", "simclr", "--out", "run"], 0),
    ("ivdr.datasets", "scan", ["scan", "data_samples", "--out", "list.csv"], 128 + signal.SIGTERM),
])
def test_sigterm_at_any_moment_is_a_word_and_cleans_up(room: str, name: str, words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    heard, cleaned = signal.getsignal(signal.SIGTERM), []

    def busy(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(importlib.import_module(room), name, busy)
    assert main([str(tmp_path / word) if word in ("run", "list.csv") else word for word in words]) == code
    assert "stopped by SIGTERM" in capsys.readouterr().err and cleaned
    assert signal.getsignal(signal.SIGTERM) == heard


def test_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "decoder pyav" in capsys.readouterr().out


def test_from_videos_to_report(videos: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", str(videos), "--out", str(tmp_path / "manifest.csv")]) == 0
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "manifest.csv"), "--tasks", "retrieval,linear,probes"]) == 0
    shown = capsys.readouterr().out
    assert "chance" in shown and "stride" in shown
    result = json.loads((trained / "results" / "evaluation.json").read_text())
    assert {"retrieval", "linear", "progress", "order", "variance"} <= result["metrics"].keys()
    assert result["manifest_hash"] and result["protocol"]["n_clips"] == 10 and "evaluate" in result["command"]
    assert main(["report", str(trained), "--out", str(tmp_path / "report.html")]) == 0
    assert "<html" in (tmp_path / "report.html").read_text()[:500]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"NO REAL VIDEOS: {SHARED} is not there")
@pytest.mark.parametrize("name", ["actions", "same_video"])
def test_real_videos_from_scan_to_report(name: str, tmp_path: Path) -> None:
    manifest, run = tmp_path / "manifest.csv", tmp_path / "run"
    assert main(["scan", str(SHARED / name), "--out", str(manifest)]) == 0
    assert main(["pretrain", "--data", str(manifest), "--method", "iivdr", "--recipe", "laptop", "--out", str(run), "--epochs", "1",
                 "--batch-size", "9", "--workers", "0"]) == 0
    assert main(["evaluate", str(run), "--data", str(manifest)]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0


def test_features_become_files_that_are_kept(videos: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["features", str(trained), "--data", str(videos), "--out", str(tmp_path / "features"), "--dtype", "float16"]
    assert main(words) == 0
    files = sorted((tmp_path / "features").rglob("*.npy"))
    stamps = [file.stat().st_mtime_ns for file in files]
    assert {file.parent.name for file in files} == {"train", "test"} and "10 clips each" in capsys.readouterr().out
    assert main(words) == 0 and [file.stat().st_mtime_ns for file in files] == stamps, "what is complete is not made again"


def test_bench_of_retrieval_says_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "retrieval", "--queries", "300", "--gallery", "900", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bench"] == "retrieval"


def test_bench_refuses_no_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decode", "--data", str(ROOT / "data_samples"), "--videos", "1", "--rounds", "0"]) == 2
    assert "rounds is 0" in capsys.readouterr().err


def test_bench_ends_with_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "losses", "--batch-size", "4", "--json"]) == 0
    shown = capsys.readouterr().out.splitlines()
    found = json.loads(shown[-1])
    assert found["bench"] == "losses" and found["ratio"] > 0 and len(found["rows"]) == 2 and "TCLR" in shown[2]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"NO REAL VIDEOS: {SHARED} is not there")
def test_six_methods_compared_on_real_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods, small = "simclr,moco,iivdr,iivdr-moco,tclr,tcgl", ["--backbone_options.width=4", "--clips.length=8", "--clips.stride=2", "--clips.size=32"]
    assert main(["compare", "--data", str(SHARED / "same_video"), "--methods", methods, "--out", str(tmp_path / "out"), "--epochs", "1", *small]) == 0
    shown = capsys.readouterr().out
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["method"] for row in table["runs"]] == ["untrained", *methods.split(",")] and "Equal for all" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in ("TCLR", "TCGL", "IIVDR on MoCo"))

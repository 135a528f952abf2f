"""Measuring one network: every task from the command line, what is missing, what is kept, what is refused."""
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ivdr import datasets, measure as room
from ivdr.cli import main
from ivdr.datasets import Manifest, label_subset, open_manifest
from ivdr.evaluation import FeatureFiles, Features, extract_features, knn, linear_probe, load_result, retrieve
from ivdr.measure import TASKS, Options, figure_table, headline, measure, summary, video_cost
from ivdr.synthetic import render_dataset
from ivdr.training import CheckpointError, load_run, pretrain, read_config, save_checkpoint

ACTIONS = Path(__file__).parents[1].parent / "shared" / "realdata" / "actions"
REAL = pytest.mark.skipif(not ACTIONS.is_dir(), reason=f"NO REAL VIDEOS: {ACTIONS} is not there")
FRESH = multiprocessing.get_context("forkserver")
multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "pytest", "hypothesis", "ivdr.evaluation"])

TINY: dict[str, Any] = {"backbone_options.width": 4, "clips.length": 4, "clips.stride": 3, "clips.size": 16, "batch_size": 8, "tensorboard": False, "threads": 1}
QUICK = """method: supervised
backbone: small
epochs: 1
batch_size: 8
workers: 0
tensorboard: false
clips: {length: 4, stride: 3, size: 16, reverse_p: 0.0, augment: light, cache: true}
optim: {name: adamw, lr: 0.001, schedule: constant}
"""


def untrained(out: Path, data: Path, **changes: Any) -> Path:
    "A run folder that holds first weights."
    return pretrain(read_config("laptop", data=str(data), out=str(out), **TINY | {"epochs": 0} | changes), progress=False)


def render(out: Path, n: int, *actions: str) -> Path:
    return render_dataset(out, n, seed=len(actions), n_frames=20, size=(32, 40), actions=actions, workers=0, progress=False).parent


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("measure") / "videos", 24, "walk", "run", "sit_down")


@pytest.fixture(scope="module")
def network(videos: Path) -> Path:
    return untrained(videos.parent / "network", videos)


@pytest.fixture
def run(network: Path, tmp_path: Path) -> Path:
    "A run folder of which nothing was measured."
    return Path(shutil.copytree(network, tmp_path / "run"))


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    "A list that grows by the first argument of every call."
    calls: list[Any] = []
    real = getattr(module, name)
    monkeypatch.setattr(module, name, lambda first, *rest, **named: calls.append(first) or real(first, *rest, **named))
    return calls


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


# -- every task

@REAL
def test_every_task_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, recipe = untrained(tmp_path / "run", ACTIONS), tmp_path / "quick.yaml"
    recipe.write_text(QUICK)
    assert main(["evaluate", str(run), "--data", str(ACTIONS), "--tasks", ",".join(TASKS), "--labels", "10,50", "--draws", "2", "--classes", "sit, stand",
                 "--k", "5", "--finetune", str(recipe), "--share", "50"]) == 0
    shown, result = capsys.readouterr().out, load_result(run / "results" / "evaluation.json")
    found = result.metrics
    asked = {"retrieval", "retrieval_uncentred", "retrieval_centred", "knn", "linear", "sgd", "limited", "confusion", "finetune", "scratch", "variance", "progress", "order"}
    assert set(found) == asked and set(result.chance) == asked - {"variance"} and all(word in shown for word in (*asked - {"retrieval_uncentred"}, "chance", "single clips"))
    train, test = (extract_features(load_run(run)[0].encoder, open_manifest(ACTIONS).split(name), result.protocol, progress=False) for name in ("train", "test"))
    assert found["knn"] == {"accuracy": knn(train.videos, train.labels, test.videos, test.labels, 5), "k": 5, "temperature": 0.07}
    assert found["retrieval"] == {f"R@{k}": v for k, v in retrieve(test, train, result.protocol.replace(ks=(1, 5, 10, 20))).recall.items()}
    own = retrieve(test, train, result.protocol.replace(ks=(1, 5, 10, 20), centring="own"))
    assert found["retrieval_centred"] == {f"R@{k}": v for k, v in own.recall.items()}
    given = (train.labels, test.clips, test.labels, 0, train.groups)
    assert found["linear"] == linear_probe(train.videos, *given) and found["sgd"] == linear_probe(train.clips, *given, solver="sgd", fit="clips")
    assert found["linear"]["clip_accuracy"] is not None
    check_limited(found["limited"], train, test)
    check_confusion(found["confusion"], test)
    for task, start in (("finetune", str(run)), ("scratch", None)):
        draws = found[task]["draws"]
        assert [draw["seed"] for draw in draws] == [0, 1] and {draw["videos"] for draw in draws} == {len(label_subset(open_manifest(ACTIONS).split("train"), 0.5))}
        assert found[task]["accuracy"] == pytest.approx(np.mean([draw["accuracy"] for draw in draws])) and found[task]["share"] == 0.5
        assert read_config(str(Path(draws[0]["run"]) / "config.yaml")).init == start and read_config(str(Path(draws[0]["run"]) / "config.yaml")).backbone_options["width"] == 4
    assert not np.isnan(list(headline(found).values())).any()


def check_limited(found: dict[str, Any], train: Any, test: Any) -> None:
    assert list(found) == ["10", "50"] and [found[share]["videos"] for share in found] == [4, 13]
    for share, figures in found.items():
        for draw, accuracy in enumerate(figures["draws"]):
            labelled = set(label_subset(open_manifest(ACTIONS).split("train"), float(share) / 100, draw).table["path"])
            rows = [row for row, path in enumerate(train.paths) if path in labelled]
            assert accuracy == linear_probe(train.videos[rows], train.labels[rows], test.clips, test.labels, 0, [train.groups[row] for row in rows])["accuracy"]
        assert figures["accuracy"] == pytest.approx(np.mean(figures["draws"])) and figures["sd"] == pytest.approx(np.std(figures["draws"], ddof=1))


def check_confusion(found: dict[str, Any], test: Any) -> None:
    matrix = np.array(found["matrix"])
    assert found["classes"] == ["sit", "stand"] and matrix.sum(1).tolist() == [int((test.labels == name).sum()) for name in ("sit", "stand")]
    assert found["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())


def test_help_lists_every_task_and_what_it_tells(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    words = " ".join(capsys.readouterr().out.lower().split())
    for name, task in TASKS.items():
        assert f"{name} {task.tells}".lower() in words


def test_a_network_trained_with_labels_has_a_cost() -> None:
    config = read_config("finetune-laptop", data="d", out="o")
    assert video_cost(config).clips == 1 and video_cost(config).flops > 0


def test_few_labels_are_of_the_same_videos_for_every_network(videos: Path, run: Path, tmp_path: Path) -> None:
    other = untrained(tmp_path / "other", videos, seed=3)
    options = Options(labels=(25, 100), draws=2)
    found = [measure(one, videos, ["limited"], options=options, progress=False).metrics["limited"] for one in (run, other)]
    assert [{share: figures["videos"] for share, figures in one.items()} for one in found] == [{"25": found[0]["25"]["videos"], "100": 16}] * 2
    assert len(found[0]["100"]["draws"]) == 1 and found[0]["100"]["sd"] is None, "all labels can be dealt out in one way only"


# -- missing members

@REAL
def test_missing_members_are_said_and_the_others_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    copy, run = Path(shutil.copytree(ACTIONS, tmp_path / "actions")), untrained(tmp_path / "run", ACTIONS)
    assert main(["scan", str(copy), "--out", str(copy / "all.csv")]) == 0
    whole = Manifest.load(copy / "all.csv")
    lost = [*np.flatnonzero(whole.table["split"] == "test")[[0, 7]], np.flatnonzero(whole.table["split"] == "train")[3]]
    spared = {row: whole.files[row].read_bytes() for row in lost}
    for row in lost:
        break_file(whole.files[row])
    Manifest(whole.table.drop(index=lost), whole.root).save(copy / "rest.csv")
    tasks = "retrieval,knn,linear,limited,confusion,probes"
    capsys.readouterr()
    with caplog.at_level(logging.WARNING, "ivdr.measure"):
        assert main(["evaluate", str(run), "--data", str(copy / "all.csv"), "--tasks", tasks, "--labels", "100"]) == 0
    shown = capsys.readouterr().out
    assert "MISSING test: 2 of 14 missing" in shown and "train: 1 of 27 missing" in shown and "test: 2 of 14 missing" in caplog.text, "in the summary, and at the time"
    found = load_result(run / "results" / "evaluation.json")
    assert {split: (entry["of"], list(entry["videos"])) for split, entry in found.notes["missing"].items()} == {
        "test": (14, [whole.table["path"][row] for row in lost[:2]]), "train": (27, [whole.table["path"][lost[2]]])}
    assert all(reason for entry in found.notes["missing"].values() for reason in entry["videos"].values())
    other = Path(shutil.copytree(run, tmp_path / "other"))
    shutil.rmtree(other / "results")
    expected = measure(other, copy / "rest.csv", tasks.split(","), options=Options(labels=(100,)), progress=False)
    assert "missing" not in expected.notes and same(found.metrics, expected.metrics) and same(found.chance, expected.chance)
    for row, content in spared.items():
        whole.files[row].write_bytes(content)
    mended = measure(run, copy / "all.csv", ["knn", "linear"], progress=False)
    assert "missing" not in mended.notes, "what was downloaded again is read again"
    assert same(mended.metrics, measure(other, ACTIONS, ["knn", "linear"], progress=False).metrics)


def same(one: Any, other: Any) -> bool:
    "The same figures; a feature may differ in its last bits with the batch that it was computed in."
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == pytest.approx(other, rel=1e-3, abs=1e-4)) if isinstance(one, float) else bool(one == other)


def test_what_a_scan_drops_is_missing_too(videos: Path, run: Path, tmp_path: Path) -> None:
    source, plain = open_manifest(videos), tmp_path / "plain"
    for file, (label, split) in zip(source.files, source.table[["label", "split"]].itertuples(index=False)):
        (plain / split / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, plain / split / label / file.name)
    broken = sorted((plain / "test").rglob("*.mp4"))[2]
    broken.write_bytes(b"")
    result = measure(run, plain, ["knn"], progress=False)
    name = broken.relative_to(plain).as_posix()
    assert result.notes["missing"] == {"test": {"of": 8, "videos": {name: result.notes["missing"]["test"]["videos"][name]}}} and "1 of 8 missing" in summary(result)


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_what_the_scan_of_a_manifest_dropped_is_missing_too(place: str, videos: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(videos, tmp_path / "copy"))
    broken = open_manifest(copy).split("test").files[1]
    out = copy / "manifest.csv" if place == "inside" else tmp_path / "lists" / "mine.csv"
    out.parent.mkdir(exist_ok=True)
    break_file(broken)
    for _ in range(2):  # a second scan finds it in no manifest
        assert main(["scan", str(copy), "--out", str(out)]) == 0
        missing = measure(run, out, ["knn"], progress=False).notes["missing"]
        assert {split: (entry["of"], list(entry["videos"])) for split, entry in missing.items()} == {"test": (8, [broken.relative_to(copy).as_posix()])}


def test_a_manifest_of_files_that_are_not_there_fails_before_any_work(videos: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(videos, tmp_path / "copy"))
    open_manifest(copy).files[0].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 24 videos"):
        measure(run, copy, ["knn"], progress=False)
    assert not list((run / "results").glob("**/*.npy"))


# -- stopped and repeated

def killed_while(asking: str, after: int, run: Path, videos: Path, options: Options) -> None:
    "In a process of its own: measure, and be killed at the call of a function."
    torch.set_num_threads(1)
    module, name = {"decoding": (datasets, "read_clips"), "limited": (room, "limited_figures")}[asking]
    real, calls = getattr(module, name), []

    def die(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    setattr(module, name, die)
    measure(run, videos, ["retrieval", "knn", "limited", "probes"], options=options, progress=False)


def test_a_killed_measurement_goes_on(videos: Path, network: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, tasks = Options(labels=(50,), draws=2), ["retrieval", "knn", "limited", "probes"]
    for asking, after in (("decoding", 20), ("limited", 0)):  # 16 videos for training, 8 for the test
        process = FRESH.Process(target=killed_while, args=(asking, after, run, videos, options))
        process.start()
        process.join(200)
        assert process.exitcode == -signal.SIGKILL
        if asking == "decoding":
            assert len(list(run.glob("results/features/*/forwards/shard-*.json"))) == 1 and not (run / "results" / "tasks").exists()
    decoded, voted = counted(monkeypatch, datasets, "read_clips"), counted(monkeypatch, room, "knn_figures")
    found = measure(run, videos, tasks, options=options, progress=False)
    assert not decoded and not voted, "what was there before is not done again"
    other = Path(shutil.copytree(network, tmp_path / "whole"))
    assert found.metrics == measure(other, videos, tasks, options=options, progress=False).metrics
    assert len(decoded) == 24, "each video once, for both directions of time"
    decoded.clear()
    assert measure(other, videos, tasks, options=options, progress=False).metrics == found.metrics and not decoded and len(voted) == 1


def test_a_changed_choice_is_asked_anew(videos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, voted, ranked = counted(monkeypatch, datasets, "read_clips"), counted(monkeypatch, room, "knn_figures"), counted(monkeypatch, room, "retrieval_figures")

    def ask(**changes: Any) -> dict[str, Any]:
        return dict(measure(run, videos, ["retrieval", "knn"], progress=False, **changes).metrics)
    first, protocol = ask(), room.protocol_of(load_run(run)[1])
    assert (len(decoded), len(voted), len(ranked)) == (24, 1, 1)
    assert ask() == first and ask(options=Options(draws=7, classes=("x", "y"))) == first and (len(voted), len(ranked)) == (1, 1), "another task's options do not matter"
    assert ask(options=Options(k=3))["knn"]["k"] == 3 and (len(decoded), len(voted), len(ranked)) == (24, 2, 1)
    assert ask() == first and len(voted) == 2, "the first answer is still there"
    assert ask(protocol=protocol.replace(name="same, named otherwise")) == first and len(voted) == 2
    centred = ask(protocol=protocol.replace(centring="gallery"))
    assert (len(decoded), len(ranked)) == (24, 2) and centred["retrieval_uncentred"] == first["retrieval"]
    ask(protocol=protocol.replace(stride=1))
    assert (len(decoded), len(ranked)) == (48, 3)


def test_damaged_answers_are_asked_anew(videos: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = measure(run, videos, ["knn"], progress=False).metrics
    (file,) = (run / "results" / "tasks").iterdir()
    file.write_text(file.read_text()[:-20])
    assert measure(run, videos, ["knn"], progress=False).metrics == first and "asked again" in caplog.text


# -- from one data set to another

def test_classes_of_two_data_sets_meet_by_name(videos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = render(tmp_path / "gallery", 18, "walk", "run", "punch", "wave_fast")
    tasks = ["retrieval", "knn", "linear", "limited", "confusion"]
    result = measure(run, videos, tasks, options=Options(labels=(50,), draws=1, k=4), gallery=gallery, progress=False)
    encoder = load_run(run)[0].encoder
    asked, ranked = (extract_features(encoder, open_manifest(data).split(split), result.protocol, progress=False) for data, split in ((videos, "test"), (gallery, "train")))
    whole = retrieve(asked, ranked, result.protocol.replace(ks=[k for k in result.protocol.ks if k <= len(ranked)]))
    assert result.metrics["retrieval"] == {f"R@{k}": value for k, value in whole.recall.items()}
    mine, theirs = (np.isin(features.labels, ["walk", "run"]) for features in (asked, ranked))
    assert result.metrics["knn"]["accuracy"] == knn(ranked.videos[theirs], ranked.labels[theirs], asked.videos[mine], asked.labels[mine], 4)
    assert result.metrics["confusion"]["classes"] == ["run", "walk"] and np.sum(result.metrics["confusion"]["matrix"]) == mine.sum()
    assert result.notes["left_out"] == {"videos": int((~mine).sum()), "of": len(asked), "classes": ["sit_down"]} and result.notes["gallery"] == str(gallery)
    assert f"{(~mine).sum()} of {len(asked)} test videos" in summary(result)
    assert result.manifest_hash == open_manifest(videos).hash
    at_home = measure(run, videos, tasks, options=Options(labels=(50,), draws=1, k=4), progress=False)
    assert at_home.metrics["retrieval"] != result.metrics["retrieval"] and "gallery" not in at_home.notes
    strange = render(tmp_path / "strange", 6, "punch", "wave_fast")
    assert main(["evaluate", str(run), "--data", str(videos), "--gallery", str(strange), "--tasks", "knn"]) == 2
    assert "no class in common" in capsys.readouterr().err


def test_folders_of_features_are_ranked_by_one_another(videos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features, out = tmp_path / "features", tmp_path / "found.json"
    assert main(["features", str(run), "--data", str(videos), "--out", str(features)]) == 0
    capsys.readouterr()
    assert main(["retrieve", str(features / "test"), str(features / "train"), "--out", str(out)]) == 0
    shown, found = capsys.readouterr().out, json.loads(out.read_text())
    expected = retrieve(FeatureFiles(features / "test"), FeatureFiles(features / "train"), room.protocol_of(load_run(run)[1]).replace(ks=(1, 5, 10)))
    assert {int(k): value for k, value in found["recall"].items()} == expected.recall and found["queries"] == 8 and f"{100 * expected.recall[1]:.2f}" in shown
    assert main(["retrieve", str(features / "test"), str(features / "train"), "--protocol", "iivdr"]) == 2 and "another protocol" in capsys.readouterr().err
    other = untrained(tmp_path / "other", videos, seed=4)
    assert main(["features", str(other), "--data", str(videos), "--out", str(tmp_path / "others"), "--splits", "train"]) == 0
    assert main(["retrieve", str(features / "test"), str(tmp_path / "others" / "train")]) == 2 and "two networks" in capsys.readouterr().err
    assert main(["retrieve", str(tmp_path), str(features / "train")]) == 2 and "index.json" in capsys.readouterr().err


# -- mistakes

@pytest.mark.parametrize("words, named", [
    (["--tasks", "juggling"], "unknown task 'juggling'; accepted: retrieval, knn"), (["--tasks", ""], "no task"),
    (["--tasks", "limited", "--labels", "0"], "above 0 and up to 100"), (["--tasks", "limited", "--labels", "10,200"], "above 0 and up to 100"),
    (["--tasks", "limited", "--labels", "ten"], "--labels is 'ten'"), (["--tasks", "limited", "--labels", ""], "labels"),
    (["--tasks", "confusion", "--classes", ""], "at least two classes"), (["--tasks", "confusion", "--classes", "walk"], "at least two classes"),
    (["--tasks", "confusion", "--classes", "walk,fly"], "unknown class 'fly'; training and test videos have run, sit_down, walk"),
    (["--tasks", "knn", "--k", "0"], "numbers from 1 up"), (["--tasks", "limited", "--draws", "0"], "numbers from 1 up"),
    (["--tasks", "finetune", "--finetune", "finetune-iivdrr"], "finetune-iivdr"), (["--tasks", "scratch", "--finetune", "laptop"], "no labels"),
    (["--tasks", "finetune", "--share", "0"], "share"), (["--gallery", "no/such/data"], "no/such/data"),
])
def test_a_mistake_is_named_before_any_work(words: list[str], named: str, videos: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert main(["evaluate", str(run), "--data", str(videos), *words]) == 2
    assert named in capsys.readouterr().err and sorted(run.rglob("*")) == before


def test_the_table_has_every_figure_beside_its_chance(videos: Path, run: Path) -> None:
    table = figure_table(measure(run, videos, ["retrieval", "linear", "limited", "probes"], options=Options(labels=(20, 50)), progress=False))
    few = len(label_subset(open_manifest(videos).split("train"), 0.2))
    rows = {(task, title): (figure, blind) for task, title, figure, blind in table[["task", "title", "figure", "chance"]].itertuples(index=False)}
    assert {("linear", "videos %"), ("linear", "single clips %"), ("order", "direction of a clip %"), ("limited", f"20 % of labels ({few}): videos %")} <= rows.keys()
    assert all(not np.isnan(blind) for (task, _), (_, blind) in rows.items() if task != "variance")
    assert ("retrieval_uncentred", "R@1 %") not in rows, "which is the protocol's own centring"


def test_an_exported_run_is_small_and_scores_what_it_says(videos: Path, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", videos, epochs=3)
    out = room.export_run(run, tmp_path / "shared" / "run", videos, log_rows=3, clips=4, progress=False)
    assert sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()) == [
        "checkpoints/last/model.safetensors", "checkpoints/last/state.json", "config.yaml", "log.csv", "results/evaluation.json", "results/features_test.npz"]
    (whole, _), (half, config) = load_run(run), load_run(out)
    for name, weight in whole.state_dict().items():
        assert torch.equal(half.state_dict()[name], weight.half().to(weight.dtype) if weight.is_floating_point() else weight), name
    kept = Features.load(out / "results" / "features_test.npz")  # before a new measurement leaves its own
    told, found = load_result(out / "results" / "evaluation.json"), measure(out, videos, progress=False)
    assert str(tmp_path) not in (out / "checkpoints" / "last" / "state.json").read_text(), "where it was made is nobody's business"
    assert told.metrics == found.metrics and told.notes["cost"]["clips seen"] == found.notes["cost"]["clips seen"] == room.cost(run)["clips seen"] > 0
    exact = extract_features(half.encoder, open_manifest(videos).split("test"), room.protocol_of(config, None), progress=False)
    assert kept.paths == exact.paths and kept.clips.dtype == np.float32 and kept.clips.shape[1] == 4 < exact.clips.shape[1]
    np.testing.assert_allclose(kept.clips, exact.clips[:, [0, 3, 6, 9]], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(kept.position, exact.position[:, [0, 3, 6, 9]])


def test_an_export_that_fails_leaves_nothing_and_takes_nobodys_place(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = untrained(tmp_path / "run", videos)
    weights = run / "checkpoints" / "last" / "model.safetensors"
    assert main(["export", str(run), "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "shared")]) == 2 and "nowhere" in capsys.readouterr().err
    assert not list((tmp_path / "shared").iterdir())
    assert main(["export", str(run), "--out", str(tmp_path / "shared")]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "shared")]) == 2 and "exists" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="corrupt"):
        room.export_run(run, tmp_path / "other")
    method, _ = load_run(tmp_path / "shared" / "run")
    assert not (tmp_path / "other").exists() and all(torch.isfinite(weight).all() for weight in method.state_dict().values())


def test_weights_that_half_precision_cannot_hold_are_refused_by_name(videos: Path, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", videos, **{"method_options.theta": 0.05})
    method, config = load_run(run)
    with torch.no_grad():
        next(method.parameters()).fill_(1e6)
    save_checkpoint(run, method, torch.optim.SGD(method.parameters()), {"step": 1})
    with pytest.raises(ValueError, match=r"backbone\..*float16 cannot hold.*float32"):
        room.export_run(run, tmp_path / "out")
    assert load_run(room.export_run(run, tmp_path / "out", dtype=torch.float32))[0].state_dict().keys() == method.state_dict().keys()

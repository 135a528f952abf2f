"""Fine-tuning: which labels it uses, what it may go by, what stays as it was, and that a killed run ends with the same bits."""
import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import kill_when
from torch import Tensor

from ivdr import training
from ivdr.augment import RECIPES, ClipAugment
from ivdr.backbones import create_backbone
from ivdr.datasets import COLUMNS, Manifest, held_out, label_subset, open_manifest
from ivdr.evaluation import PROTOCOLS, Predictions, Protocol, classify, evaluation_clips, finetune
from ivdr.iivdr import SimCLR
from ivdr.tcgl import MotionEncoder
from ivdr.training import OptimConfig, Supervised, learning_rate, load_run, plateau_rate, pretrain, read_config, read_epochs, read_log
from ivdr.video import write_video

multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "pytest", "hypothesis", "ivdr.evaluation"])
FRESH = multiprocessing.get_context("forkserver")
QUICK = Protocol("quick", n_clips=2, clip_len=4, stride=1, size=16, frame_size=(18, 24))


# -- data: three classes, four groups, a class is a direction of movement

@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder, rows = tmp_path_factory.mktemp("videos"), []
    for number in range(30):
        label, group = ("left", "right", "still")[number % 3], f"g{number // 3 % 5}"
        scene = torch.randint(0, 255, (24, 32, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        frames = torch.stack([scene.roll({"left": -2, "right": 2, "still": 0}[label] * t, 1) for t in range(12)])
        write_video(folder / f"v{number:02d}.mp4", frames)
        rows.append((f"v{number:02d}.mp4", label, group, "test" if group == "g4" else "train", 12, 25.0, 32, 24, f"{number:064d}"))
    Manifest(pd.DataFrame(rows, columns=list(COLUMNS)), folder).save(folder / "manifest.csv")
    return open_manifest(folder)


@pytest.fixture(scope="module")
def pretrained(videos: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tiny(videos, tmp_path_factory.mktemp("pretrained") / "run", method="simclr", epochs=2), progress=False)


SMALL: dict[str, Any] = {
    "epochs": 4, "batch_size": 4, "workers": 0, "threads": 1, "tensorboard": False, "checkpoint_every": 3, "clips.length": 4, "clips.stride": 1,
    "clips.size": 16, "clips.augment": "light", "clips.cache": True, "optim.warmup_epochs": 0, "backbone": "small", "backbone_options.width": 4}


def tiny(videos: Manifest, out: Path, **changes: Any) -> training.TrainConfig:
    return read_config(None, **SMALL | {"data": str(videos.root), "out": str(out), "device": "cpu", "resume": "auto"} | changes)


def quickly(init: Path | None, videos: Manifest, out: Path, **changes: Any) -> dict[str, Any]:
    call = {name: changes.pop(name) for name in ("share", "seed", "recipe") if name in changes}
    return finetune(init, videos.split("train"), videos.split("test"), out, protocol=QUICK, device="cpu", progress=False, **call, **SMALL | changes)


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


# -- subsets of labels

@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
    groups = draw(st.lists(st.sampled_from("uvwxyz"), min_size=len(labels), max_size=len(labels)))
    rows = [(f"{i:02d}.mp4", label, group, "train", 10, 25.0, 8, 8, "0" * 64) for i, (label, group) in enumerate(zip(labels, groups))]
    return Manifest(pd.DataFrame(draw(st.permutations(rows)), columns=list(COLUMNS)), "/videos")


@settings(max_examples=60, deadline=None)
@given(manifests(), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 5))
def test_a_subset_takes_its_share_of_every_class_from_as_many_groups_as_it_can(manifest: Manifest, share: float, other: float, seed: int) -> None:
    small, large = (label_subset(manifest, part, seed) for part in sorted((share, other)))
    assert set(small.table["path"]) <= set(large.table["path"]), "a larger share contains the smaller"
    assert list(large.table["path"]) == [path for path in manifest.table["path"] if path in set(large.table["path"])], "rows keep their order"
    chosen = label_subset(manifest, share, seed)
    for label, rows in manifest.table.groupby("label"):
        mine = chosen.table[chosen.table["label"] == label]
        assert len(mine) == max(1, round(share * len(rows)))
        assert mine["group"].nunique() == min(len(mine), rows["group"].nunique()), "one of each group before a second of any"
        counts, there = mine["group"].value_counts(), rows["group"].value_counts()
        assert all(counts.get(group, 0) >= counts.max() - 1 or counts.get(group, 0) == there[group] for group in there.index)


@settings(max_examples=30, deadline=None)
@given(manifests(), st.floats(0.05, 1), st.integers(0, 5))
def test_a_subset_depends_on_paths_and_not_on_the_order_of_rows(manifest: Manifest, share: float, seed: int) -> None:
    turned = Manifest(manifest.table[::-1], manifest.root)
    assert set(label_subset(turned, share, seed).table["path"]) == set(label_subset(manifest, share, seed).table["path"])
    assert len({tuple(label_subset(manifest, 1.0, s).table["path"]) for s in range(3)}) == 1


@settings(max_examples=80, deadline=None)
@given(manifests(), st.floats(0.05, 0.95), st.integers(0, 5))
def test_held_out_never_splits_a_group_nor_loses_a_class(manifest: Manifest, share: float, seed: int) -> None:
    by_group = manifest.table.groupby("group")["label"].agg(set)
    elsewhere = {group: manifest.table[manifest.table["group"] != group]["label"] for group in by_group.index}
    movable = [group for group, labels in by_group.items() if labels <= set(elsewhere[group])]
    if not movable:
        with pytest.raises(ValueError, match="none of .* groups can be held out"):
            held_out(manifest, share, seed)
        return
    fit, check = held_out(manifest, share, seed)
    assert not set(fit.table["group"]) & set(check.table["group"])
    assert fit.classes == manifest.classes and len(check) and len(fit) + len(check) == len(manifest)


def test_held_out_takes_about_its_share_of_every_class() -> None:
    rows = [(f"{c}-{g:02d}-{i}.mp4", f"class{c}", f"class{c}-g{g:02d}", "train", 10, 25.0, 8, 8, "0" * 64) for c in range(10) for g in range(25) for i in range(4)]
    fit, check = held_out(Manifest(pd.DataFrame(rows, columns=list(COLUMNS)), "/ucf"), 0.2, 3)
    assert check.table["label"].value_counts().to_dict() == {f"class{c}": 20 for c in range(10)}
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"share is {share}"):
            held_out(fit, share)
    with pytest.raises(ValueError, match="share is 0"):
        label_subset(fit, 0)


# -- the schedule that goes by held-out losses

@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 3), max_size=60), st.integers(0, 5), st.sampled_from([0.1, 0.5]), st.sampled_from([1e-5, 1e-2, 1.0]))
def test_plateau_is_torchs_scheduler_without_its_state(losses: list[float], patience: int, gamma: float, least: float) -> None:
    optim = OptimConfig(lr=0.1, schedule="plateau", patience=patience, gamma=gamma, min_lr=least)
    weight = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    slow = torch.optim.lr_scheduler.ReduceLROnPlateau(weight, factor=gamma, patience=patience, min_lr=min(0.1, least), eps=0)
    for done, loss in enumerate(losses, 1):
        slow.step(loss)
        assert plateau_rate(losses[:done], optim) == pytest.approx(weight.param_groups[0]["lr"])
    assert learning_rate(5, 10, 1, optim, losses) == plateau_rate(losses, optim)


def test_the_published_recipes() -> None:
    iivdr, kinetics, tcgl, probe, tclr = (read_config(name, data="d", out="o") for name in ("finetune-iivdr", "finetune-iivdr-k400", "finetune-tcgl", "linear-iivdr", "linear-tclr"))
    for config, epochs, drops in ((iivdr, 100, (30, 60, 80)), (kinetics, 150, (50, 100)), (probe, 50, (10, 20, 30, 40))):
        assert (config.epochs, config.batch_size, config.optim.name, config.optim.lr, config.optim.momentum) == (epochs, 16, "sgd", 0.05, 0.9)
        rates = [learning_rate(epoch * 596, epochs * 596, 596, config.optim) for epoch in range(epochs)]
        assert rates == pytest.approx([0.05 * 0.1 ** sum(epoch >= drop for drop in drops) for epoch in range(epochs)])
        assert (config.clips.length, config.clips.stride, config.clips.size, config.clips.augment) == (16, 2, 112, "iivdr-finetune")
        assert PROTOCOLS[str(config.finetune.protocol)].stride == 2 and config.finetune.select == "last"
    assert iivdr.optim.weight_decay == kinetics.optim.weight_decay == 1e-3 and probe.optim.weight_decay == 1e-4
    assert (tcgl.epochs, tcgl.batch_size, tcgl.optim.lr, tcgl.optim.weight_decay, tcgl.clips.stride) == (200, 16, 1e-3, 5e-4, 1)
    assert (tcgl.optim.schedule, tcgl.optim.patience, tcgl.optim.min_lr, tcgl.optim.gamma) == ("plateau", 50, 1e-5, 0.1)
    assert ClipAugment(tcgl.clips.augment).recipe.draws == ("top", "left"), "a random crop and nothing else"
    assert (tclr.optim.name, tclr.optim.lr, tclr.optim.weight_decay, tclr.batch_size, tclr.epochs) == ("adam", 1e-2, 0.0, 32, 100)
    assert [config.method_options["frozen"] for config in (iivdr, kinetics, tcgl, probe, tclr)] == [False, False, False, True, True]
    for config in (iivdr, kinetics, tcgl, probe, tclr):
        assert config.clips.reverse_p == 0 and config.method == "supervised"
    tclr_test = PROTOCOLS["tclr-test"]
    assert tclr_test.frame_size == ClipAugment("tclr-linear").evaluation_frame_size and tclr_test.n_clips == 10


def test_fine_tuning_augmentation_mirrors_half_and_jitters_four_fifths() -> None:
    recipe = RECIPES["iivdr-finetune"]
    draws = torch.rand(1, 4000, len(recipe.draws), generator=torch.Generator().manual_seed(0))
    frame = torch.zeros(18, 24, 3, dtype=torch.uint8)
    frame[:, :12, 0], frame[:, 12:, 2] = 200, 90
    clips = ClipAugment("iivdr-finetune", 16)(frame.expand(1, 4000, 2, -1, -1, -1), draws)[0]
    assert torch.equal(clips[:, :, 0], clips[:, :, 1]), "all frames of a clip alike"
    numbers = dict(zip(recipe.draws, draws[0].T))
    plain = ClipAugment("none", 16)(frame.expand(1, 1, 2, -1, -1, -1))[0, 0]
    still = numbers["jitter"] >= 0.8
    assert 0.18 < still.double().mean() < 0.22
    assert set(clips[still].flatten(1).unique().tolist()) <= set(plain.unique().tolist()), "colours as they were"
    red = clips[still][:, 0, 0, 0, 0] == plain[0, 0, 0, 0]
    assert torch.equal(red, numbers["flip"][still] >= 0.5), "the left edge is red unless mirrored"


# -- the method

def test_labels_reach_only_a_method_that_asks_for_them(videos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor | None, ...]] = []

    class Watching(SimCLR):
        def forward(self, *given: Tensor | None) -> dict[str, Tensor]:  # type: ignore[override]
            seen.append(given)
            return super().forward(*given)  # type: ignore[arg-type]

    monkeypatch.setitem(training.METHODS, "simclr", Watching)
    pretrain(tiny(videos, tmp_path / "run", method="simclr", epochs=1), progress=False)
    assert seen and all(len(given) == 2 and given[1] is None for given in seen)


def test_labels_are_those_of_the_videos_in_the_methods_order(videos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = training.batch_inputs

    def watching(batch: dict[str, Tensor], *rest: Any) -> Any:
        given = real(batch, *rest)
        seen.extend(zip(batch["index"].tolist(), given[2].tolist()))
        return given

    monkeypatch.setattr(training, "batch_inputs", watching)
    order = ["still", "unseen", "left", "right"]
    pretrain(tiny(videos, tmp_path / "run", method="supervised", epochs=2, **{"method_options.classes": order}), progress=False)
    train = videos.split("train")
    assert len({index for index, _ in seen}) > 12 and all(order[label] == train.table["label"][index] for index, label in seen)
    with pytest.raises(ValueError, match=r"2 classes that the method does not know \(right, still\); it knows left"):
        pretrain(tiny(videos, tmp_path / "other", method="supervised", **{"method_options.classes": ["left"]}), progress=False)
    assert not (tmp_path / "other").exists()


def test_supervised_training_just_works_and_learns(videos: Manifest, tmp_path: Path) -> None:
    run = pretrain(tiny(videos, tmp_path / "run", method="supervised", epochs=30, **{"optim.lr": 0.02, "clips.augment": "none"}), progress=False)
    method, config = load_run(run)
    assert config.method_options["classes"] == ["left", "right", "still"] and config.clips.reverse_p == 0.0
    log = read_log(run)
    assert log["loss"].iloc[0] == pytest.approx(np.log(3), abs=0.1) and log["accuracy"].iloc[-12:].mean() > 0.7
    assert isinstance(method, Supervised) and method.blind == {"loss": pytest.approx(np.log(3)), "accuracy": pytest.approx(1 / 3)}


def test_a_frozen_backbone_keeps_weights_and_statistics(videos: Manifest, pretrained: Path, tmp_path: Path) -> None:
    run = pretrain(tiny(videos, tmp_path / "run", method="supervised", init=str(pretrained), **{"method_options.frozen": True, "method_options.dropout": 0.2}), progress=False)
    before, after = (load_run(folder)[0].backbone.state_dict() for folder in (pretrained, run))
    assert any("running_var" in name for name in before) and all(torch.equal(before[name], after[name]) for name in before)
    first = training.build_method(load_run(run)[1])
    assert not torch.equal(first.head.weight, load_run(run)[0].head.weight), "the head did learn"  # type: ignore[arg-type, union-attr]
    thawed = pretrain(tiny(videos, tmp_path / "thawed", method="supervised", init=str(pretrained)), progress=False)
    moved = load_run(thawed)[0].backbone.state_dict()
    assert not any(torch.equal(before[name], moved[name]) for name in before if name.endswith(("running_var", "conv.weight")))


# -- weights to start from

def test_init_is_really_loaded_for_every_method(videos: Manifest, pretrained: Path, tmp_path: Path) -> None:
    source = load_run(pretrained)[0].backbone.state_dict()
    for name in ("supervised", "moco"):
        options = {"method_options.queue_size": 8} if name == "moco" else {}
        run = pretrain(tiny(videos, tmp_path / name, method=name, init=str(pretrained), epochs=0, **options), progress=False)
        method = load_run(run)[0]
        assert all(torch.equal(value, source[key]) for key, value in method.backbone.state_dict().items())
        assert json.loads((run / "run.json").read_text())["init"], "the hash of what was loaded is kept"


def test_tcgls_preparation_comes_with_its_weights(videos: Manifest, tmp_path: Path) -> None:
    options = {"clips.length": 8, "method_options.sets": 4}
    source = pretrain(tiny(videos, tmp_path / "tcgl", method="tcgl", epochs=1, **options), progress=False)
    result = quickly(source, videos, tmp_path / "tuned", recipe="finetune-tcgl", epochs=1, **{"clips.length": 8, "finetune.held_out": 0.3})
    method, config = load_run(tmp_path / "tuned")
    assert isinstance(method, Supervised) and method.band == "motion" == config.method_options["band"] and result["select"] == "held-out"
    clips = torch.randn(2, 3, 8, 16, 16)
    assert isinstance(method.encoder, MotionEncoder)
    torch.testing.assert_close(method.eval().scores(clips), method.eval().scores(clips + 5.0), msg="a standing picture makes no difference")
    plain = load_run(pretrain(tiny(videos, tmp_path / "plain", method="supervised", epochs=0), progress=False))[0]
    assert plain.encoder is plain.backbone


def test_another_architecture_is_refused_before_any_work(videos: Manifest, pretrained: Path, tmp_path: Path) -> None:
    for changes, words in (({"backbone_options.width": 6}, "another method or backbone .*of another shape"),
                           ({"backbone_options.dilated": True}, "another network than backbone small with options .*dilated"),
                           ({"init": str(tmp_path)}, "not a run folder")):
        with pytest.raises(ValueError, match=words):
            pretrain(tiny(videos, tmp_path / "run", method="supervised", **{"init": str(pretrained)} | changes), progress=False)
        assert not (tmp_path / "run").exists()


def test_other_weights_are_another_run(videos: Manifest, pretrained: Path, tmp_path: Path) -> None:
    config = tiny(videos, tmp_path / "run", method="supervised", init=str(pretrained), epochs=1)
    pretrain(config, progress=False)
    other = pretrain(tiny(videos, tmp_path / "other", method="simclr", epochs=1, seed=1), progress=False)
    for init in (str(other), None):
        with pytest.raises(ValueError, match="the weights of init: "):
            pretrain(tiny(videos, tmp_path / "run", method="supervised", init=init, epochs=2), progress=False)


def test_a_configuration_written_before_these_keys_is_read(videos: Manifest, tmp_path: Path) -> None:
    run = pretrain(tiny(videos, tmp_path / "run", method="simclr", epochs=1), progress=False)
    text = (run / "config.yaml").read_text()
    old = "".join(line for line in text.splitlines(True) if not line.startswith(("init:", "finetune:", "  select:", "  held_out:", "  protocol:", "  patience:", "  min_lr:")))
    assert len(old) < len(text)
    (run / "config.yaml").write_text(old)
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "init"}))
    pretrain(tiny(videos, tmp_path / "run", method="simclr", epochs=2), progress=False)
    assert read_log(run)["epoch"].max() == 1 and load_run(run)[1].init is None


# -- what fine-tuning goes by

def test_the_test_set_is_not_touched_before_training_is_over(videos: Manifest, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = videos.split("train"), videos.split("test")
    absent = Manifest(test.table, tmp_path / "not yet there")
    real = training.train

    def then_it_comes(*args: Any, **more: Any) -> None:
        real(*args, **more)
        absent.root.symlink_to(test.root)

    monkeypatch.setattr(training, "train", then_it_comes)
    result = finetune(pretrained, train, absent, tmp_path / "run", protocol=QUICK, device="cpu", progress=False, **SMALL | {"finetune.select": "held-out", "finetune.held_out": 0.3})
    assert (result["select"], result["missing"], result["videos"] + result["held_out"]) == ("held-out", {}, len(train))
    rows = read_epochs(tmp_path / "run")
    best = max(rows, key=lambda row: (row["accuracy"], -row["loss"]))
    assert result["epoch"] == best["epoch"] and result["held_out_accuracy"] == best["accuracy"]
    fit, check = (open_manifest(tmp_path / "run" / name) for name in ("fit.csv", "check.csv"))
    assert not set(fit.table["group"]) & set(check.table["group"]) and all(file.exists() for file in [*fit.files, *check.files])


def test_the_best_epochs_weights_are_those_that_are_tested(videos: Manifest, tmp_path: Path) -> None:
    kept: dict[int, dict[str, Tensor]] = {}
    changes: dict[str, Any] = {"finetune.select": "held-out", "finetune.held_out": 0.3, "epochs": 6, "optim.lr": 0.01}
    from ivdr import evaluation
    look = evaluation._HeldOut.look

    def watching(self: Any, job: training.Job, epoch: int, device: torch.device) -> Any:
        kept[epoch] = {name: value.clone() for name, value in job.method.state_dict().items()}
        return look(self, job, epoch, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation._HeldOut, "look", watching)
        result = quickly(None, videos, tmp_path / "run", **changes)
    method, config = load_run(tmp_path / "run")
    method.load_state_dict(kept[result["epoch"]])
    found = classify(method, videos.split("test"), QUICK)  # type: ignore[arg-type]
    assert found.figures()["accuracy"] == result["accuracy"] and found.figures()["clip_accuracy"] == result["clip_accuracy"]
    check = classify(method, open_manifest(tmp_path / "run" / "check.csv"), QUICK)  # type: ignore[arg-type]
    assert check.figures()["accuracy"] == result["held_out_accuracy"]
    assert len(kept) == 6 and len(read_epochs(tmp_path / "run")) == 6


def test_figures_are_the_slow_ones() -> None:
    scores = np.random.default_rng(0).normal(size=(7, 3, 4)) * 3
    classes, labels = ["b", "d", "a", "c"], np.array(["a", "b", "c", "d", "a", "a", "b"])
    found = Predictions(scores, classes, labels, [str(i) for i in range(7)], {})
    videos, clips, losses, each = 0, 0, [], {name: [] for name in classes}
    for of_video, label in zip(scores, labels):
        chances = [np.exp(clip) / np.exp(clip).sum() for clip in of_video]
        right = classes[int(np.argmax(np.mean(chances, 0)))] == label
        videos, clips = videos + right, clips + sum(classes[int(np.argmax(clip))] == label for clip in of_video)
        losses += [-np.log(chance[classes.index(label)]) for chance in chances]
        each[label].append(right)
    assert found.figures() == pytest.approx({"accuracy": videos / 7, "clip_accuracy": clips / 21, "loss": np.mean(losses)})
    assert found.per_class() == pytest.approx({name: np.mean(values) for name, values in each.items()})


def test_a_finished_run_answers_from_its_file(videos: Manifest, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    result = quickly(pretrained, videos, out, share=0.5, seed=3)
    assert result["videos"] == 12 and result["held_out"] == 0 and result["held_out_accuracy"] is None and result["epoch"] == 3
    assert {"accuracy", "clip_accuracy", "per_class", "recipe", "select", "share", "seed", "missing", "run"} <= set(result)
    monkeypatch.setattr(training, "set_up", lambda *args: pytest.fail("it works again"))
    assert quickly(pretrained, videos, out, share=0.5, seed=3) == result == json.loads((out / "results" / "finetune.json").read_text())
    for changes, words in (({"share": 0.4}, "share: 0.5 -> 0.4"), ({"epochs": 5}, "epochs: 4 -> 5"), ({"seed": 4}, "seed: 3 -> 4"), ({"optim.lr": 0.5}, "optim.lr")):
        with pytest.raises(ValueError, match=f"another fine-tuning run .*{words}"):
            quickly(pretrained, videos, out, **{"share": 0.5, "seed": 3} | changes)
    with pytest.raises(ValueError, match="init: .* -> None"):
        quickly(None, videos, out, share=0.5, seed=3)
    with pytest.raises(ValueError, match="that finetune did not start"):
        quickly(None, videos, pretrained)


def test_wrong_questions_are_refused_before_any_work(videos: Manifest, tmp_path: Path) -> None:
    train, test = videos.split("train"), videos.split("test")

    def ask(**changes: Any) -> None:
        call: dict[str, Any] = {"init": None, "train": train, "test": test, "out": tmp_path / "run"} | SMALL | changes
        finetune(**call, progress=False)

    one_room = Manifest(train.table.assign(group="one room"), train.root)
    strange = Manifest(test.table.assign(label="dance"), test.root)
    for changes, words in (({"train": one_room, "finetune.select": "held-out"}, "goes by videos held out .*one group only.*finetune.select=last"),
                           ({"test": strange}, r"1 classes that the classifier does not know \(dance\); it knows left, right, still"),
                           ({"recipe": "laptop"}, "trains by iivdr, which uses no labels"), ({"share": 1.5}, "share is 1.5"),
                           ({"finetune.protocol": "mine"}, "unknown protocol 'mine'; accepted: iivdr"), ({"epochs": 0}, "epochs is 0")):
        with pytest.raises(ValueError, match=words):
            ask(**changes)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="plateau.*only finetune"):
        pretrain(tiny(videos, tmp_path / "run", method="supervised", **{"optim.schedule": "plateau"}), progress=False)


def test_an_unreadable_test_video_is_listed_and_not_replaced(videos: Manifest, tmp_path: Path) -> None:
    test = videos.split("test")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    table = pd.concat([test.table.assign(path=[str(file) for file in test.files]), test.table.iloc[:1].assign(path=str(tmp_path / "broken.mp4"))])
    result = finetune(None, videos.split("train"), Manifest(table, tmp_path), tmp_path / "run", protocol=QUICK, device="cpu", progress=False, **SMALL | {"epochs": 1})
    assert [Path(path).name for path in result["missing"]] == ["broken.mp4"] and len(result["per_class"]) == 3


# -- killed and continued

def tune(videos: Manifest, init: Path, out: Path) -> None:
    quickly(init, videos, out, epochs=6, seed=1, **{"finetune.select": "held-out", "finetune.held_out": 0.3, "optim.schedule": "plateau",
            "optim.patience": 0, "optim.lr": 0.01, "optim.momentum": 0.9, "method_options.dropout": 0.2, "checkpoint_every": 5})


def rows_of(run: Path) -> int:
    return (run / "held_out.csv").read_bytes().count(b"\n") if (run / "held_out.csv").exists() else 0


def test_killed_at_any_moment_ends_with_the_same_bits_and_the_same_answer(videos: Manifest, pretrained: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tune(videos, pretrained, whole)
    rates = read_log(whole)["lr"]
    assert rates.nunique() > 1, "the rate fell, by held-out losses"
    # after the first look, and after looks that the newest checkpoint does not know of
    for looks in (2, 5):
        process = FRESH.Process(target=tune, args=(videos, pretrained, cut))
        process.start()
        kill_when(process, lambda looks=looks: rows_of(cut) >= looks)  # type: ignore[misc]
        assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed"
    tune(videos, pretrained, cut)
    assert weights(whole) == weights(cut)
    assert (whole / "held_out.csv").read_text() == (cut / "held_out.csv").read_text()
    assert (whole / "checkpoints" / "best.safetensors").read_bytes() == (cut / "checkpoints" / "best.safetensors").read_bytes()
    one, other = (json.loads((run / "results" / "finetune.json").read_text()) for run in (whole, cut))
    assert one | {"run": ""} == other | {"run": ""}
    assert read_log(cut)["lr"].equals(rates)


def test_a_look_that_was_missed_is_made_up_for(videos: Manifest, tmp_path: Path) -> None:
    looked: list[int] = []
    config = tiny(videos, tmp_path / "run", method="simclr", epochs=3, checkpoint_every=6)

    def look(job: training.Job, epoch: int, accelerator: Any) -> dict[str, float]:
        looked.append(epoch)
        if epoch == 0 and len(looked) == 1:
            raise ConnectionError("killed between saving and looking")
        return {"loss": 1.0 / (epoch + 1)}

    with pytest.raises(ConnectionError):
        pretrain(config, on_epoch=look, progress=False)
    pretrain(config, on_epoch=look, progress=False)
    assert looked == [0, 0, 1, 2] and [row["epoch"] for row in read_epochs(tmp_path / "run")] == [0, 1, 2]
    (tmp_path / "run" / "held_out.csv").write_text("")
    pretrain(config, on_epoch=look, progress=False)
    assert looked[4:] == [2], "also for the last epoch of a finished run"

"""What a configuration refuses, what the loop computes, what it leaves behind when something goes wrong."""
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ivdr import training
from ivdr.augment import ClipAugment
from ivdr.backbones import create_backbone
from ivdr.datasets import Manifest, scan
from ivdr.iivdr import SimCLR
from ivdr.sampling import three_views
from ivdr.training import DivergedError, OptimConfig, TrainConfig, learning_rate, pretrain, read_config, read_log
from ivdr.video import VideoError, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "swim"
    folder.mkdir()
    for number in range(8):
        noise = torch.randint(0, 255, (20, 24, 32, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        write_video(folder / f"v{number}.mp4", noise)
    return folder.parent


def tiny(data: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": str(data), "out": str(out), "method": "simclr", "backbone": "small", "epochs": 3, "batch_size": 4, "workers": 0, "threads": 1,
        "device": "cpu", "tensorboard": False, "checkpoint_every": 4, "clips.length": 4, "clips.stride": 1, "clips.size": 16, "clips.augment": "none",
        "backbone_options.width": 2}
    return read_config(None, **values | changes)


# -- configuration

@pytest.mark.parametrize(("changes", "words"), [
    ({"optim.lrr": 1}, "unknown key 'optim.lrr'.*did you mean 'optim.lr'.*accepted: data, out"),
    ({"optim": {"momentom": 1}}, "unknown key 'optim.momentom'.*optim.momentum"),
    ({"epochs": "many"}, "epochs.*int.*many"),
    ({"epochs": 1.5}, "epochs.*int.*1.5"),
    ({"clips.cache": 3}, "clips.cache.*bool"),
    ({"optim.schedule": "exponential"}, "optim.schedule.*step.*cosine.*constant.*exponential"),
    ({"method": "simcrl"}, "unknown method 'simcrl'; accepted: simclr, moco"),
    ({"backbone": "vit"}, "unknown backbone 'vit'; accepted: "),
    ({"clips.augment": "heavy"}, "unknown clips.augment 'heavy'; accepted: iivdr"),
    ({"method_options.segments": 2}, "method 'simclr' has no option 'segments'; accepted: dim, temperature"),
    ({"batch_size": 0}, "batch_size must be greater than 0, got 0"),
    ({"clips.reverse_p": 1.5}, "clips.reverse_p must lie between 0 and 1, got 1.5"),
    ({"seed": -1}, "seed must be 0 or more, got -1"),
])
def test_a_wrong_key_or_value_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(Path("data"), Path("out"), **changes)


def test_a_recipe_file_is_read_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optim: {lr: 1e-2}\nclips: {lenght: 8}\n")
    with pytest.raises(ValueError, match=r"unknown key 'clips.lenght' in recipe .*mine.yaml.*clips.length"):
        read_config(str(tmp_path / "mine.yaml"), data="d", out="o")
    (tmp_path / "mine.yaml").write_text("optim: {lr: 1e-2}\n")
    assert read_config(str(tmp_path / "mine.yaml"), data="d", out="o").optim.lr == 0.01
    for text, words in (("- a\n", "keys and values"), ("a: [\n", "not YAML"), ("", "keys and values")):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_config(str(tmp_path / "mine.yaml"), data="d", out="o")
    with pytest.raises(ValueError, match="unknown recipe 'paper'; accepted: finetune-iivdr, .*, iivdr, iivdr-moco, kinetics400_iivdr, laptop, .*moco, simclr, study, tcgl, tclr"):
        read_config("paper", data="d", out="o")
    with pytest.raises(ValueError, match="data"):
        read_config("laptop", out="o")


@pytest.mark.parametrize("recipe", training.recipe_names())
def test_every_recipe_builds_and_its_file_reads_back(recipe: str, tmp_path: Path) -> None:
    supervised = recipe.startswith(("finetune", "linear"))
    number = "method_options.dropout" if supervised else "method_options.tau" if recipe == "tcgl" else "method_options.temperature"
    config = read_config(recipe, data="d", out=str(tmp_path), **{number: 0.2})
    training.write_config(config, tmp_path / "config.yaml")
    assert read_config(str(tmp_path / "config.yaml")) == config
    assert config.method_options[number.split(".")[1]] == 0.2
    assert isinstance(training.build_method(read_config(recipe, data="d", out="o", backbone="small")), training.METHODS[config.method])
    # complete: no key is left to a default that may change one day
    written = training._flat(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    assert {key for key in training.config_keys() if "_options" not in key} <= set(written)


@pytest.mark.parametrize("recipe", ["iivdr", "simclr", "moco", "iivdr-moco"])
def test_the_published_settings(recipe: str) -> None:
    config = read_config(recipe, data="d", out="o")
    optim, clips = config.optim, config.clips
    assert (config.epochs, config.batch_size, config.backbone) == (200, 64, "r21d")
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay, optim.warmup_epochs) == ("sgd", 0.003, 0.9, 1e-4, 0)
    rates = [learning_rate(epoch * 149, 200 * 149, 149, optim) for epoch in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-4, 3e-4, 3e-5, 3e-5])
    assert (clips.length, clips.stride, clips.size, clips.augment) == (16, 4, 112, "iivdr")
    if "iivdr" in recipe:
        assert config.method_options["max_logit"] == (None if "moco" in recipe else 5.0)
    if "moco" in recipe:
        assert (config.method_options["queue_size"], config.method_options["momentum"]) == (16384, 0.999)


def test_a_recipe_says_things_of_one_method_only(tmp_path: Path) -> None:
    plain, tclr, tcgl = (read_config("laptop", data="d", out="o", method=name) for name in ("simclr", "tclr", "tcgl"))
    assert "dilated" not in plain.backbone_options and tclr.backbone_options == plain.backbone_options | {"dilated": True}
    assert (plain.clips.stride, tclr.clips.stride, tcgl.clips.stride) == (5, 5, 2)
    assert read_config("laptop", data="d", out="o", method="tcgl", **{"clips.stride": 3}).clips.stride == 3, "the caller has the last word"
    other = read_config("laptop", data="d", out="o", method="tclr", backbone="r3d")
    assert other.backbone_options == {"dilated": True}, "the width of the small network is not handed to another one"
    mine = tmp_path / "mine.yaml"
    for text, reason in (("by_method: {byol: {seed: 1}}", "unknown method 'byol' in recipe .*by_method"), ("by_method: {tclr: {sede: 1}}", "by_method.tclr.sede.*did you mean 'seed'")):
        mine.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_config(str(mine), data="d", out="o")
    with pytest.raises(ValueError, match="in a recipe only"):
        read_config("laptop", data="d", out="o", **{"by_method.tclr.seed": 1})


def test_adam_takes_its_decay_from_the_gradient() -> None:
    config = OptimConfig(name="adam", lr=0.1, weight_decay=0.5)
    layer = torch.nn.Linear(1, 1, bias=False)
    optimizer = training.create_optimizer(layer, config)
    layer.weight.grad = torch.zeros_like(layer.weight)
    before = layer.weight.item()
    optimizer.step()
    assert abs(abs(layer.weight.item() - before) - 0.1) < 1e-5, "Adam normalises the decay to a whole step; AdamW would move by lr * decay * weight"


def test_clips_that_cannot_serve_leave_no_run_folder(videos: Path, tmp_path: Path) -> None:
    config = read_config("laptop", data=str(videos), out=str(tmp_path / "run"), method="tclr", batch_size=2, **{"backbone_options.dilated": False})
    with pytest.raises(ValueError, match="dilated"):
        pretrain(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_another_method_keeps_what_it_knows_of_a_recipe() -> None:
    config = read_config("laptop", data="d", out="o", method="simclr")
    laptop = read_config("laptop", data="d", out="o")
    assert config.method_options == {key: laptop.method_options[key] for key in ("dim", "temperature")}


# -- learning rate

@given(st.integers(1, 500), st.integers(0, 20), st.sampled_from(["step", "cosine", "constant"]))
def test_rates_climb_then_never_rise(total: int, warmup: int, schedule: Any) -> None:
    optim = OptimConfig(lr=0.5, warmup_epochs=warmup, schedule=schedule)
    rates = [learning_rate(step, total, 3, optim) for step in range(total)]
    warm = min(total, 3 * warmup)
    assert rates[:warm] == pytest.approx([0.5 * (step + 1) / (3 * warmup) for step in range(warm)])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(rates[warm:], rates[warm + 1 :]))
    assert all(0 <= rate <= 0.5 for rate in rates)


# -- a step

class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, clips: Tensor, draws: Tensor | None) -> dict[str, Tensor]:
        loss = (clips @ self.weight).square().mean()
        return {"loss": loss, "double": 2 * loss}


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_accumulated_step_is_the_step_of_the_mean(clip_norm: float | None) -> None:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    parts, whole = Mean(), Mean()
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.1, momentum=0.9)
    losses = training.train_step(parts, optimizer, ((part, None) for part in x.split(2)), 3, accelerator, clip_norm=clip_norm)
    reference = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
    loss = whole(x, None)["loss"]
    loss.backward()
    norm = whole.weight.grad.norm()  # type: ignore[union-attr]
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(whole.parameters(), clip_norm)
    reference.step()
    torch.testing.assert_close(parts.weight, whole.weight)
    torch.testing.assert_close(losses["grad_norm"], norm)
    torch.testing.assert_close(losses["double"], 2 * loss.detach())


def test_seeding_a_step_separates_steps_and_ranks() -> None:
    drawn = set()
    for address in ((0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1)):
        training.seed_step(*address)
        drawn.add(float(torch.rand(())))
    training.seed_step(0, 1, 0)
    assert len(drawn) == 4 and float(torch.rand(())) in drawn


def test_bf16_is_refused_where_its_gradients_are_wrong(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (0.9, math.nan, math.inf):
        monkeypatch.setattr(training, "bf16_errors", lambda backbone, frames, size, error=error: {"layer1.conv": 0.003, "layer2.conv": error})
        with pytest.raises(ValueError, match=r"in layer2.conv \(relative error .*precision fp32"):
            pretrain(tiny(videos, tmp_path / "run", precision="bf16"), progress=False)
    assert not (tmp_path / "run").exists()


# -- a run

def test_log_holds_every_step(videos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    run = pretrain(tiny(videos, tmp_path / "run"), rows.append, progress=False)
    log = read_log(run)
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6] and log["epoch"].tolist() == [0, 0, 1, 1, 2, 2]
    assert {"lr", "loss", "clip", "grad_norm", "data_ms", "step_ms", "iter_ms", "clips_per_s"} <= set(log)
    assert (log["loss"].astype("float32") == [row["loss"] for row in rows]).all(), "nine digits give a float32 back"
    assert (log["iter_ms"] >= log["step_ms"] + log["data_ms"] - 0.02).all()
    assert (abs(log["clips_per_s"] - 1000 * 8 / log["iter_ms"]) <= 0.01 * log["clips_per_s"]).all()
    method, config = training.load_run(run)
    assert config == tiny(videos, tmp_path / "run") and isinstance(method, SimCLR)


def test_tensorboard_events_carry_the_log(videos: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = pretrain(tiny(videos, tmp_path / "run", tensorboard=True, epochs=1), progress=False)
    found = events.EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(read_log(run)["loss"].tolist())


def test_log_of_a_killed_run_is_read_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,epoch,loss\n1,0,0.5\n2,0,0.25\n3,1,0.1")
    assert read_log(tmp_path)["step"].tolist() == [1, 2]
    training.cut_log(path, 1)
    assert path.read_text() == "step,epoch,loss\n1,0,0.5\n"
    training.cut_log(path, 0)
    assert read_log(tmp_path).empty
    with pytest.raises(FileNotFoundError, match="no training run"):
        read_log(tmp_path / "elsewhere")


def test_a_run_is_never_overwritten(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(videos, tmp_path / "run")
    run = pretrain(config, progress=False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a run.*resume auto"):
        pretrain(config, progress=False)
    changed = tiny(videos, run, resume="auto", method="iivdr", seed=7, batch_size=2, **{"optim.lr": 1.0})
    with pytest.raises(ValueError, match="method: simclr -> iivdr; batch_size: 4 -> 2; seed: 0 -> 7; optim.lr: 0.003 -> 1.0"):
        pretrain(changed, progress=False)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    pretrain(tiny(videos, run, resume="auto"))
    assert "is finished: 6 of 6 steps" in capsys.readouterr().out
    pretrain(tiny(videos, run, resume="auto", epochs=4), progress=False)
    assert read_log(run)["step"].tolist() == list(range(1, 9))
    assert training.load_run(run)[1].epochs == 4


def test_other_videos_are_another_run(videos: Path, tmp_path: Path) -> None:
    run = pretrain(tiny(videos, tmp_path / "run", epochs=1), progress=False)
    other = tmp_path / "other"
    other.mkdir()
    for number in range(4):
        write_video(other / f"v{number}.mp4", torch.full((10, 24, 32, 3), number, dtype=torch.uint8))
    with pytest.raises(ValueError, match="videos of .*other.*manifest"):
        pretrain(tiny(other, run, resume="auto"), progress=False)


def test_checkpoint_of_another_backbone(videos: Path, tmp_path: Path) -> None:
    run = pretrain(tiny(videos, tmp_path / "run", epochs=1), progress=False)
    last = run / "checkpoints" / "last"
    wide = training.create_method("simclr", create_backbone("small", width=4))
    with pytest.raises(ValueError, match=r"another method or backbone .*of another shape: backbone.layer1.conv.weight \(2, 3.* instead of \(4, 3"):
        training.load_checkpoint(last, wide)
    with pytest.raises(ValueError, match="missing: .*unknown: "):
        training.load_checkpoint(last, training.create_method("simclr", create_backbone("r3d")))


def test_checkpoint_loads_without_unpickling_code(videos: Path, tmp_path: Path) -> None:
    run = pretrain(tiny(videos, tmp_path / "run", epochs=1), progress=False)
    last = run / "checkpoints" / "last"
    assert last.is_symlink() and not last.readlink().is_absolute()
    saved = torch.load(last / "optimizer.pt", weights_only=True)
    assert saved["param_groups"][0]["momentum"] == 0.9
    state = json.loads((last / "state.json").read_text())
    assert (state["step"], state["seed"], state["backbone"]) == (2, 0, "small") and state["versions"]["torch"] == torch.__version__


class Diverging(SimCLR):
    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone, dim=4)
        self.register_buffer("step", torch.zeros(()))

    def forward(self, clips: Tensor, draws: Tensor | None = None) -> dict[str, Tensor]:
        self.step += 1
        losses = super().forward(clips, draws)
        return losses | {"loss": losses["loss"] * torch.where(self.step == 5, math.nan, 1.0)}


def test_nan_stops_with_the_steps_diagnostics(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.METHODS, "simclr", Diverging)
    config = tiny(videos, tmp_path / "run")
    with pytest.raises(DivergedError, match=r"loss is nan at step 5 \(epoch 2\).*diagnostics/step-00000005.json"):
        pretrain(config, progress=False)
    run = Path(config.out)
    report = json.loads((run / "diagnostics" / "step-00000005.json").read_text())
    assert len(report["files"]) == 4 and all(Path(file).exists() for file in report["files"])
    assert math.isnan(report["row"]["loss"]) and "backbone.layer1.conv.weight" in report["gradient_norms_at_newest_step"]
    assert (run / "checkpoints" / "last").readlink().name == "step-00000004", "the spoilt weights are not saved"
    method, _ = training.load_run(run)
    assert all(weight.isfinite().all() for weight in method.parameters())


# -- bad input

def test_bad_videos_are_counted_and_listed(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in sorted((videos / "swim").iterdir()):
        (data / file.name).write_bytes(file.read_bytes())
    (data / "zero.mp4").write_bytes(b"")
    run = pretrain(tiny(data, tmp_path / "run", epochs=1, **{"clips.max_bad_share": 0.2}), progress=False)
    listed = pd.read_csv(run / "bad_videos.csv")
    assert [Path(path).name for path in listed["path"]] == ["zero.mp4"] and "zero.mp4" in caplog.text
    with pytest.raises(VideoError, match="1 of 9 videos cannot be read.*zero.mp4"):
        pretrain(tiny(data, tmp_path / "other", **{"clips.max_bad_share": 0.1}), progress=False)
    assert not (tmp_path / "other").exists()


def test_a_video_that_breaks_during_training(videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in sorted((videos / "swim").iterdir()):
        (data / file.name).write_bytes(file.read_bytes())
    manifest, _ = training.scan(data, progress=False)
    manifest.save(data / "manifest.csv")
    (data / "v3.mp4").write_bytes(b"no video any more")
    run = pretrain(tiny(data, tmp_path / "run", **{"clips.max_bad_share": 0.2}), progress=False)
    listed = pd.read_csv(run / "bad_videos.csv")
    assert [Path(path).name for path in listed["path"]] == ["v3.mp4"]
    assert read_log(run)["bad_videos"].iloc[-1] == 1
    with pytest.raises(VideoError, match="1 of 8 videos could not be read.*v3.mp4"):
        pretrain(tiny(data, tmp_path / "other", **{"clips.max_bad_share": 0.1}), progress=False)


def test_too_few_videos_and_no_videos(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 videos"):
        pretrain(tiny(videos, tmp_path / "run", batch_size=9), progress=False)
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises((ValueError, OSError), match=folder):
            pretrain(tiny(tmp_path / folder, tmp_path / "run"), progress=False)
    with pytest.raises(ValueError, match="split 'val'"):
        pretrain(tiny(videos, tmp_path / "run", split="val"), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes,sizes,size,keep", [
    ({}, [(48, 64)], (48, 64), 0), ({}, [(48, 64), (48, 66)], (128, 171), 48 * 66), ({}, [(240, 320)], (128, 171), 0), ({}, [(128, 171)], (128, 171), 0),
    ({}, [(128, 228), (228, 128), (240, 320), (0, 0)], (128, 171), 128 * 228), ({}, [(128, 228)], (128, 171), 128 * 228),
    ({"clips.cache": True}, [(48, 64), (48, 66)], (128, 171), 0), ({"clips.frame_size": [40, 50]}, [(48, 64), (48, 66)], (40, 50), 0),
    ({"clips.size": 56}, [(48, 64)], (48, 64), 0), ({"clips.size": 28}, [(48, 64)], (32, 43), 0), ({}, [(0, 0)], (128, 171), 0)])
def test_large_frames_are_resized_by_workers(changes: dict[str, Any], sizes: list[tuple[int, int]], size: tuple[int, int], keep: int) -> None:
    config = read_config("iivdr", data="unused", out="unused", **changes)
    rows = [{"path": f"{i}.mp4", "label": "a", "group": "", "split": "train", "frames": 40, "fps": 25.0, "width": sizes[i % len(sizes)][1],
             "height": sizes[i % len(sizes)][0], "sha256": ""} for i in range(4)]
    clips = training.training_clips(config, Manifest(pd.DataFrame(rows), Path()), three_views, 0.0)
    assert (clips.size, clips.keep) == (size, keep)


def test_where_frames_are_resized_changes_no_weight(videos: Path, tmp_path: Path) -> None:
    augment = {"clips.augment": "iivdr", "clips.size": 40, "clips.cache": False, "epochs": 1}
    runs = [pretrain(tiny(videos, tmp_path / name, **augment, **how), progress=False) for name, how in
            (("there", {}), ("here", {"clips.frame_size": list(ClipAugment("iivdr", 40).frame_size), "workers": 2}))]
    assert training.training_clips(tiny(videos, tmp_path, **augment), scan(videos, progress=False)[0], three_views, 0.0).size == (24, 32)
    assert (runs[0] / "checkpoints/last/model.safetensors").read_bytes() == (runs[1] / "checkpoints/last/model.safetensors").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_of_several_sizes_are_resized_where_the_network_is_and_no_weight_changes(tmp_path: Path, workers: int) -> None:
    (tmp_path / "videos").mkdir()
    sizes = [(48, 64), (48, 86), (86, 48), (120, 160)]  # the last ones are too large to be kept
    for number in range(12):
        film = torch.randint(0, 256, (20, *sizes[number % 4], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        write_video(tmp_path / "videos" / f"v{number}.mp4", film)
    how = {"clips.augment": "iivdr", "clips.size": 40, "clips.cache": False, "epochs": 2}
    runs = [pretrain(tiny(tmp_path / "videos", tmp_path / name, **how, **more), progress=False) for name, more in
            (("kept", {"workers": workers}), ("resized", {"clips.frame_size": list(ClipAugment("iivdr", 40).frame_size)}))]
    clips = training.training_clips(tiny(tmp_path / "videos", tmp_path, **how), scan(tmp_path / "videos", progress=False)[0], three_views, 0.0)
    assert clips.keep == 48 * 86 <= 1.5 * math.prod(clips.size) < 120 * 160
    assert (runs[0] / "checkpoints/last/model.safetensors").read_bytes() == (runs[1] / "checkpoints/last/model.safetensors").read_bytes()


def test_a_video_that_is_not_as_large_as_its_manifest_says_is_resized(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, size in enumerate([(24, 32), (24, 32), (32, 24)]):
        write_video(tmp_path / "videos" / f"v{number}.mp4", torch.zeros(20, *size, 3, dtype=torch.uint8))
    found = scan(tmp_path / "videos", progress=False)[0]
    manifest = Manifest(found.table.assign(height=24, width=32), found.root)
    clips = training.training_clips(tiny(tmp_path, tmp_path / "run", **{"clips.augment": "iivdr", "clips.size": 40, "clips.cache": False}), manifest, three_views, 0.0)
    assert {tuple(clips[0, i]["clips"].shape[2:4]) for i in range(3)} == {(24, 32)}

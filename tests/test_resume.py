"""A run that is killed at any moment and started again ends with the very weights of a run that was never killed: real processes."""
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import kill_when

from ivdr import cli, training
from ivdr.training import CheckpointError, Interrupted, TrainConfig, checkpoint_folders, load_checkpoint, pretrain, read_config, read_log
from ivdr.video import write_video

# one clean process imports the trainer once; all others are forked from it
multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "pytest", "hypothesis", "ivdr.training"])
FRESH = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        generator = torch.Generator().manual_seed(number)
        scene = torch.randint(0, 255, (24, 32, 3), generator=generator, dtype=torch.uint8)
        frames = torch.stack([scene.roll(shift * (1 + number % 3), 1) for shift in range(30)])
        (folder / f"class{number % 3}").mkdir(exist_ok=True)
        write_video(folder / f"class{number % 3}" / f"v{number:02d}.mp4", frames)
    return folder


def tiny(videos: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data": str(videos), "out": str(out), "method": "iivdr", "backbone": "small", "epochs": 4, "batch_size": 4, "workers": 0, "resume": "auto",
        "threads": 1, "device": "cpu", "tensorboard": False, "checkpoint_every": 5, "clips.length": 4, "clips.stride": 2, "clips.size": 16,
        "clips.augment": "light", "optim.lr": 0.01, "backbone_options.width": 4, "method_options.schedule": "after_floor", "method_options.ramp_steps": 3}
    return read_config(None, **values | changes)


def start(work: Callable[..., None], *args: Any) -> Any:
    process = FRESH.Process(target=work, args=args)
    process.start()
    return process


def finish(work: Callable[..., None], *args: Any) -> int | None:
    process = start(work, *args)
    process.join(120)
    assert not process.is_alive(), "the process hangs"
    return process.exitcode


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


def train_quietly(config: TrainConfig) -> None:
    pretrain(config, progress=False)


def logged_steps(run: Path) -> int:
    log = run / "log.csv"
    return max(0, log.read_bytes().count(b"\n") - 1) if log.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert finish(train_quietly, tiny(videos, run)) == 0
    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_any_step_ends_with_the_same_bits(videos: Path, uninterrupted: Path, tmp_path: Path, workers: int) -> None:
    config = tiny(videos, tmp_path / "run", workers=workers)
    run = Path(config.out)
    # before the first checkpoint, between two, and after the second; where within a step is left to chance
    for step in (2, 7, 11):
        process = start(train_quietly, config)
        kill_when(process, lambda step=step: logged_steps(run) >= step)  # type: ignore[misc]
        assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed"
    assert finish(train_quietly, config) == 0
    assert weights(run) == weights(uninterrupted)
    log, whole = read_log(run), read_log(uninterrupted)
    assert log["step"].tolist() == list(range(1, 13))
    losses = [name for name in whole if name not in training.TIMERS]
    assert log[losses].equals(whole[losses])


def test_moco_with_queues_resumes_exactly(videos: Path, tmp_path: Path) -> None:
    options = {"method": "iivdr-moco", "method_options.queue_size": 8, "grad_accum": 2, "optim.name": "adamw", "epochs": 6}
    whole, cut = (tiny(videos, tmp_path / name, **options) for name in ("whole", "cut"))
    pretrain(whole, progress=False)

    def crash(row: dict[str, float]) -> None:
        if row["step"] == 7:
            raise ConnectionError("the power is gone")

    with pytest.raises(ConnectionError):
        pretrain(cut, crash, progress=False)
    pretrain(cut, progress=False)
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")


# -- saving, cut off at each of its file operations

def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return module, optimizer


FILE_CALLS = ("fsync", "rename", "replace", "symlink", "unlink", "rmdir", "mkdir")


def save_three_times(run: Path, die_at: int) -> None:
    module, optimizer = network()
    for step in (1, 2):
        training.save_checkpoint(run, module, optimizer, {"step": step}, keep=2)
    calls = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call

    for name in FILE_CALLS:
        setattr(os, name, dying(getattr(os, name)))
    training.save_checkpoint(run, module, optimizer, {"step": 3}, keep=2)


def test_killed_within_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    steps = []
    for die_at in range(1, 100):
        run = tmp_path / f"at{die_at}"
        code = finish(save_three_times, run, die_at)
        for folder in checkpoint_folders(run):
            training.read_checkpoint(folder)
        steps.append(training.read_checkpoint(run / "checkpoints" / "last").state["step"])
        # the next save cleans up what the dead one left
        module, optimizer = network()
        training.save_checkpoint(run, module, optimizer, {"step": 4}, keep=2)
        assert sorted(path.name for path in (run / "checkpoints").iterdir())[0] == "last", "a temporary file is left"
        assert len(checkpoint_folders(run)) == 2
        if code == 0:
            break
    assert code == 0 and len(steps) > 10
    assert set(steps) == {2, 3} and steps == sorted(steps)


# -- stopping on request

def train_until_asked_to_stop(config: TrainConfig, code_file: Path) -> None:
    try:
        pretrain(config, progress=False)
    except Interrupted as stopped:
        code_file.write_text(str(stopped))


@pytest.mark.parametrize(("workers", "number"), [(2, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_saves_and_stops(videos: Path, uninterrupted: Path, tmp_path: Path, workers: int, number: signal.Signals) -> None:
    config = tiny(videos, tmp_path / "run", workers=workers, checkpoint_every=100)
    run = Path(config.out)
    process = start(train_until_asked_to_stop, config, tmp_path / "word")
    while logged_steps(run) < 3:
        time.sleep(0.002)
    for child in children(process.pid):
        # a terminal's Ctrl-C and a scheduler's SIGTERM reach the decoding processes too
        os.kill(child, number)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 0
    word, (saved,) = (tmp_path / "word").read_text(), checkpoint_folders(run)
    assert number.name in word and "resume" in word
    assert logged_steps(run) == int(saved.name.removeprefix("step-")) < 12
    assert finish(train_quietly, config) == 0
    assert weights(run) == weights(uninterrupted)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


# -- damage and full disks

def corrupt(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "flipped":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"")


# a flipped bit in the JSON file may be a number like another
@pytest.mark.parametrize(("name", "how"), [(name, how) for name in ("model.safetensors", "optimizer.pt", "state.json")
                                           for how in ("flipped", "cut", "empty", "gone") if (name, how) != ("state.json", "flipped")])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, how: str) -> None:
    module, optimizer = network()
    folder = training.save_checkpoint(tmp_path, module, optimizer, {"step": 1})
    before = {key: value.clone() for key, value in module.state_dict().items()}
    corrupt(folder / name, how)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(folder, module, optimizer)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_resume_falls_back_from_a_damaged_checkpoint(videos: Path, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny(videos, tmp_path / "run", keep=5)
    run = pretrain(config, progress=False)
    corrupt(checkpoint_folders(run)[0] / "model.safetensors", "cut")
    with pytest.raises(CheckpointError, match="last/model.safetensors"):
        training.load_run(run)
    pretrain(config, progress=False)
    assert "step-00000012" in caplog.text and "corrupt" in caplog.text and "step-00000010" in caplog.text
    assert weights(run) == weights(uninterrupted)
    assert read_log(run)["step"].tolist() == list(range(1, 13))
    assert (run / "checkpoints" / "corrupt-step-00000012").is_dir()
    for folder in checkpoint_folders(run):
        corrupt(folder / "state.json", "empty")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        pretrain(config, progress=False)


def train_on_a_full_disk(config: TrainConfig, limit: int, word: Path) -> None:
    # a limit on the size of files stands for a full disk: writing stops in the middle of a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        pretrain(config, progress=False)
    except (CheckpointError, OSError) as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        word.write_text(f"{type(error).__name__} {error}")


def test_full_disk_keeps_what_was_saved(videos: Path, uninterrupted: Path, tmp_path: Path) -> None:
    config = tiny(videos, tmp_path / "run")
    run = Path(config.out)
    process = start(train_quietly, config)
    kill_when(process, lambda: logged_steps(run) >= 6)
    size = len(weights(run))
    assert finish(train_on_a_full_disk, config, size // 2, tmp_path / "word") == 0
    word = (tmp_path / "word").read_text()
    assert word.startswith("CheckpointError") and "step-00000010" in word and "step-00000005" in word and "File too large" in word
    assert [folder.name for folder in checkpoint_folders(run)] == ["step-00000005"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last", "step-00000005"]
    # a log that cannot grow loses no row that is there
    log = (run / "log.csv").read_bytes()
    assert finish(train_on_a_full_disk, config, log.index(b"\n") + 300, tmp_path / "word") == 0
    assert "log.csv" in (tmp_path / "word").read_text()
    assert (run / "log.csv").read_bytes() in log
    assert finish(train_quietly, config) == 0
    assert weights(run) == weights(uninterrupted)


# -- more than one process

def train_as_rank(config: TrainConfig, rank: int, world: int, port: int, folder: Path) -> None:
    # what torchrun and accelerate launch tell each process
    os.environ |= {} if world == 1 else {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    seen: list[list[int]] = []
    kept: dict[str, Any] = {}
    real = training.do_step

    def noted(job: Any, *args: Any) -> Any:
        record = real(job, *args)
        seen.append(record.index.tolist())
        kept["weights"] = {name: weight.detach().clone() for name, weight in job.method.named_parameters()}
        return record

    training.do_step = noted
    pretrain(config, progress=False)
    torch.save({"seen": seen, **kept}, folder / f"rank{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_two_processes_agree_and_see_the_same_videos(videos: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    together = [start(train_as_rank, tiny(videos, tmp_path / "pair", epochs=3), rank, 2, port, tmp_path / "two") for rank in range(2)]
    assert finish(train_as_rank, tiny(videos, tmp_path / "single", epochs=3), 0, 1, port, tmp_path / "one") == 0
    for process in together:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
    assert [a + b for a, b in zip(first["seen"], second["seen"], strict=True)] == alone["seen"]
    assert read_log(tmp_path / "pair")["step"].tolist() == list(range(1, 10))
    assert json.loads((tmp_path / "pair" / "run.json").read_text())["processes"] == 2


def train_by_command(config: TrainConfig, rank: int, world: int, port: int) -> None:
    "`ivdr pretrain` in one process of a job."
    os.environ |= {} if world == 1 else {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    recipe = Path(config.out).with_name(f"{Path(config.out).name}-{os.getpid()}.yaml")
    training.write_config(config, recipe)
    code = cli.main(["pretrain", "--recipe", str(recipe), "--data", config.data, "--out", config.out])
    recipe.unlink()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)


def start_job(config: TrainConfig, world: int) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(train_by_command, config, rank, world, port) for rank in range(world)]


def codes(job: list[Any]) -> list[int | None]:
    for process in job:
        process.join(120)
        assert not process.is_alive(), "a process of the job hangs"
    return [process.exitcode for process in job]


def stop_job(job: list[Any], how: str, run: Path, step: int) -> None:
    "Stop a job after a step, and see what becomes of it."
    # SIGTERM at least one step on from where it starts: before that, it may come before Python can hear it
    until, step = time.monotonic() + 120, max(step, logged_steps(run) + 1) if how == "terminate" else step
    while all(process.is_alive() for process in job) and logged_steps(run) < step:
        assert time.monotonic() < until, "the job does not get on"
        time.sleep(0.001)
    stopped = {"kill": job, "kill one": job[-1:], "terminate": job}[how]
    for process in stopped:
        os.kill(process.pid, signal.SIGTERM if how == "terminate" else signal.SIGKILL)
    ended = codes(job)
    if how == "terminate":
        assert ended == [0] * len(job), "a scheduler's notice is no failure"
    elif how == "kill":
        assert ended == [-signal.SIGKILL] * len(job)
    elif len(job) > 1:
        assert ended[-1] == -signal.SIGKILL and ended[0] not in (0, None), "a job that lost a process must say so"


@pytest.fixture(scope="module")
def uninterrupted_pair(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pair") / "run"
    assert codes(start_job(tiny(videos, run), 2)) == [0, 0]
    return run


def steps_to_stop_at(how: str, times: int) -> list[int]:
    "Random steps in growing order, so that the job gets on between two stops."
    return sorted(random.Random(how).sample(range(1, 11), times))


# all ten steps in a row and every combination: IVDR_LONG=1
LONG = bool(os.environ.get("IVDR_LONG"))
JOBS = [(how, world, workers) for how in ("kill", "kill one", "terminate") for world in (1, 2) for workers in (0, 2)] if LONG else [
    ("kill", 2, 2), ("kill one", 2, 0), ("terminate", 2, 2)]


@pytest.mark.parametrize(("how", "world", "workers"), JOBS)
def test_a_job_stopped_in_any_way_ends_with_the_same_bits(
        videos: Path, uninterrupted: Path, uninterrupted_pair: Path, tmp_path: Path, how: str, world: int, workers: int) -> None:
    config = tiny(videos, tmp_path / "run", workers=workers, checkpoint_every=2)
    run = Path(config.out)

    def goes_on_to_the_same_end() -> None:
        assert codes(start_job(config, world)) == [0] * world
        assert weights(run) == weights(uninterrupted if world == 1 else uninterrupted_pair)
        assert read_log(run)["step"].tolist() == list(range(1, 13))
        assert not [path for path in run.rglob("*") if path.name.startswith(".tmp")], "half a file was left"

    for step in steps_to_stop_at(how, 10 if LONG else 2):
        if logged_steps(run) > 9:  # it would end before it could be stopped once more
            goes_on_to_the_same_end()
            shutil.rmtree(run)
        stop_job(start_job(config, world), how, run, step)
        assert all((folder / "state.json").is_file() for folder in checkpoint_folders(run))
    goes_on_to_the_same_end()

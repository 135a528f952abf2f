"""Jobs as users start them: torchrun, two nodes that meet on this machine, a process that dies, an evaluation in two processes."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import run

from ivdr.backbones import create_backbone
from ivdr.datasets import open_manifest
from ivdr.evaluation import Protocol, write_features
from ivdr.synthetic import render_dataset
from ivdr.training import read_log

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun") / "videos"
    render_dataset(folder, 56, seed=0, n_frames=24, size=(32, 40), workers=1, progress=False)
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def torchrun(*words: str, node: tuple[int, int] = (0, 1), port: int, processes: int = 1, restarts: int = 0) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(node[1]), "--nproc-per-node", str(processes), "--rdzv-backend", "c10d",
                "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test", "--max-restarts", str(restarts), "--monitor-interval", "0.1",
                "--local-addr", "127.0.0.1"]  # fmt: skip
    # else a restarted process may look for its partner at the address of the dead one (torch 2.15, gloo)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen([*launcher, "-m", "ivdr.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def said(process: "subprocess.Popen[str]", code: int = 0) -> str:
    text = process.communicate(timeout=300)[0]
    assert process.returncode == code, text
    return text


def pretrain_words(videos: Path, run_folder: Path, epochs: int = 2) -> list[str]:
    return ["pretrain", "--data", str(videos), "--recipe", "laptop", "--method", "simclr", "--out", str(run_folder), "--epochs", str(epochs), "--batch-size", "8",
            "--resume", "auto", "--device", "cpu", "--threads", "1", "--tensorboard", "false", "--checkpoint_every", "2", "--clips.length", "4",
            "--clips.size", "16", "--backbone_options.width", "4"]  # fmt: skip


def test_two_nodes_train_and_two_processes_evaluate(videos: Path, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "run"
    nodes = [torchrun(*pretrain_words(videos, folder), node=(number, 2), port=port) for number in range(2)]
    for node in nodes:
        said(node)
    log = read_log(folder)
    assert log["step"].tolist() == list(range(1, len(log) + 1)) and json.loads((folder / "run.json").read_text())["processes"] == 2
    out = tmp_path / "result.json"
    words = ["evaluate", str(folder), "--data", str(videos), "--tasks", "retrieval,linear", "--out", str(out)]
    text = said(torchrun(*words, port=free_port(), processes=2))
    assert text.count("result:") == 1, "one process of the job speaks"
    together = json.loads(out.read_text())["metrics"]
    said(subprocess.Popen([sys.executable, "-m", "ivdr.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT))
    assert json.loads(out.read_text())["metrics"] == together


def test_a_process_that_dies_is_started_again_and_goes_on(videos: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    said(torchrun(*pretrain_words(videos, whole, 4), port=free_port(), processes=2))
    job = torchrun(*pretrain_words(videos, folder, 4), port=free_port(), processes=2, restarts=1)
    until = time.monotonic() + 120
    while not (folder / "log.csv").exists() or (folder / "log.csv").read_bytes().count(b"\n") < 6:
        assert time.monotonic() < until and job.poll() is None, "the job does not get on"
        time.sleep(0.002)
    workers = [int(word) for word in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
    os.kill(workers[-1], signal.SIGKILL)
    said(job)
    first, second = ((place / "checkpoints" / "last" / "model.safetensors").read_bytes() for place in (whole, folder))
    assert first == second


def write_together(rank: int, world: int, videos: str, folder: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    manifest = open_manifest(videos)
    protocol = Protocol("tiny", clip_len=4, stride=2, size=16, frame_size=(16, 20), n_clips=2)
    features = write_features(create_backbone("small", width=4), manifest, protocol, folder, shard_size=10, progress=False)
    return {"clips": torch.from_numpy(features.load().clips)}


def test_processes_share_the_shards_of_features(videos: Path, tmp_path: Path) -> None:
    for name in ("job", "alone"):
        (tmp_path / name).mkdir()
    ranks = run(write_together, 2, tmp_path / "job", str(videos), str(tmp_path / "together"))
    alone = write_together(0, 1, str(videos), str(tmp_path / "one"))
    for got in ranks:
        torch.testing.assert_close(got["clips"], alone["clips"])
    assert len(list((tmp_path / "together").glob("shard-*"))) == len(list((tmp_path / "one").glob("shard-*"))) > 2

"""Real processes that train together on this machine (gloo), for tests of what happens between them."""
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


# one clean process imports torch once; all others are forked from it, which is much faster than a fresh start for each
multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "pytest", "hypothesis", "ivdr.iivdr"])


def _process(rank: int, world: int, folder: str, worker: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # a file as meeting place: no port that another test might hold
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.save(worker(rank, world, *args), f"{folder}/result-{rank}.pt")
    dist.destroy_process_group()


def run(worker: Callable[..., Any], world: int, folder: Path, *args: Any) -> list[Any]:
    "What worker(rank, world, *args) returns in each of `world` processes; it must be importable and return tensors in plain containers."
    mp.start_processes(_process, (world, str(folder), worker, args), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(world)]


def kill_when(process: Any, moment: Callable[[], bool]) -> None:
    "Kill a process, as `kill -9` does, once the moment has come."
    until = time.monotonic() + 90
    while process.is_alive() and not moment():
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.001)
    process.kill()
    process.join()

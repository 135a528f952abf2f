"""Several processes learn what one process would with the whole batch, and a job of several survives what happens to jobs: real processes."""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ivdr.backbones import create_backbone
from ivdr.training import METHODS, Method, create_method

LENGTH, STRIDE, SIZE = 8, 2, 32
OPTIONS: dict[str, dict[str, Any]] = {"moco": {"queue_size": 8}, "iivdr-moco": {"queue_size": 8}, "supervised": {"classes": ["a", "b"]}}


def make(name: str) -> Method:
    "A method in float64 whose batch norms take stored statistics: those of a batch are SyncBatchNorm's affair, which needs GPUs."
    torch.manual_seed(0)
    method = create_method(name, create_backbone("small", width=4, dilated=name == "tclr"), **OPTIONS.get(name, {})).double().train()
    for layer in method.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
            # no unit of a fresh network is dead or saturated for every clip
            nn.init.uniform_(layer.running_var, 0.01, 0.1)  # type: ignore[arg-type]
    return method


def batch(name: str, videos: int = 4) -> tuple[Tensor, ...]:
    "Clips, draws and, where they are wanted, labels."
    method, generator = make(name), torch.Generator().manual_seed(1)
    views = len(method.views(200, LENGTH, STRIDE, np.random.default_rng(0)))
    clips = torch.randn(videos, views, 3, LENGTH, SIZE, SIZE, generator=generator, dtype=torch.float64)
    draws = torch.rand(videos, method.n_draws, generator=generator)
    return clips, draws, *([torch.arange(videos) % 2] if method.uses_labels else [])


def learn(method: nn.Module, given: tuple[Tensor, ...], steps: int = 2) -> dict[str, Tensor]:
    "Losses and gradients of a step, after another one has moved queues and key encoders."
    for _ in range(steps):
        method.zero_grad()
        losses = method(*given)
        losses["loss"].backward()
    own = method.module if isinstance(method, DistributedDataParallel) else method
    grads = {f"grad.{name}": weight.grad for name, weight in own.named_parameters() if weight.grad is not None}
    return {name: value.detach().double() for name, value in losses.items()} | grads | {f"state.{name}": value for name, value in own.state_dict().items()}


def learn_apart(rank: int, world: int, name: str) -> dict[str, Tensor]:
    given = tuple(part.chunk(world)[rank] for part in batch(name))
    return learn(DistributedDataParallel(make(name)), given)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(name: str, tmp_path: Path) -> None:
    ranks = run(learn_apart, 2, tmp_path, name)
    alone = learn(make(name), batch(name))
    assert sum(key.startswith("grad.") for key in alone) > 10 and alone["loss"].isfinite()
    moving = [key for key in alone if key.startswith("grad.") and alone[key].abs().max() > 0]
    assert len(moving) > 10, "a test of gradients that vanish would test nothing"
    torch.testing.assert_close(torch.stack([got["loss"] for got in ranks]).mean(), alone["loss"], rtol=1e-5, atol=1e-7)
    for key, value in alone.items():
        if key.startswith(("grad.", "state.")):
            for got in ranks:
                torch.testing.assert_close(got[key], value, rtol=1e-5, atol=1e-7, msg=lambda words, key=key: f"{key}: {words}")

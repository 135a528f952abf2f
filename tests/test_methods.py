"""Every method on every backbone: one optimisation step; and what cannot work is refused before any."""

import gc

import pytest
import torch

from ivdr.backbones import BACKBONES, create_backbone
from ivdr.sampling import sample_rng
from ivdr.training import METHODS, Method, OptimConfig, create_method, create_optimizer

FRAMES, SIZE = 16, 20
OPTIONS = {"moco": {"queue_size": 4}, "iivdr-moco": {"queue_size": 4}, "supervised": {"classes": ["run", "walk"]}}
LIGHT = {"small": {"width": 4}}


def build(method: str, backbone: str) -> Method:
    "TCLR takes four timesteps of a sparse clip, which the networks give when their last stage keeps time."
    torch.manual_seed(0)
    options = LIGHT.get(backbone, {}) | ({"dilated": True} if method == "tclr" else {})
    return create_method(method, create_backbone(backbone, **options), **OPTIONS.get(method, {}))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_step_on_every_backbone(name: str, backbone: str) -> None:
    method = build(name, backbone)
    method.check_clips(FRAMES, SIZE)
    views = method.views(64, FRAMES, 4, sample_rng(0, 0, 0), reverse_p=0.5)  # type: ignore[call-arg]
    assert views.shape[1] == FRAMES and views.min() >= 0 and views.max() < 64
    clips = torch.randn(2, len(views), 3, FRAMES, SIZE, SIZE)
    draws = torch.rand(2, method.n_draws) if method.n_draws else None
    optimizer = create_optimizer(method.train(), OptimConfig(lr=0.01))
    before = {n: p.detach().clone() for n, p in method.backbone.named_parameters()}
    labels = (torch.arange(2),) if method.uses_labels else ()
    losses = method(clips, draws, *labels)
    losses["loss"].backward()
    optimizer.step()
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in losses.values()), losses
    still = [n for n, p in method.backbone.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert not still, f"no gradient for {still}"
    assert any(not torch.equal(p, before[n]) for n, p in method.backbone.named_parameters()), "the step changed nothing"
    features = method.eval().encode(clips[:1, 0])
    assert features.shape == (1, method.backbone.out_channels)
    del method, optimizer, before, losses
    gc.collect()  # the large networks would otherwise pile up


@pytest.mark.parametrize("name, backbone, frames, size, reason", [
    ("tclr", "r21d", 16, 112, "dilated"),
    ("tclr", "r3d_18", 16, 112, "dilated"),
    ("tclr", "small", 8, 32, "dilated"),
    ("simclr", "c3d", 4, 112, "at least 8 frames"),
    ("iivdr", "small", 7, 32, "2 equal segments"),
    ("iivdr-moco", "small", 9, 32, "2 equal segments"),
    ("tcgl", "small", 6, 32, "frame sets"),
    ("moco", "c3d", 16, 8, "16 x 16"),
])
def test_clips_that_cannot_serve_are_refused_with_the_reason(name: str, backbone: str, frames: int, size: int, reason: str) -> None:
    method = create_method(name, create_backbone(backbone, **LIGHT.get(backbone, {})), **OPTIONS.get(name, {}))
    with pytest.raises(ValueError, match=reason):
        method.check_clips(frames, size)

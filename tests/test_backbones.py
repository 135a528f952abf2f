"Backbones: the published sizes, torchvision's arithmetic, and what happens to input that does not fit."
import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import video as tv_video
from torchvision.models.video import resnet as tv_resnet

from ivdr.backbones import (
    BACKBONES, C3D, R3D, R21D, Backbone, Small, count_parameters, create_backbone, global_pool, middle_channels, stage_shapes,
)

PUBLISHED = {
    # name and options: parameters, shape of the map for 3 x 16 x 112 x 112
    "r3d": ({}, 14_361_792, (512, 2, 7, 7)),
    "r21d": ({}, 14_365_303, (512, 2, 7, 7)),
    "c3d": ({}, 27_661_440, (512, 2, 7, 7)),
    "r3d_18": ({}, 33_166_272, (512, 2, 7, 7)),
    "r2plus1d_18": ({}, 31_300_125, (512, 2, 7, 7)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts_and_shapes(name: str) -> None:
    options, parameters, shape = PUBLISHED[name]
    with torch.device("meta"):
        backbone = create_backbone(name, **options)
        features = backbone(torch.empty(2, 3, 16, 112, 112))
    assert count_parameters(backbone) == parameters
    assert tuple(features.shape) == (2, *shape)
    assert backbone.out_channels == shape[0]
    assert list(stage_shapes(backbone).values())[-1] == shape


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    names = list(target.state_dict())
    values = list(source.state_dict().values())
    target.load_state_dict(dict(zip(names, values, strict=True)))


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (2, 2, 2, 2)])
def test_r3d_is_torchvisions_residual_network_of_that_depth(blocks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = tv_resnet.VideoResNet(tv_resnet.BasicBlock, [tv_resnet.Conv3DSimple] * 4, list(blocks), tv_resnet.BasicStem)
    theirs = nn.Sequential(theirs.stem, theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
    ours = R3D(blocks)
    copy_in_order(theirs, ours)
    clips = torch.randn(2, 3, 5, 36, 40)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(clips), theirs.train(mode)(clips))


def test_r21d_splits_every_convolution_with_a_width_of_its_own() -> None:
    with torch.device("meta"):
        backbone = R21D()
    middle = {name.rsplit(".spatial", 1)[0]: value.shape[0] for name, value in backbone.state_dict().items() if ".spatial." in name}
    assert middle["stem.conv"] == 83
    assert (middle["layer2.0.conv1"], middle["layer2.0.conv2"]) == (230, 288)
    assert middle["layer2.0.shortcut.conv"] == 64 * 128 // (64 + 128)
    kernels = {tuple(p.shape[2:]) for p in backbone.parameters() if p.ndim == 5}
    assert kernels == {(1, 7, 7), (1, 3, 3), (3, 1, 1), (1, 1, 1)}
    assert not any(name.endswith("bias") and ".bn" not in name for name, _ in backbone.named_parameters())


@given(
    cin=st.integers(1, 600), cout=st.integers(1, 600), time=st.sampled_from([1, 3, 5]), side=st.sampled_from([1, 3, 7]),
)
def test_middle_channels_keeps_the_number_of_weights(cin: int, cout: int, time: int, side: int) -> None:
    middle = middle_channels(cin, cout, (time, side, side))
    whole, per_channel = time * side * side * cin * cout, side * side * cin + time * cout
    assert middle * per_channel <= whole < (middle + 1) * per_channel


def test_reference_networks_start_from_pytorchs_default() -> None:
    torch.manual_seed(0)
    for backbone in (R3D(), R21D()):
        for name, weight in backbone.named_parameters():
            if weight.ndim == 5 and weight.numel() > 20_000:
                bound = weight[0].numel() ** -0.5  # Kaiming-uniform with a = sqrt(5)
                assert weight.abs().max() <= bound
                assert abs(weight.std() / (bound / 3**0.5) - 1) < 0.02, name


@pytest.mark.parametrize("name", BACKBONES)
def test_smallest_accepted_clip_passes_and_smaller_is_refused(name: str) -> None:
    backbone = create_backbone(name)
    least = backbone.minimum
    features = backbone(torch.randn(2, 3, *least))
    assert features.shape[:2] == (2, backbone.out_channels) and torch.isfinite(features).all()
    for axis in range(3):
        if least[axis] > 1:
            short = [*least]
            short[axis] -= 1
            clips = torch.randn(2, 3, *short)
            with pytest.raises(ValueError, match=f"{short[0]} frames of {short[1]} x {short[2]}.*at least {least[0]} frames"):
                backbone(clips)
            with pytest.raises(RuntimeError):  # the bound is the real one: without the check a stage fails
                nn.Sequential(*backbone.children())(clips)


def test_wrong_shapes_are_named() -> None:
    backbone = Small(4)
    for shape in ((2, 3, 8, 32), (2, 4, 8, 32, 32), (3, 8, 32, 32)):
        with pytest.raises(ValueError, match=rf"{shape[0]}, {shape[1]}.*accepted is \(B, 3, T, H, W\)"):
            backbone(torch.zeros(shape))


def test_unknown_names_and_options_list_what_is_accepted() -> None:
    with pytest.raises(ValueError, match="'resnet'.*small, c3d, r3d, r21d, r3d_18, r2plus1d_18"):
        create_backbone("resnet")
    with pytest.raises(ValueError, match="small options: got depth; accepted are width"):
        create_backbone("small", depth=3)
    with pytest.raises(ValueError, match="c3d options: got width; accepted are none"):
        create_backbone("c3d", width=3)
    with pytest.raises(ValueError, match="width: got 0"):
        create_backbone("small", width=0)
    for blocks in ((1, 1, 1), (1, 1, 0, 1)):
        with pytest.raises(ValueError, match="blocks: got"):
            create_backbone("r3d", blocks=blocks)


def test_a_new_backbone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny(Backbone):
        def __init__(self, channels: int = 5) -> None:
            super().__init__({"only": nn.Conv3d(3, channels, 3)}, channels)

    monkeypatch.setitem(BACKBONES, "tiny", Tiny)
    assert create_backbone("tiny", channels=7).out_channels == 7
    with pytest.raises(ValueError, match="tiny options: got width; accepted are channels"):
        create_backbone("tiny", width=7)


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 6), batch=st.integers(2, 3), frames=st.integers(1, 17), height=st.integers(1, 40), width_px=st.integers(1, 40))
def test_small_accepts_any_clip(width: int, batch: int, frames: int, height: int, width_px: int) -> None:
    features = Small(width)(torch.randn(batch, 3, frames, height, width_px))
    assert features.shape == (batch, 8 * width, -(-frames // 4), -(-height // 16), -(-width_px // 16))


def test_small_learns_the_direction_of_motion() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Small(8), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 2))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        start, row = torch.randint(1, 9, (n, 1, 1, 1)), torch.randint(1, 25, (n, 1, 1, 1))
        across = start + 2 * torch.arange(8).view(1, 8, 1, 1)
        y, x = torch.arange(32).view(1, 1, 32, 1), torch.arange(32)
        frames = ((y >= row) & (y < row + 6) & (x >= across) & (x < across + 6)).float()
        right = torch.randint(0, 2, (n,))
        return torch.where(right.bool()[:, None, None, None], frames, frames.flip(1))[:, None].repeat(1, 3, 1, 1, 1), right

    for _ in range(60):
        clips, right = batch(24)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(clips), right).backward()
        optimiser.step()
    clips, right = batch(200)
    with torch.no_grad():
        accuracy = (network.eval()(clips).argmax(1) == right).float().mean()
    assert accuracy > 0.9  # averages over time are the same for both directions: 0.5 without order


@pytest.mark.parametrize("name", ["small", "c3d", "r3d", "r21d"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    backbone = create_backbone(name)
    global_pool(backbone(torch.randn(2, 3, 8, 32, 32))).square().sum().backward()
    missing = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias just before batch norm is subtracted again: its gradient is rounding noise and may be exactly zero.
    assert all(n.endswith("conv.bias") for n in missing)


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_weights_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = getattr(tv_video, name)(weights=None).eval()
    path = tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    backbone = create_backbone(name, weights=path).eval()
    clips = torch.randn(1, 3, 4, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(global_pool(backbone(clips))), model(clips))


def test_bad_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.pth.*not a file"):
        create_backbone("r3d_18", weights=tmp_path / "nowhere.pth")
    for suffix in ("pth", "safetensors"):
        (tmp_path / f"broken.{suffix}").write_bytes(b"\x00not weights")
        with pytest.raises(ValueError, match=f"broken.{suffix}.*cannot be read"):
            create_backbone("r3d_18", weights=tmp_path / f"broken.{suffix}")
    save_file(Small(2).state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="small.safetensors.*not a state dict of r3d_18"):
        create_backbone("r3d_18", weights=tmp_path / "small.safetensors")


def test_weights_files_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"stem.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="trap.pth.*cannot be read"):
        create_backbone("r3d_18", weights=tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_asking_for_shapes_changes_nothing() -> None:
    backbone = Small(4).train()
    before = copy.deepcopy(backbone.state_dict())
    shapes = stage_shapes(backbone, 8, 32)
    assert list(shapes) == [f"layer{i}" for i in range(1, 6)] and shapes["layer5"] == (32, 2, 2, 2)
    assert backbone.training and all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_memory_format_does_not_change_the_features() -> None:
    torch.manual_seed(0)
    backbone, clips = Small(4), torch.randn(3, 3, 8, 32, 32)
    want = backbone(clips)
    other = copy.deepcopy(backbone).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(other(clips.to(memory_format=torch.channels_last_3d)), want, rtol=1e-4, atol=1e-4)


def test_c3d_pools_time_three_times_and_space_four_times() -> None:
    with torch.device("meta"):
        shapes = stage_shapes(C3D(), 16, 112)
    assert list(shapes.values()) == [(64, 16, 56, 56), (128, 8, 28, 28), (256, 4, 14, 14), (512, 2, 7, 7), (512, 2, 7, 7)]


def test_count_parameters_can_leave_out_frozen_ones() -> None:
    module = nn.Linear(3, 4)
    module.bias.requires_grad_(False)
    assert (count_parameters(module), count_parameters(module, trainable=True)) == (16, 12)

"Backbones: the published sizes, torchvision's arithmetic, and what happens to input that does not fit."
import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import video as tv_video
from torchvision.models.video import resnet as tv_resnet

from ivdr.backbones import (
    BACKBONES, C3D, R3D, R21D, S3D, S3DG, Backbone, FeatureGate, Small,
    count_parameters, create_backbone, global_pool, middle_channels, stage_shapes,
)

PUBLISHED = [
    # name, options, parameters, shape of the map for 3 x 16 x 112 x 112
    ("r3d", {}, 14_361_792, (512, 2, 7, 7)),
    ("r3d", {"blocks": (2, 2, 2, 2)}, 33_166_272, (512, 2, 7, 7)),
    ("r3d", {"blocks": [3, 4, 6, 3]}, 63_475_904, (512, 2, 7, 7)),
    ("r21d", {}, 14_365_303, (512, 2, 7, 7)),
    ("c3d", {}, 27_661_440, (512, 2, 7, 7)),
    ("s3d", {}, 7_910_048, (1024, 2, 3, 3)),
    ("s3dg", {}, 9_098_000, (1024, 2, 3, 3)),
    ("r3d_18", {}, 33_166_272, (512, 2, 7, 7)),
    ("r2plus1d_18", {}, 31_300_125, (512, 2, 7, 7)),
]


def on_meta(name: str, **options: Any) -> Backbone:
    with torch.device("meta"):
        return create_backbone(name, **options)


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("name, options, parameters, shape", PUBLISHED)
def test_published_parameter_counts_and_shapes(
    name: str, options: dict[str, Any], parameters: int, shape: tuple[int, ...], dilated: bool
) -> None:
    backbone = on_meta(name, **options, dilated=dilated)
    channels, steps, *places = shape
    want = (channels, 2 * steps if dilated else steps, *places)
    assert count_parameters(backbone) == parameters
    assert tuple(backbone(torch.empty(2, 3, 16, 112, 112, device="meta")).shape) == (2, *want)
    assert backbone.out_channels == channels
    assert backbone.feature_shape(16, 112) == list(stage_shapes(backbone).values())[-1] == want


@pytest.mark.parametrize("name", BACKBONES)
def test_dilation_exchanges_the_named_layers_and_no_weight_changes_its_shape(name: str) -> None:
    plain, dilated = on_meta(name), on_meta(name, dilated=True)
    assert {n: v.shape for n, v in plain.state_dict().items()} == {n: v.shape for n, v in dilated.state_dict().items()}
    described = [{n: repr(m) for n, m in b.named_modules() if not [*m.children()]} for b in (plain, dilated)]
    assert {n for n, text in described[0].items() if described[1][n] != text} == set(plain.last_halving)
    for layer in (dilated.get_submodule(n) for n in dilated.last_halving):
        if isinstance(layer, nn.Conv3d):
            taps = layer.kernel_size[0]
            assert (layer.stride[0], layer.dilation, layer.padding[0]) == (1, (2 if taps == 3 else 1, 1, 1), taps - 1)


def test_dilated_r3d_18_is_the_network_of_tclr() -> None:
    torch.manual_seed(0)
    first = create_backbone("r3d_18", dilated=True).get_submodule("layer4.0")
    conv, shortcut = first.get_submodule("conv1.0"), first.get_submodule("downsample.0")
    assert isinstance(conv, nn.Conv3d) and isinstance(shortcut, nn.Conv3d)
    assert (conv.kernel_size, conv.stride, conv.dilation, conv.padding) == ((3, 3, 3), (1, 2, 2), (2, 1, 1), (2, 1, 1))
    assert (shortcut.kernel_size, shortcut.stride, shortcut.padding) == ((1, 1, 1), (1, 2, 2), (0, 0, 0))
    for layer in (conv, shortcut):  # PyTorch's default start: uniform within 1 / sqrt(fan in)
        bound = layer.weight[0].numel() ** -0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    kept = first.get_submodule("conv2.0").weight
    assert isinstance(kept, torch.Tensor)
    assert abs(kept.std() / (2 / (512 * 27)) ** 0.5 - 1) < 0.02  # torchvision's: normal, by fan out


@pytest.mark.parametrize("name, plain, dilated", [("small", 19, 19), ("r3d", 49, 49), ("r3d_18", 109, 93)])
def test_how_many_frames_a_timestep_sees(name: str, plain: int, dilated: int) -> None:
    for option, frames in ((False, plain), (True, dilated)):
        backbone = create_backbone(name, dilated=option).double().eval()
        for parameter in backbone.parameters():
            parameter.data.abs_()  # nothing cancels
        clip = torch.ones(1, 3, 136, 1, 1, dtype=torch.float64, requires_grad=True)
        features = backbone(clip)
        (gradient,) = torch.autograd.grad(features[0, 0, features.shape[2] // 2].sum(), clip)
        assert int((gradient[0, 0] > 0).sum()) == frames


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


def test_s3d_starts_from_an_uncut_normal_and_pytorchs_batch_norm() -> None:
    torch.manual_seed(0)
    backbone = S3DG()
    weights = torch.cat([m.weight.flatten() for m in backbone.modules() if isinstance(m, nn.Conv3d)])
    assert abs(weights.std() / 0.01 - 1) < 0.01 and abs(weights.mean()) < 1e-4
    assert abs((weights.abs() > 0.02).float().mean() - 0.0455) < 0.002  # what a normal has beyond two deviations
    assert {(m.eps, m.momentum) for m in backbone.modules() if isinstance(m, nn.BatchNorm3d)} == {(1e-5, 0.1)}


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_smallest_accepted_clip_passes_and_smaller_is_refused(name: str, dilated: bool) -> None:
    backbone = create_backbone(name, dilated=dilated)
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


def test_which_backbones_take_the_frame_sets_of_tcgl() -> None:
    takes = {(name, dilated): on_meta(name, dilated=dilated).minimum[0] for name in BACKBONES for dilated in (False, True)}
    assert {key for key, frames in takes.items() if frames > 4} == {("c3d", False), ("s3d", False), ("s3dg", False)}
    assert takes["small", False] == 1


def test_wrong_shapes_are_named() -> None:
    backbone = Small(4)
    for shape in ((2, 3, 8, 32), (2, 4, 8, 32, 32), (3, 8, 32, 32)):
        with pytest.raises(ValueError, match=rf"{shape[0]}, {shape[1]}.*accepted is \(B, 3, T, H, W\)"):
            backbone(torch.zeros(shape))


def test_unknown_names_and_options_list_what_is_accepted() -> None:
    with pytest.raises(ValueError, match="'resnet'.*small, c3d, r3d, r21d, s3d, s3dg, r3d_18, r2plus1d_18"):
        create_backbone("resnet")
    with pytest.raises(ValueError, match="small options: got depth; accepted are width, dilated, moving"):
        create_backbone("small", depth=3)
    with pytest.raises(ValueError, match="c3d options: got width; accepted are dilated, moving"):
        create_backbone("c3d", width=3)
    with pytest.raises(ValueError, match="s3dg options: got weights; accepted are dilated"):
        create_backbone("s3dg", weights="s3d.pth")


@pytest.mark.parametrize("name, options, message", [
    ("small", {"width": 0}, "width: got 0; accepted is a positive"),
    ("small", {"width": "8"}, "width: got '8'; accepted is a positive"),
    ("r3d", {"blocks": (1, 1, 1)}, "blocks: got .*accepted are four positive"),
    ("r3d", {"blocks": (1, 1, 0, 1)}, "blocks: got .*accepted are four positive"),
    ("r21d", {"blocks": 2}, "blocks: got 2; accepted are four positive"),
    ("r21d", {"blocks": "2222"}, "blocks: got '2222'; accepted are four positive"),
    ("small", {"dilated": "yes"}, "dilated: got 'yes'; accepted is false or true"),
    ("c3d", {"dilated": 2}, "dilated: got 2; accepted is false or true"),
])
def test_wrong_values_of_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


def test_a_network_that_names_no_halving_cannot_be_dilated() -> None:
    with pytest.raises(ValueError, match="dilated: got True; accepted is false$"):
        Backbone({"only": nn.Conv3d(3, 4, 3)}, 4, dilated=True)


def test_a_new_backbone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny(Backbone):
        def __init__(self, channels: int = 5) -> None:
            super().__init__({"only": nn.Conv3d(3, channels, 3)}, channels)

    monkeypatch.setitem(BACKBONES, "tiny", Tiny)
    assert create_backbone("tiny", channels=7).out_channels == 7
    with pytest.raises(ValueError, match="tiny options: got width; accepted are channels"):
        create_backbone("tiny", width=7)


@settings(max_examples=15, deadline=None)
@given(
    width=st.integers(1, 6), batch=st.integers(2, 3), frames=st.integers(1, 17),
    height=st.integers(1, 40), width_px=st.integers(1, 40), dilated=st.booleans(),
)
def test_small_accepts_any_clip(width: int, batch: int, frames: int, height: int, width_px: int, dilated: bool) -> None:
    features = Small(width, dilated)(torch.randn(batch, 3, frames, height, width_px))
    assert features.shape == (batch, 8 * width, -(-frames // (2 if dilated else 4)), -(-height // 16), -(-width_px // 16))


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


@pytest.mark.parametrize("name", ["small", "c3d", "r3d", "r21d", "s3dg"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    backbone = create_backbone(name)
    global_pool(backbone(torch.randn(2, 3, 8, 32, 32))).square().sum().backward()
    missing = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias just before batch norm is subtracted again: its gradient is rounding noise and may be exactly zero.
    assert all(n.endswith("conv.bias") for n in missing)


def trained(name: str) -> nn.Module:
    "Torchvision's model with batch norms that say something, as training would leave them."
    torch.manual_seed(0)
    model: nn.Module = getattr(tv_video, name)(weights=None).eval()
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]:
        nn.init.normal_(norm.running_mean, std=0.05)
        nn.init.uniform_(norm.running_var, 0.002, 0.02)
        nn.init.uniform_(norm.weight, 0.05, 0.15)
    return model


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "s3d"])
def test_torchvision_weights_from_a_file(name: str, tmp_path: Path) -> None:
    model = trained(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    clips = torch.randn(1, 3, 6, 24, 24)
    body = model.features if name == "s3d" else nn.Sequential(*list(model.children())[:5])
    assert isinstance(body, nn.Module)
    with torch.no_grad():
        want = body(clips)
        assert want.std() > 1e-3
        for suffix in ("pth", "safetensors"):
            backbone = create_backbone(name, weights=tmp_path / f"weights.{suffix}").eval()
            torch.testing.assert_close(backbone(clips), want, rtol=1e-5, atol=1e-5 * want.abs().max().item())
        dilated = create_backbone(name, weights=tmp_path / "weights.safetensors", dilated=True).eval()
    assert all(torch.equal(value, dilated.state_dict()[key]) for key, value in backbone.state_dict().items())
    assert dilated.feature_shape(16, 112)[1] == 4


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
    with pytest.raises(ValueError, match="small.safetensors.*not a state dict of s3d"):
        create_backbone("s3d", weights=tmp_path / "small.safetensors")


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
    norm = backbone.get_submodule("layer2.bn").eval()  # a frozen layer in a network that trains
    modes = [module.training for module in backbone.modules()]
    before = copy.deepcopy(backbone.state_dict())
    shapes = stage_shapes(backbone, 8, 32)
    assert list(shapes) == [f"layer{i}" for i in range(1, 6)] and shapes["layer5"] == (32, 2, 2, 2)
    assert not norm.training and [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(module._forward_hooks for module in backbone.modules())


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["small", "r3d", "c3d", "s3dg"]), dilated=st.booleans(), train=st.booleans(),
    frames=st.integers(1, 12), size=st.integers(1, 34),
)
def test_feature_shape_says_what_forward_does(name: str, dilated: bool, train: bool, frames: int, size: int) -> None:
    backbone = on_meta(name, dilated=dilated).train(train)
    try:
        want = tuple(backbone(torch.empty(2, 3, frames, size, size, device="meta")).shape[1:])
    except ValueError as error:
        with pytest.raises(ValueError) as ours:
            backbone.feature_shape(frames, size)
        assert str(ours.value) == str(error)
        assert all(module.training == train for module in backbone.modules())
    else:
        assert backbone.feature_shape(frames, size) == want


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_feature_shape_computes_nothing(dtype: torch.dtype) -> None:
    backbone = Small(4).to(dtype)
    assert backbone.feature_shape(8, 32) == tuple(backbone(torch.zeros(1, 3, 8, 32, 32, dtype=dtype)).shape[1:])
    assert backbone.feature_shape(4_000, 8_000) == (32, 1_000, 500, 500)  # 3 TB of float32 to be read
    backbone.get_submodule("layer1.conv").weight.data.fill_(float("nan"))
    assert backbone.feature_shape(8, 32) == (32, 2, 2, 2)


def test_a_gate_scales_each_channel_by_what_the_clip_as_a_whole_says() -> None:
    torch.manual_seed(0)
    gate, x = FeatureGate(5).double(), torch.randn(3, 5, 2, 4, 6, dtype=torch.float64)
    weight, bias = gate.linear.weight.detach(), gate.linear.bias.detach()
    want = torch.empty_like(x)
    for b in range(3):
        for c in range(5):
            logit = sum(float(weight[c, k]) * float(x[b, k].sum()) / 48 for k in range(5)) + float(bias[c])
            want[b, c] = x[b, c] / (1 + math.exp(-logit))
    torch.testing.assert_close(gate(x), want)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(gate(x), 0.5 * x)


def test_s3dg_is_s3d_times_its_gates() -> None:
    torch.manual_seed(0)
    plain, gated = S3D().eval(), S3DG().eval()
    missing, extra = gated.load_state_dict(plain.state_dict(), strict=False)
    assert not extra and len(missing) == 9 * 4 * 2 and all(".gate.linear." in name for name in missing)
    clips, ends = torch.randn(1, 3, 5, 32, 32), {}
    for name, module in gated.named_modules():
        if isinstance(module, FeatureGate):
            nn.init.zeros_(module.linear.weight)
            nn.init.constant_(module.linear.bias, 30.0)  # open
            ends[name] = module
    with torch.no_grad():
        want = plain(clips)
        torch.testing.assert_close(gated(clips), want)
        for module in [module for name, module in ends.items() if name.startswith("mixed5.15.")]:
            module.linear.bias.zero_()
        torch.testing.assert_close(gated(clips), 0.5 * want)  # the four branches of the last block, half open


def test_memory_format_does_not_change_the_features() -> None:
    torch.manual_seed(0)
    backbone, clips = Small(4), torch.randn(3, 3, 8, 32, 32)
    want = backbone(clips)
    other = copy.deepcopy(backbone).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(other(clips.to(memory_format=torch.channels_last_3d)), want, rtol=1e-4, atol=1e-4)


def test_c3d_pools_time_three_times_and_space_four_times() -> None:
    shapes = stage_shapes(C3D(), 16, 112)
    assert list(shapes.values()) == [(64, 16, 56, 56), (128, 8, 28, 28), (256, 4, 14, 14), (512, 2, 7, 7), (512, 2, 7, 7)]


def test_count_parameters_can_leave_out_frozen_ones() -> None:
    module = nn.Linear(3, 4)
    module.bias.requires_grad_(False)
    assert (count_parameters(module), count_parameters(module, trainable=True)) == (16, 12)


@pytest.mark.parametrize("name", ["small", "r21d", "r3d"])
def test_what_stands_still_is_invisible_to_a_backbone_for_moving_parts(name: str) -> None:
    torch.manual_seed(0)
    network = create_backbone(name, moving=True).eval()
    clip, picture = torch.rand(2, 3, 16, 64, 64), torch.rand(2, 3, 1, 64, 64)
    seen, plain = network(clip), create_backbone(name)
    plain.load_state_dict(network.state_dict())  # nothing is learned by taking a mean
    torch.testing.assert_close(network(clip + picture), seen, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(plain.eval()(clip - clip.mean(2, keepdim=True)), seen)
    assert not torch.allclose(plain(clip), seen, atol=1e-3)

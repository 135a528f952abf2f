"Augmentation: torchvision's formulas clip by clip, clip-consistency, independence of the batch, probabilities."
import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tvf

from ivdr import augment as A
from ivdr.augment import RECIPES, ClipAugment, IIVDRRecipe, Recipe, centre_crop, to_frames

NAMES = list(RECIPES)


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def random_draws(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def draws_for(augment: ClipAugment, videos: int, views: int, **fixed: float) -> torch.Tensor:
    "Uniforms of which those named take the given value."
    draws = random_draws(videos, views, augment.n_draws)
    for name, value in fixed.items():
        draws[..., augment.recipe.draws.index(name)] = value
    return draws


def unit_clips() -> torch.Tensor:
    "Random colours, and the cases where a hue formula trips: greys, ties between channels, pure and saturated colours."
    clips = torch.rand(7, 3, 3, 14, 15, generator=torch.Generator().manual_seed(2))
    clips[0] = clips[0, :1]
    clips[1] = (clips[1] * 2).round() / 2
    clips[2] = clips[2].round()
    clips[3] = (clips[3] * 255).round() / 255
    clips[4] *= 1e-3
    return clips


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_operations_match_torchvision_clip_by_clip(name: str) -> None:
    clips = unit_clips()
    values = torch.tensor([-0.5, -0.2, -0.05, 0.0, 0.1, 0.2, 0.5]) if name == "hue" else torch.tensor([0.0, 0.2, 0.7, 1.0, 1.3, 1.8, 3.0])
    ours = getattr(A, f"adjust_{name}")(clips.clone(), values)
    reference = getattr(tvf, f"adjust_{name}")
    theirs = torch.stack([reference(clip.transpose(0, 1), float(value)).transpose(0, 1) for clip, value in zip(clips, values)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_blur_is_a_gaussian_convolution_with_continued_edges() -> None:
    clips, sigma, radius = torch.rand(4, 3, 2, 20, 20), torch.tensor([0.1, 0.6, 1.3, 2.0]), 6
    ours = A.gaussian_blur(clips, sigma, radius)
    for clip, s, got in zip(clips, sigma, ours):
        wide = torch.nn.functional.pad(clip, (radius,) * 4, mode="replicate")
        want = tvf.gaussian_blur(wide, [2 * radius + 1] * 2, [float(s)] * 2)[..., radius:-radius, radius:-radius]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[0], clips[0], rtol=0, atol=1e-5)


def test_blur_stays_in_single_precision_under_autocast() -> None:
    clips, sigma = torch.rand(2, 3, 2, 16, 16), torch.tensor([0.8, 1.6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = A.gaussian_blur(clips, sigma, 5)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, A.gaussian_blur(clips, sigma, 5))


def one_clip_by_hand(frames: torch.Tensor, u: dict[str, float], view: int, augment: ClipAugment) -> torch.Tensor:
    "The recipe written out for one clip (T, H, W, 3) with torchvision's functions and Python's branches."
    import itertools

    recipe, size = augment.recipe, augment.size
    assert isinstance(recipe, IIVDRRecipe)
    images = tvf.resize(frames.permute(0, 3, 1, 2), list(augment.frame_size), interpolation=tvf.InterpolationMode.BICUBIC, antialias=True)
    top, left = int(u["top"] * (images.shape[2] - size + 1)), int(u["left"] * (images.shape[3] - size + 1))
    x = images[:, :, top : top + size, left : left + size].float() / 255
    if not (view == 0 and u["null"] < recipe.null_p):
        if u["jitter"] < 0.8 * 0.8:
            order = list(itertools.permutations(("brightness", "contrast", "saturation", "hue")))[int(u["order"] * 24)]
            for name in order:
                value = 0.2 + 1.6 * u[name] if name != "hue" else -0.2 + 0.4 * u[name]
                x = getattr(tvf, f"adjust_{name}")(x, value)
        if u["blur"] < 0.5:
            sigma = (0.1 + 1.9 * u["sigma"]) * size / 112
            radius = 6
            x = torch.nn.functional.pad(x, (radius,) * 4, mode="replicate")
            x = tvf.gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)[..., radius:-radius, radius:-radius]
    return tvf.normalize(x, list(A.IMAGENET_MEAN), list(A.IMAGENET_STD)).transpose(0, 1)


@pytest.mark.parametrize("name", ["iivdr", "iivdr-portrait"])
def test_iivdr_recipe_equals_the_recipe_written_out_for_one_clip(name: str) -> None:
    augment = ClipAugment(name)
    frames, draws = random_frames(6, 3, 2, 60, 80), random_draws(6, 3, augment.n_draws)
    draws[:2, 0, augment.recipe.draws.index("null")] = 0.1
    batch = augment(frames, draws)
    for b in range(6):
        for v in range(3):
            u = dict(zip(augment.recipe.draws, draws[b, v].tolist()))
            want = one_clip_by_hand(frames[b, v], u, v, augment)
            # A colour at the clamp can differ by one rounding of the 0..1 range: 1e-5, about 0.23 of that when normalised.
            torch.testing.assert_close(batch[b, v], want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [112, 32])
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_does_not_depend_on_its_batch(name: str, size: int, threads: int) -> None:
    augment, before = ClipAugment(name, size), torch.get_num_threads()
    frames, draws = random_frames(5, 3, 2, *augment.frame_size), random_draws(5, 3, augment.n_draws)
    torch.set_num_threads(threads)
    try:
        batch = augment(frames, draws)
        for b in (0, 3):
            assert torch.equal(augment(frames[b : b + 1], draws[b : b + 1])[0], batch[b])
        backwards = torch.tensor([4, 2, 0])
        assert torch.equal(augment(frames[backwards], draws[backwards]), batch[backwards])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_of_a_clip_gets_the_same_change(name: str) -> None:
    augment = ClipAugment(name, 40)
    still = random_frames(12, 3, 1, 50, 64).expand(-1, -1, 5, -1, -1, -1).contiguous()
    out = augment(still, random_draws(12, 3, augment.n_draws))
    torch.testing.assert_close(out, out[:, :, :, :1].expand_as(out), rtol=0, atol=1e-5)
    if name != "none":
        assert not torch.allclose(out[:, 1], out[:, 2], atol=0.05), "views of a video must get changes of their own"


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_never_mixed_in_time(name: str) -> None:
    augment = ClipAugment(name, 32)
    frames, draws = random_frames(4, 2, 6, *augment.frame_size), random_draws(4, 2, augment.n_draws)
    if name != "light":  # its contrast pivots on the mean of the whole clip
        whole, half = augment(frames, draws), augment(frames[:, :, :3], draws)
        torch.testing.assert_close(whole[:, :, :, :3], half, rtol=0, atol=1e-5)
    torch.testing.assert_close(augment(frames.flip(2), draws), augment(frames, draws).flip(3), rtol=0, atol=1e-5)


def test_inputs_are_left_alone() -> None:
    for name in NAMES:
        augment = ClipAugment(name, 24)
        frames, draws = random_frames(3, 2, 2, *augment.frame_size), random_draws(3, 2, augment.n_draws)
        kept = frames.clone(), draws.clone()
        augment(frames, draws)
        assert torch.equal(frames, kept[0]) and torch.equal(draws, kept[1])


def changed_views(augment: ClipAugment, videos: int) -> torch.Tensor:
    "Which clips differ from their own plain crop, (videos, 3)."
    frames = random_frames(videos, 3, 1, *augment.frame_size)
    draws = random_draws(videos, 3, augment.n_draws)
    out = augment(frames, draws)
    plain = ClipAugment(IIVDRRecipe(null_p=1.0, jitter_p=0.0, blur_p=0.0), augment.size)(frames, draws)
    return (out - plain).abs().amax((2, 3, 4, 5)) > 1e-3


@pytest.mark.parametrize(
    ("recipe", "nominal"),
    [
        # what is left switched on; probability for view 0, and for views 1 and 2
        (IIVDRRecipe(blur_p=0.0), (0.8 * 0.64, 0.64)),
        (IIVDRRecipe(jitter_p=0.0, blur_sigma=(7.0, 14.0)), (0.8 * 0.5, 0.5)),
        (IIVDRRecipe(blur_sigma=(7.0, 14.0)), (0.8 * (1 - 0.36 * 0.5), 1 - 0.36 * 0.5)),
    ],
)
def test_how_often_things_happen(recipe: IIVDRRecipe, nominal: tuple[float, float]) -> None:
    n = 1500
    share = changed_views(ClipAugment(recipe, 16), n).float().mean(0)
    for view, p in enumerate((nominal[0], nominal[1], nominal[1])):
        assert abs(share[view] - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_every_order_of_the_four_operations_is_equally_likely_and_reached() -> None:
    augment = ClipAugment("iivdr", 8)
    frames = random_frames(1, 1, 1, *augment.frame_size).expand(24, -1, -1, -1, -1, -1)
    draws = draws_for(augment, 1, 1, top=0, left=0, jitter=0, null=0.9, blur=0.9, brightness=0.9, contrast=0.8, saturation=0.9, hue=0.9)
    draws = draws.repeat(24, 1, 1)
    draws[:, 0, augment.recipe.draws.index("order")] = (torch.arange(24) + 0.5) / 24
    out = augment(frames, draws).flatten(1)
    assert len(torch.unique((out * 1e4).round(), dim=0)) >= 12  # some orders agree where no colour meets the clamp
    firsts = torch.tensor([order[0] for order in A._ORDERS.tolist()])
    assert firsts.bincount().tolist() == [6, 6, 6, 6]


def test_crop_positions_reach_every_place_and_no_other() -> None:
    augment = ClipAugment(IIVDRRecipe(null_p=1.0), 112)
    rows = torch.arange(128, dtype=torch.uint8)[:, None, None].expand(128, 171, 3)
    columns = torch.arange(171, dtype=torch.uint8)[None, :, None].expand(128, 171, 3)
    last = 1 - 2**-24
    u = torch.tensor([0.0, 0.5, last]).repeat(2, 1).T
    draws = draws_for(augment, 3, 1)
    draws[:, 0, :2] = u
    for picture, room, corner in ((rows, 17, (0, 0)), (columns, 60, (0, 0))):
        seen = to_frames(augment(picture.expand(3, 1, 1, -1, -1, -1), draws))[:, 0, 0, corner[0], corner[1], 0]
        assert seen.tolist() == [0, room // 2, room - 1]


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_uniform_below_one_stays_inside(name: str) -> None:
    for size in (16, 33, 112):
        augment = ClipAugment(name, size)
        draws = torch.full((1, 2, augment.n_draws), 1 - 2**-24)
        assert torch.isfinite(augment(random_frames(1, 2, 2, *augment.frame_size), draws)).all()


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(NAMES), size=st.integers(1, 48), videos=st.integers(1, 3), views=st.integers(1, 4), frames=st.integers(1, 5),
    height=st.integers(20, 70), width=st.integers(20, 70),
)
def test_shapes_and_range(name: str, size: int, videos: int, views: int, frames: int, height: int, width: int) -> None:
    augment = ClipAugment(name, size)
    out = augment(random_frames(videos, views, frames, height, width))
    assert out.shape == (videos, views, 3, frames, size, size)
    assert out.dtype == torch.float32 and out.is_contiguous()
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (A.IMAGENET_MEAN, A.IMAGENET_STD))
    colours = out * std + mean
    assert colours.min() > -1e-5 and colours.max() < 1 + 1e-5


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors on "meta" have shapes and no values: any look at a value, which is what makes a GPU wait, raises here.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    for name in NAMES:
        augment = ClipAugment(name)
        out = augment(random_frames(4, 3, 16, *augment.frame_size).to("meta"), random_draws(4, 3, augment.n_draws))
        assert out.device.type == "meta" and out.shape == (4, 3, 3, 16, 112, 112)


@pytest.mark.cuda
def test_gpu_gives_what_the_cpu_gives_without_waiting() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    augment = ClipAugment("iivdr")
    frames, draws = random_frames(4, 3, 8, *augment.frame_size), random_draws(4, 3, augment.n_draws)
    on_device = frames.cuda()
    augment(on_device, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(on_device, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out.cpu(), augment(frames, draws), rtol=0, atol=1e-3)


def test_frame_size_is_in_proportion_to_the_crop() -> None:
    assert ClipAugment("iivdr").frame_size == (128, 171)
    assert ClipAugment("iivdr-portrait").frame_size == (171, 128)
    assert ClipAugment("iivdr", 32).frame_size == (37, 49)
    assert ClipAugment("none", 64).frame_size == (73, 98)


def test_centre_crop_takes_the_centre() -> None:
    frames = random_frames(2, 2, 3, 20, 31)
    out = centre_crop(frames, 16)
    assert torch.equal(to_frames(out), tvf.center_crop(frames.movedim(-1, 2), [16, 16]).movedim(2, -1))
    resized = centre_crop(frames, 16, frame_size=(18, 24))
    assert resized.shape == (2, 2, 3, 3, 16, 16)
    assert torch.equal(ClipAugment("none", 16)(frames), resized)  # its frame size at 16 pixels is (18, 24)


def test_fresh_draws_follow_torch_seed() -> None:
    augment, frames = ClipAugment("light", 16), random_frames(2, 2, 2, 18, 24)
    torch.manual_seed(3)
    first = augment(frames)
    assert not torch.equal(first, augment(frames))
    torch.manual_seed(3)
    assert torch.equal(first, augment(frames))


def test_wrong_input_is_named() -> None:
    augment, frames = ClipAugment("iivdr", 16), random_frames(2, 3, 4, 18, 24)
    with pytest.raises(ValueError, match="strong.*iivdr, iivdr-portrait, light, none"):
        ClipAugment("strong")
    with pytest.raises(ValueError, match="size: got 0"):
        ClipAugment("light", 0)
    with pytest.raises(ValueError, match=r"draws: got shape \(2, 3, 10\); accepted is \(2, 3, 11\)"):
        augment(frames, torch.rand(2, 3, 10))
    with pytest.raises(ValueError, match="float32.*uint8"):
        augment(frames.float())
    with pytest.raises(ValueError, match=r"\(3, 4, 18, 24, 3\)"):
        augment(frames[0])
    with pytest.raises(ValueError, match="size: got 19 for frames of 18 x 24"):
        centre_crop(frames, 19)


def test_a_recipe_of_ones_own() -> None:
    class Negative(Recipe):
        draws = ("top", "left")

        def colour(self, clips: torch.Tensor, draws: dict[str, torch.Tensor], view: torch.Tensor) -> torch.Tensor:
            return 1 - clips

    frames = random_frames(2, 1, 2, 18, 24)
    draws = torch.zeros(2, 1, 2)
    out = to_frames(ClipAugment(Negative(), 16)(frames, draws))
    assert torch.equal(out, 255 - frames[:, :, :, :16, :16])

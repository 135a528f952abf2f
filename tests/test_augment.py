"Augmentation: torchvision's formulas clip by clip, clip-consistency, independence of the batch, probabilities."
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms.v2 import functional as tvf

from ivdr import augment as A
from ivdr.augment import RECIPES, ClipAugment, IIVDRRecipe, Recipe, TCLRRecipe, centre_crop, to_frames

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


# ---- TCLR's recipe

OFF = dict(contrast_p=0.0, hue_p=0.0, saturation_p=0.0, brightness_p=0.0, grey_p=0.0, channel_p=0.0, flip_p=0.0, erase_p=0.0)


def test_gamma_is_torchvisions_clip_by_clip() -> None:
    clips, gamma = unit_clips(), torch.linspace(0.5, 2, 7)
    want = torch.stack([tvf.adjust_gamma(clip.transpose(0, 1), float(g)).transpose(0, 1) for clip, g in zip(clips, gamma)])
    torch.testing.assert_close(A.adjust_gamma(clips, gamma), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [112, 32, 200])
def test_resized_squares_are_pils(size: int) -> None:
    frames = random_frames(5, 2, 150, 190)
    top, left, side = torch.tensor([[0, 90, 11, 60, 0], [0, 60, 33, 97, 40], [150, 60, 112, 77, 149]])
    squares = A.resize_crops(frames, top, left, side, size)
    assert squares.shape == (5, 3, 2, size, size) and squares.dtype == torch.uint8
    for n in range(5):
        y, x, s = int(top[n]), int(left[n]), int(side[n])
        for t in range(2):
            picture = Image.fromarray(frames[n, t, y : y + s, x : x + s].numpy()).resize((size, size), Image.Resampling.BILINEAR)
            worst = np.abs(np.asarray(picture).astype(int) - squares[n, :, t].movedim(0, -1).numpy().astype(int)).max()
            assert worst <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), min_size=1, max_size=4), st.integers(1, 11), st.integers(1, 11))
def test_erased_rectangles_are_cut_off_at_the_border(places: list[tuple[int, int, int, int]], height: int, width: int) -> None:
    clips = torch.rand(len(places), 3, 2, height, width) + 0.5
    want = clips.clone()
    for clip, (top, left, rows, columns) in zip(want, places):
        clip[:, :, top : top + rows, left : left + columns] = 0
    assert torch.equal(A.erase_rectangles(clips.clone(), *torch.tensor(places).T), want)


def test_a_dropped_channel_is_black_and_the_others_stay() -> None:
    clips = torch.rand(3, 3, 2, 4, 4) + 0.1
    bare = A.drop_channel(clips, torch.tensor([2, 0, 1]))
    for n, channel in enumerate((2, 0, 1)):
        for c in range(3):
            assert torch.equal(bare[n, c], clips[n, c] * (c != channel))


def one_tclr_clip_by_hand(frames: torch.Tensor, u: dict[str, float], augment: ClipAugment) -> torch.Tensor:
    "The released recipe for one clip (T, H, W, 3), step by step with torchvision's functions, in its own order: flip near the end."
    size = augment.size
    height, width = augment.frame_size
    f = 0.6 + 0.4 * u["scale"]
    side = int(height * f)
    places = width - side if augment.recipe.everywhere else int(width - width * f)
    top, left = int(u["top"] * (height - side + 1)), int(u["left"] * (places + 1))
    images = frames.permute(0, 3, 1, 2)[:, :, top : top + side, left : left + side]
    x = tvf.resize(images, [size, size], interpolation=tvf.InterpolationMode.BILINEAR, antialias=True).float() / 255

    def factor(name: str) -> float:
        return 0.75 + 0.5 * u[name]

    if u["contrast?"] < 0.125:
        x = tvf.adjust_contrast(x, factor("contrast"))
    if u["hue?"] < 0.3:
        x = tvf.adjust_hue(x, -0.1 + 0.2 * u["hue"])
    if u["saturation?"] < 0.3:
        x = tvf.adjust_saturation(x, factor("saturation"))
    if u["brightness?"] < 0.3:
        x = tvf.adjust_brightness(x, factor("brightness"))
    if 0.125 <= u["contrast?"] < 0.25:
        x = tvf.adjust_contrast(x, factor("contrast"))
    if u["colourless?"] < 0.175:
        x = tvf.rgb_to_grayscale(x, num_output_channels=3)
        if u["gamma?"] < 0.75:
            x = tvf.adjust_gamma(x, factor("gamma"))
    elif u["colourless?"] < 0.3:
        x = x.clone()
        x[:, int(3 * u["channel"])] = 0
    if u["flip"] < 0.5:
        x = tvf.horizontal_flip(x)
    if u["erase?"] < 0.5:
        low, high = round(9 * size / 112), round(18 * size / 112)
        rows, columns = (low + int(u[name] * (high - low + 1)) for name in ("erase_height", "erase_width"))
        y, z = int(u["erase_top"] * size), int(u["erase_left"] * size)
        x = x.clone()
        x[:, :, y : y + rows, z : z + columns] = 0
    return tvf.normalize(x, list(A.IMAGENET_MEAN), list(A.IMAGENET_STD)).transpose(0, 1)


@pytest.mark.parametrize("size", [112, 32])
@pytest.mark.parametrize("name", ["tclr", "tclr-published"])
def test_tclr_recipe_equals_the_recipe_written_out_for_one_clip(name: str, size: int) -> None:
    augment = ClipAugment(name, size)
    frames, draws = random_frames(8, 10, 1, *augment.frame_size), random_draws(8, 10, augment.n_draws, seed=5)
    batch = augment(frames, draws)
    seen = set()
    for b in range(8):
        for v in range(10):
            u = dict(zip(augment.recipe.draws, draws[b, v].double().tolist()))
            seen |= {kind for kind, low, high in (("grey", 0, 0.175), ("bare", 0.175, 0.3)) if low <= u["colourless?"] < high}
            torch.testing.assert_close(batch[b, v], one_tclr_clip_by_hand(frames[b, v], u, augment), rtol=0, atol=2e-4)
    assert seen == {"grey", "bare"}, "the draws must reach all branches"


Applied = list[tuple[str, torch.Tensor, tuple[torch.Tensor, ...]]]


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Applied:
    "What a recipe does to which clips: (operation, chosen, values) in order, recorded while it runs."
    record: Applied = []
    change = A._change

    def spy(clips: torch.Tensor, chosen: torch.Tensor, operation: Callable[..., torch.Tensor], *values: torch.Tensor) -> None:
        plain = operation.func if isinstance(operation, partial) else operation
        record.append((plain.__name__, chosen, values))
        change(clips, chosen, operation, *values)

    monkeypatch.setattr(A, "_change", spy)
    return record


def test_how_often_tclr_does_what_and_by_how_much(applied: Applied) -> None:
    n = 8000
    augment = ClipAugment("tclr", 4)
    augment(random_frames(n, 1, 1, *augment.frame_size), random_draws(n, 1, augment.n_draws, seed=11))
    names = ["flip", "contrast", "hue", "saturation", "brightness", "contrast", "saturation", "gamma", "channel", "erase_rectangles"]
    assert [name.removeprefix("adjust_").removeprefix("drop_") for name, _, _ in applied] == names
    flip, early, hue, saturation, brightness, late, grey, gamma, bare, erased = (chosen for _, chosen, _ in applied)
    expected = [(flip, 0.5), (early, 0.125), (late, 0.125), (hue, 0.3), (saturation, 0.3), (brightness, 0.3), (grey, 0.175),
                (gamma, 0.175 * 0.75), (bare, 0.125), (erased, 0.5)]
    for chosen, p in expected:
        assert stats.binomtest(int(chosen.sum()), n, p).pvalue > 1e-3
    assert not (early & late).any() and not (grey & bare).any() and (grey | ~gamma).all()
    for number, low, high in ((1, 0.75, 1.25), (2, -0.1, 0.1), (3, 0.75, 1.25), (4, 0.75, 1.25), (5, 0.75, 1.25), (7, 0.75, 1.25)):
        _, chosen, (values,) = applied[number]
        assert stats.kstest(values[chosen].numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    assert (applied[6][2][0] == 0).all()  # saturation 0 is greyscale
    _, chosen, (channels,) = applied[8]
    assert stats.chisquare(channels[chosen].bincount(minlength=3).numpy()).pvalue > 1e-3
    independent = np.corrcoef(torch.stack([flip, early, hue, saturation, brightness, erased]).float().numpy())[np.triu_indices(6, 1)]
    assert np.abs(independent).max() < 4.5 / n**0.5


def test_rectangles_of_tclr() -> None:
    n = 3000
    augment = ClipAugment(replace(TCLRRecipe(**{**OFF, "erase_p": 0.5}), frame=(112, 112), scale=(1.0, 1.0)))
    white = torch.full((n // 10, 10, 1, 112, 112, 3), 255, dtype=torch.uint8)
    hole = to_frames(augment(white, random_draws(n // 10, 10, augment.n_draws, seed=3)))[..., 0].reshape(n, 112, 112) == 0
    has = hole.flatten(1).any(1)
    assert stats.binomtest(int(has.sum()), n, 0.5).pvalue > 1e-3
    rows, columns = hole[has].any(2), hole[has].any(1)
    assert torch.equal(rows[:, :, None] & columns[:, None, :], hole[has])  # one rectangle each
    for edge in (rows, columns):
        first, length = edge.int().argmax(1), edge.sum(1)
        assert stats.kstest((first + 0.5).numpy() / 112, "uniform").pvalue > 1e-3
        whole = length[first <= 112 - 18]
        assert stats.chisquare((whole - 9).bincount(minlength=10).numpy()).pvalue > 1e-3
        assert torch.equal(length[first > 103], 112 - first[first > 103])  # cut off at the border


def squares_of(recipe: TCLRRecipe, n: int, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Top, left and side of n squares that the recipe cuts from frames of 240 x 320."
    cut: list[torch.Tensor] = []

    def spy(frames: torch.Tensor, top: torch.Tensor, left: torch.Tensor, side: torch.Tensor, size: int) -> torch.Tensor:
        cut.extend([top, left, side])
        return frames.new_zeros(len(frames), 3, 1, size, size)

    monkeypatch.setattr(A, "resize_crops", spy)
    frames = torch.zeros(1, 1, 240, 320, 3, dtype=torch.uint8).expand(n, -1, -1, -1, -1)
    recipe.crop(frames, dict(zip(recipe.draws, random_draws(n, len(recipe.draws), seed=8).double().T)), 4)
    top, left, side = (value.numpy() for value in cut)
    return top, left, side


def test_squares_of_tclr_lie_anywhere_and_as_published_never_at_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 6000
    for recipe in (TCLRRecipe(), TCLRRecipe(everywhere=False)):
        top, left, side = squares_of(recipe, n, monkeypatch)
        assert side.min() == 144 and side.max() == 239
        assert stats.kstest((side + 0.5) / 240, "uniform", (0.6, 0.4)).pvalue > 1e-3
        assert top.min() >= 0 and left.min() >= 0 and (top + side).max() <= 240 and (left + side).max() <= 320
        spread = np.random.default_rng(0).random(n)
        assert stats.kstest((top + spread) / (240 - side + 1), "uniform").pvalue > 1e-3
        at_right, at_left = ((left + side > 310).mean(), (left < 10).mean())
        if recipe.everywhere:
            assert stats.kstest((left + spread) / (320 - side + 1), "uniform").pvalue > 1e-3
            assert abs(at_right - at_left) < 4 * (2 * at_left / n) ** 0.5
            assert stats.ttest_1samp(left + side / 2, 160).pvalue > 1e-3  # as often left of the middle as right of it
        else:
            assert at_right == 0 and (left + side).max() <= 272 and at_left > 0.1
            assert (left + side / 2).mean() < 140


@pytest.mark.parametrize("size", [112, 32])
def test_tclr_without_its_changes_is_the_resized_square(size: int) -> None:
    augment = ClipAugment(TCLRRecipe(**OFF, scale=(1.0, 1.0)), size)
    height, width = augment.frame_size
    frames = random_frames(2, 2, 3, height, width)
    draws = draws_for(augment, 2, 2, left=1 - 2**-24)
    square = frames[..., width - height :, :].flatten(0, 2).permute(0, 3, 1, 2)
    want = tvf.resize(square, [size, size], interpolation=tvf.InterpolationMode.BILINEAR, antialias=True).permute(0, 2, 3, 1)
    assert torch.equal(to_frames(augment(frames, draws)), want.reshape(2, 2, 3, size, size, 3))


def test_tcgl_crops_and_does_nothing_else() -> None:
    augment = ClipAugment("tcgl")
    frames, draws = random_frames(2, 3, 2, 128, 171), random_draws(2, 3, augment.n_draws)
    out = to_frames(augment(frames, draws))
    for b in range(2):
        for v in range(3):
            top, left = int(draws[b, v, 0] * 17), int(draws[b, v, 1] * 60)
            assert torch.equal(out[b, v], frames[b, v, :, top : top + 112, left : left + 112])


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
@pytest.mark.parametrize("name", NAMES)
def test_gpu_gives_what_the_cpu_gives_without_waiting(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    augment = ClipAugment(name)
    frames, draws = random_frames(4, 3, 8, *augment.frame_size), random_draws(4, 3, augment.n_draws)
    on_device = frames.cuda()
    augment(on_device, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(on_device, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # resizing rounds to bytes, on the CPU in integer arithmetic: a pixel may be one of 255 off, 1 / (255 * 0.225) and twice that after a change
    level = 0.04 if name.startswith("tclr") else 1e-3
    torch.testing.assert_close(out.cpu(), augment(frames, draws), rtol=0, atol=level)


def test_frame_size_is_in_proportion_to_the_crop() -> None:
    assert ClipAugment("iivdr").frame_size == (128, 171)
    assert ClipAugment("iivdr-portrait").frame_size == (171, 128)
    assert ClipAugment("iivdr", 32).frame_size == (37, 49)
    assert ClipAugment("none", 64).frame_size == (73, 98)
    for name in ("tclr", "tclr-published"):
        assert ClipAugment(name).frame_size == (240, 320) and ClipAugment(name, 32).frame_size == (69, 91)
    assert ClipAugment("tcgl").frame_size == (128, 171)


def test_a_centre_crop_for_evaluation_shows_things_as_large_as_training_does() -> None:
    for name in NAMES:
        if not name.startswith("tclr"):
            assert ClipAugment(name, 64).evaluation_frame_size == ClipAugment(name, 64).frame_size
    for size in (112, 32):
        augment = ClipAugment("tclr", size)
        height, width = augment.evaluation_frame_size
        assert abs(size / height - 0.8) < 0.01 and abs(width / height - 4 / 3) < 0.01


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
    with pytest.raises(ValueError, match="strong.*iivdr, iivdr-portrait, tclr, tclr-published, iivdr-finetune, tclr-linear, tcgl, light, none"):
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

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LinearRegression, Ridge

from ivdr.variance import (
    PENALTIES, alignment, explained_share, intra_inter_ratio, order_probe, progress_by_action, progress_probe, ridge, uniformity, variance_split,
)


# variance split

@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)),
                  elements=st.floats(-100, 100).map(lambda v: round(v, 3))), st.floats(0.01, 100))
def test_inter_and_intra_add_up_to_the_total_variance(features: np.ndarray, scale: float) -> None:
    inter, intra = variance_split(features)
    unit = np.array([[clip / max(sum(v * v for v in clip) ** 0.5, 1e-12) for clip in video] for video in features])
    total = np.var(unit.reshape(-1, unit.shape[2]), axis=0).sum()
    assert inter + intra == pytest.approx(total, abs=1e-12)
    assert inter >= 0 and intra >= 0
    within = np.mean([np.var(video, axis=0).sum() for video in unit])
    assert intra == pytest.approx(within, abs=1e-12)
    np.testing.assert_allclose(variance_split(features * scale), (inter, intra), atol=1e-9)


def test_split_of_constructed_features() -> None:
    e = np.eye(4)
    assert variance_split(np.stack([[e[0]] * 3, [e[1]] * 3])) == pytest.approx((0.5, 0))  # videos differ, clips agree
    assert variance_split(np.stack([[e[0], e[1]]] * 5)) == pytest.approx((0, 0.5))  # every video visits the same two places
    # two dimensions tell the video, two the time; a turn by angle a shares length 1 between them
    for a in (0.1, 0.7, 1.4):
        grid = np.stack([[np.cos(a) * v + np.sin(a) * t for t in (e[2], -e[2])] for v in (e[0], -e[0])])
        assert variance_split(grid) == pytest.approx((np.cos(a) ** 2, np.sin(a) ** 2))
        assert intra_inter_ratio(grid) == pytest.approx(np.tan(a) ** 2)
    assert variance_split(torch.tensor(grid, requires_grad=True)) == variance_split(grid)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 5))
def test_the_explained_share_is_the_adjusted_r_squared_of_a_regression_on_the_sorts(seed: int, kinds: int, d: int) -> None:
    random = np.random.default_rng(seed)
    sorts = np.concatenate([np.arange(kinds), random.integers(kinds, size=20)])
    x = random.normal(size=(len(sorts), d)) + random.normal(size=(kinds, d))[sorts]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    left = LinearRegression().fit(np.eye(kinds)[sorts], unit)
    r2 = 1 - ((unit - left.predict(np.eye(kinds)[sorts])) ** 2).sum() / ((unit - unit.mean(0)) ** 2).sum()
    n = len(sorts)
    assert explained_share(3 * x, [f"sort {s}" for s in sorts]) == pytest.approx(1 - (1 - r2) * (n - 1) / (n - kinds), abs=1e-9)


def test_the_explained_share_is_nought_on_average_for_a_lot_and_one_for_what_is_everything() -> None:
    random = np.random.default_rng(0)
    x, sorts = random.normal(size=(60, 8)), np.arange(60) % 12
    assert abs(np.mean([explained_share(x, random.permutation(sorts)) for _ in range(300)])) < 0.005
    assert explained_share(np.eye(12)[sorts], sorts) == pytest.approx(1)
    for wrong, sort in ((x, sorts[:-1]), (x, np.zeros(60)), (x, np.arange(60)), (np.ones((60, 8)), sorts)):
        with pytest.raises(ValueError, match="accepted is|no variance"):
            explained_share(wrong, sort)


def test_planted_variances_are_recovered() -> None:
    rng = np.random.default_rng(0)
    videos, clips = rng.normal(size=(100, 1, 1000)), rng.normal(size=(100, 20, 1000))
    for share in (0.1, 0.5, 0.9):
        inter, intra = variance_split(np.sqrt(share) * videos + np.sqrt(1 - share) * clips)
        # a mean over 20 clips keeps a 20th of the variance within
        assert inter == pytest.approx(share + (1 - share) / 20, abs=0.02) and intra == pytest.approx((1 - share) * 0.95, abs=0.02)


def test_ratio_of_collapsed_features() -> None:
    assert np.isnan(intra_inter_ratio(np.ones((3, 2, 1))))
    assert intra_inter_ratio(np.array([[[1.0], [-1.0]]] * 3)) == np.inf


def test_bad_shapes_are_named() -> None:
    for wrong in (np.zeros((4, 3)), np.zeros((0, 2, 3)), np.full((2, 2, 2), np.nan)):
        with pytest.raises(ValueError, match="features"):
            variance_split(wrong)
    with pytest.raises(ValueError, match="views have shapes"):
        alignment(np.eye(3), np.eye(3)[:2])
    with pytest.raises(ValueError, match="at least two"):
        uniformity(np.ones((1, 3)))


# alignment and uniformity

def test_alignment_and_uniformity_of_known_configurations() -> None:
    e = np.eye(3)
    assert alignment(e, 7 * e) == pytest.approx(0, abs=1e-12)
    assert alignment(e, -e) == pytest.approx(4) and alignment(e, -e, alpha=1) == pytest.approx(2)
    assert uniformity(np.ones((5, 2))) == pytest.approx(0)
    assert uniformity(5 * e) == pytest.approx(-4)  # orthogonal: squared distance 2, t = 2
    assert uniformity(np.stack([e[0], -e[0]])) == pytest.approx(-8)
    assert uniformity(np.stack([e[0], -e[0]]), t=1) == pytest.approx(-4)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 8), st.integers(1, 4)), elements=st.integers(-3, 3).map(float)), st.floats(0.1, 5))
def test_uniformity_agrees_with_a_loop_over_pairs(features: np.ndarray, t: float) -> None:
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    pairs = [np.exp(-t * ((a - b) ** 2).sum()) for i, a in enumerate(unit) for b in unit[:i]]
    assert uniformity(features, t) == pytest.approx(np.log(np.mean(pairs)), abs=1e-9)


def test_uniformity_of_many_features_is_summed_in_blocks() -> None:
    x = np.random.default_rng(1).normal(size=(5000, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    # uniform on the sphere: squared distances are uniform on 0..4
    assert uniformity(unit) == pytest.approx(np.log((1 - np.exp(-8)) / 8), abs=0.01)


def test_alignment_of_all_clip_pairs_is_the_variance_within() -> None:
    x = np.random.default_rng(2).normal(size=(6, 4, 8)) + 1
    first, second = zip(*[(x[:, i], x[:, j]) for i in range(4) for j in range(4) if i != j])
    _, intra = variance_split(x)
    assert alignment(np.concatenate(first), np.concatenate(second)) == pytest.approx(2 * 4 / 3 * intra)


# ridge

@pytest.mark.parametrize("shape", [(60, 8), (30, 50)], ids=["tall", "wide"])
def test_ridge_is_scikit_learns_on_standardised_features(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    x, asked = rng.normal(2, 3, size=shape), rng.normal(2, 3, size=(20, shape[1]))
    y = x @ rng.normal(size=shape[1]) + rng.normal(size=shape[0])
    predicted, penalty = ridge(x, y, asked, np.arange(shape[0]) // 3)
    assert penalty in PENALTIES
    mean, deviation = x.mean(0), x.std(0)
    expected = Ridge(alpha=penalty * shape[0]).fit((x - mean) / deviation, y).predict((asked - mean) / deviation)
    np.testing.assert_allclose(predicted, expected, rtol=1e-8)


def test_ridge_keeps_groups_together_when_it_chooses() -> None:
    # every person carries a marker of their own and one target: mixed folds would trust the marker, whole persons refute it
    rng = np.random.default_rng(4)
    person = np.repeat(np.arange(40), 10)
    x = rng.normal(size=(40, 60))[person] + 0.01 * rng.normal(size=(400, 60))
    y = rng.normal(size=40)[person]
    _, mixed = ridge(x, y, x[:1], np.arange(400))
    _, whole = ridge(x, y, x[:1], person)
    assert mixed < 1e-2 and whole >= 1
    predicted, strongest = ridge(x, y, x[:5], np.zeros(400))  # a single person leaves nothing to choose with
    assert strongest == PENALTIES[-1] and np.abs(predicted - y.mean()).max() < 0.1


# order probe

def clips(n: int, m: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, m, d))


def test_order_probe_finds_a_planted_arrow_of_time() -> None:
    arrow = np.random.default_rng(9).normal(size=24)
    train, test = clips(60, 5, 24, 0), clips(40, 5, 24, 1)
    assert order_probe(train + arrow, train - arrow, test + arrow, test - arrow) > 0.99
    assert order_probe(train, train, test, test) == 0.5  # a network blind to order: exactly chance, not above it
    assert order_probe(train, clips(60, 5, 24, 2), test, clips(40, 5, 24, 3)) == pytest.approx(0.5, abs=0.06)
    # an arrow that points the other way in the test videos is found, and wrong
    assert order_probe(train + arrow, train - arrow, test - arrow, test + arrow) < 0.01


def test_order_probe_takes_flat_clips_and_needs_pairs() -> None:
    train, test = clips(30, 4, 8, 0), clips(20, 4, 8, 1)
    shifted = [train, train + 0.5, test, test + 0.5]
    found = order_probe(*shifted)
    flat = order_probe(*(x.reshape(-1, 8) for x in shifted), groups=np.repeat(np.arange(30), 4))
    assert flat == found == order_probe(*(torch.tensor(x) for x in shifted))
    with pytest.raises(ValueError, match="both ways"):
        order_probe(train, train[:-1], test, test)
    with pytest.raises(ValueError, match="29 groups for 30"):
        order_probe(*shifted, groups=np.arange(29))


# progress probe

def embedded(n: int, m: int, d: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Clips whose progress lies along one direction of the features, under a video's own offset and noise."
    rng = np.random.default_rng(seed)
    t = np.sort(rng.random((n, m)), axis=1)
    direction, sideways = np.linalg.qr(np.random.default_rng(99).normal(size=(d, 2)))[0].T
    x = t[..., None] * direction + rng.normal(size=(n, 1, 1)) * sideways + noise * rng.normal(size=(n, m, d))
    return x, t


def test_progress_probe_reads_a_planted_clock_and_nothing_in_noise() -> None:
    (x, t), (y, s) = embedded(80, 10, 32, 0.0, 0), embedded(40, 10, 32, 0.0, 1)
    assert progress_probe(x, t, y, s) > 0.999
    assert progress_probe(x * 1000 - 5, t, y * 1000 - 5, s) > 0.999
    (x, t), (y, s) = embedded(80, 10, 32, 0.05, 0), embedded(40, 10, 32, 0.05, 1)
    assert 0.7 < progress_probe(x, t, y, s) < 0.99
    assert progress_probe(clips(80, 10, 32, 5), t, clips(40, 10, 32, 6), s) == pytest.approx(0, abs=0.05)
    assert progress_probe(x, t, y, np.random.default_rng(0).permutation(s.ravel()).reshape(s.shape)) < 0.05


def test_progress_by_action_sees_what_one_line_for_all_cannot() -> None:
    # sit down and stand up pass through the same postures, one backwards: only who knows the action can read the clock
    (x, t), (y, s) = embedded(80, 10, 32, 0.02, 0), embedded(40, 10, 32, 0.02, 1)
    names = np.array(["sit", "stand"])
    a, b = names[np.arange(80) % 2], names[np.arange(40) % 2]
    t, s = np.where(a[:, None] == "sit", t, 1 - t), np.where(b[:, None] == "sit", s, 1 - s)
    assert progress_probe(x, t, y, s) < 0.1
    scores = progress_by_action(x, t, y, s, train_actions=a, test_actions=b)
    assert scores.keys() == {"sit", "stand"} and min(scores.values()) > 0.9
    assert progress_probe(x, t, y, s, train_actions=a, test_actions=b) == pytest.approx(np.mean(list(scores.values())))
    assert progress_by_action(x, t, y, s).keys() == {"all"}


def test_progress_probe_never_learns_from_the_test_split() -> None:
    (x, t), (y, _) = embedded(40, 6, 16, 0.1, 0), embedded(30, 6, 16, 0.1, 1)
    predicted = [ridge(x.reshape(-1, 16), t.ravel(), part.reshape(-1, 16), np.repeat(np.arange(40), 6))[0] for part in (y, np.vstack([y, 1e9 * y]))]
    np.testing.assert_allclose(predicted[1][:180], predicted[0])


def test_progress_probe_shapes_and_undefined_cases() -> None:
    (x, t), (y, s) = embedded(20, 5, 8, 0.1, 0), embedded(10, 5, 8, 0.1, 1)
    flat = progress_probe(x.reshape(-1, 8), t.ravel(), y.reshape(-1, 8), s.ravel(), groups=np.repeat(np.arange(20), 5))
    assert flat == progress_probe(x, t, y, s) == progress_probe(*(torch.tensor(v) for v in (x, t, y, s)))
    with pytest.raises(ValueError, match="positions have shape"):
        progress_probe(x, t[:, :4], y, s)
    with pytest.raises(ValueError, match="both splits"):
        progress_probe(x, t, y, s, train_actions=["a"] * 20)
    with pytest.raises(ValueError, match="'b' is in the test split"):
        progress_probe(x, t, y, s, train_actions=["a"] * 20, test_actions=["b"] * 10)
    with pytest.raises(ValueError, match="not defined"):
        progress_probe(x, t, y, np.full_like(s, 0.5))


def test_probes_on_tiny_or_constant_features_are_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constant = np.ones((2, 3, 4))
        t = np.tile([0.0, 0.5, 1.0], (2, 1))
        assert order_probe(constant, constant, constant, constant) == 0.5
        assert progress_probe(constant, t, constant, t) == pytest.approx(0)
        assert progress_probe(np.random.default_rng(0).normal(size=(1, 3, 4)), t[:1], constant, t) == pytest.approx(0, abs=0.1)

import dataclasses
import json
import warnings
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ivdr import evaluation
from ivdr.augment import centre_crop
from ivdr.backbones import create_backbone
from ivdr.datasets import scan
from ivdr.evaluation import (
    PROTOCOLS, Features, Protocol, Result, centre_features, chance, extract_features, first_hits, grouped_folds, knn, linear_probe,
    load_result, nearest, pool_clips, retrieval, retrieve, save_result, standardise,
)
from ivdr.sampling import uniform_clips
from ivdr.video import VideoError, VideoReader, write_video


# retrieval

def slow_ranking(query: np.ndarray, gallery: np.ndarray) -> list[list[int]]:
    "Gallery numbers of each query, by exact cosine, then by gallery order; integer features only."
    rankings = []
    for q in query.tolist():
        def squared_cosine(g: list[int]) -> tuple[int, int]:
            dot = sum(a * b for a, b in zip(q, g))
            norms = sum(a * a for a in q) * sum(b * b for b in g)
            return (dot * abs(dot), norms) if norms else (0, 1)
        from fractions import Fraction
        score = [Fraction(*squared_cosine(g)) for g in gallery.tolist()]
        rankings.append(sorted(range(len(gallery)), key=lambda i: (-score[i], i)))
    return rankings


small = st.integers(-2, 2)

@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ranking_agrees_with_exact_arithmetic_whatever_the_ties(data: st.DataObject) -> None:
    # integers from a small range: parallel rows, zero rows and equal angles between different rows are frequent
    d, n_query, n_gallery = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    query = data.draw(hnp.arrays(np.int64, (n_query, d), elements=small))
    gallery = data.draw(hnp.arrays(np.int64, (n_gallery, d), elements=small))
    asked = data.draw(hnp.arrays(np.int64, n_query, elements=st.integers(0, 3)))
    stored = data.draw(hnp.arrays(np.int64, n_gallery, elements=st.integers(0, 3)))
    ks = range(1, n_gallery + 1)
    expected = slow_ranking(query, gallery)
    assert nearest(query, gallery, n_gallery).tolist() == expected
    recall = retrieval(query, asked, gallery, stored, ks)
    for k in ks:
        assert recall[k] == pytest.approx(np.mean([any(stored[i] == label for i in row[:k]) for row, label in zip(expected, asked)]))


def test_ranking_is_the_same_in_blocks_and_at_once() -> None:
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(700, 24)).astype(np.float32), 3, axis=0)  # every item three times
    query = rng.normal(size=(4500, 24)).astype(np.float32)
    found = nearest(query, gallery, 6)  # 4500 x 2100 pairs: several blocks
    assert (found[:, :3] == found[:, :1] + np.arange(3)).all() and (found[:, 0] % 3 == 0).all()
    assert (found[4400:] == nearest(query[4400:], gallery, 6)).all()
    exact = np.argsort(-(query @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T)[:, ::3], axis=1)[:, :2]
    assert (found[:, [0, 3]] // 3 == exact).all()


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [1, 3000, 2**24])
def test_retrieval_agrees_with_brute_force_to_the_last_index(block: int, device: str) -> None:
    rng = np.random.default_rng(8)
    query, gallery = rng.normal(size=(150, 32)), rng.normal(size=(1100, 32)) + 0.5
    k = {1: 3, 3000: 50}.get(block, 1100)
    expected = NearestNeighbors(n_neighbors=1100, algorithm="brute", metric="cosine").fit(gallery).kneighbors(query, return_distance=False)
    some = 20 if block == 1 else 150
    assert (nearest(query[:some], gallery, k, device, block) == expected[:some, :k]).all()
    asked, stored = rng.integers(40, size=150), rng.integers(40, size=1100)
    recall = retrieval(query, asked, gallery, stored, (1, 5, 50), device)
    assert recall == {k: (stored[expected[:, :k]] == asked[:, None]).any(1).mean() for k in (1, 5, 50)}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_blocks_keep_the_rule_for_ties(data: st.DataObject) -> None:
    # more items than candidates, so that single precision proposes; with integers from -2 to 2 in three columns most cosines occur often
    seed, k, block = data.draw(st.integers(0, 999)), data.draw(st.integers(1, 8)), data.draw(st.integers(1, 600))
    rng = np.random.default_rng(seed)
    query, gallery = rng.integers(-2, 3, size=(4, 3)), rng.integers(-2, 3, size=(data.draw(st.integers(25, 70)), 3))
    assert nearest(query, gallery, k, block=block).tolist() == [row[:k] for row in slow_ranking(query, gallery)]


@pytest.mark.parametrize("device", DEVICES)
def test_differences_below_single_precision_are_seen(device: str) -> None:
    # cosines 1 - angle^2 / 2 of a hundred angles: all 1 in single precision
    angle = 1e-5 * np.random.default_rng(9).permutation(np.arange(10, 110))
    gallery = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert len(set((gallery @ [1, 0]).astype(np.float32))) < 20
    assert (nearest(np.array([[1.0, 0.0]]), gallery, 10, device, block=40)[0] == angle.argsort()[:10]).all()


def test_a_shortcut_for_products_is_switched_off_and_on_again() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        rng = np.random.default_rng(10)
        query, gallery = rng.normal(size=(20, 64)), rng.normal(size=(500, 64))
        with torch.autocast("cpu", torch.bfloat16):
            found = nearest(query, gallery, 5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found == nearest(query, gallery, 5)).all()


def test_labels_as_names_numbers_and_tensors_agree() -> None:
    rng = np.random.default_rng(1)
    query, gallery, asked, stored = rng.normal(size=(20, 4)), rng.normal(size=(30, 4)), rng.integers(5, size=20), rng.integers(5, size=30)
    expected = retrieval(query, asked, gallery, stored, (1, 3, 30))
    names = np.array(["run", "sit", "fall", "stand", "walk"])
    assert retrieval(query, names[asked], gallery, list(names[stored]), (1, 3, 30)) == expected
    assert retrieval(torch.tensor(query), torch.tensor(asked), torch.tensor(gallery), torch.tensor(stored), [1, 3, 30]) == expected
    assert expected[30] == np.isin(asked, stored).mean()
    with pytest.raises(ValueError, match="names on one side"):
        retrieval(query, names[asked], gallery, stored, (1,))


def test_a_class_without_gallery_videos_is_never_found() -> None:
    gallery = np.eye(3)
    assert first_hits(np.eye(3)[:1], ["other"], gallery, ["a", "b", "c"]).tolist() == [3]
    assert retrieval(np.eye(3)[:1], ["other"], gallery, ["a", "b", "c"], (1, 3)) == {1: 0.0, 3: 0.0}


def test_impossible_retrieval_is_refused_with_what_is_accepted() -> None:
    x, y = np.eye(4), np.arange(4)
    for ks in ((5,), (1, 5), (0,)):
        with pytest.raises(ValueError, match="accepted is 1 to 4"):
            retrieval(x, y, x, y, ks)
    with pytest.raises(ValueError, match="1 to 4 is accepted"):
        nearest(x, x, 5)
    with pytest.raises(ValueError, match=r"shape \(0, 4\)"):
        retrieval(x[:0], y[:0], x, y, (1,))
    with pytest.raises(ValueError, match="3 query labels for 4 query features"):
        retrieval(x, y[:3], x, y, (1,))
    with pytest.raises(ValueError, match="3 wide and gallery features 4"):
        retrieval(x[:, :3], y, x, y, (1,))
    with pytest.raises(ValueError, match="not finite"):
        retrieval(np.where(x == 1, np.nan, x), y, x, y, (1,))


def test_centring_rules() -> None:
    rng = np.random.default_rng(2)
    query, gallery = rng.normal(size=(7, 3)) + 5, rng.normal(size=(9, 3)) - 1
    for rule, (q0, g0) in {"none": (0, 0), "own": (query.mean(0), gallery.mean(0)), "gallery": (gallery.mean(0),) * 2}.items():
        q, g = centre_features(query, gallery, rule)
        np.testing.assert_allclose(q, query - q0, atol=1e-12)
        np.testing.assert_allclose(g, gallery - g0, atol=1e-12)
    with pytest.raises(ValueError, match="'own', 'gallery'"):
        centre_features(query, gallery, "test")


# chance

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_chance_of_retrieval_is_hypergeometric(stored: list[int], asked: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(stored)))
    expected = np.mean([1 - comb(len(stored) - stored.count(label), k) / comb(len(stored), k) for label in asked])
    assert chance("retrieval", asked, stored, k) == pytest.approx(expected)


def test_chance_is_what_random_rankings_score() -> None:
    rng = np.random.default_rng(3)
    asked, stored = rng.integers(6, size=3000), rng.choice(6, size=120, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    recall = retrieval(rng.normal(size=(3000, 64)), asked, rng.normal(size=(120, 64)), stored, (1, 5, 20))
    for k, score in recall.items():
        assert score == pytest.approx(chance("retrieval", asked, stored, k), abs=0.04)


def test_chance_of_a_classifier_is_the_class_most_frequent_in_training() -> None:
    assert chance("linear", ["a", "b", "b", "c"], ["a", "a", "b"]) == 0.25
    assert chance("knn", ["a", "b", "b", "c"], ["b", "b", "a"]) == 0.5
    assert chance("order") == 0.5 and chance("progress") == 0.0
    with pytest.raises(ValueError, match="accepted are retrieval"):
        chance("finetune", [0], [0])
    with pytest.raises(ValueError, match="labels of both"):
        chance("linear", [0])


# probes

def blobs(n: int, classes: int, d: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return (centres[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


def test_linear_probe_finds_planted_classes_and_nothing_in_noise() -> None:
    (train, y), (test, z) = blobs(200, 5, 16, 0.4, 0), blobs(150, 5, 16, 0.4, 1)
    found = linear_probe(train, y, test, z)
    assert found["accuracy"] > 0.97 and found["converged"]
    assert found["accuracy"] == pytest.approx(sum(found["per_class"][str(c)] * (z == c).mean() for c in range(5)))
    noise = np.random.default_rng(2).normal(size=(600, 16))
    assert linear_probe(noise[:200], y, noise[200:350], z)["accuracy"] < 0.35
    assert linear_probe(train, y, test, z) == found


def test_linear_probe_reads_scale_and_clips_as_it_says() -> None:
    (train, y), (test, z) = blobs(120, 4, 8, 0.8, 0), blobs(90, 4, 8, 0.8, 1)
    found = linear_probe(train, y, test, z)
    assert linear_probe(train * 1000 + 7, y, test * 1000 + 7, z)["accuracy"] == pytest.approx(found["accuracy"], abs=0.02)
    constant = np.ones((1, 1))
    padded = linear_probe(np.hstack([train, constant.repeat(120, 0)]), y, np.hstack([test, 5 * constant.repeat(90, 0)]), z)
    assert padded["accuracy"] == found["accuracy"]  # a column that is constant in training says nothing in the test
    offsets = np.array([-1, 0, 1], dtype=np.float32)[None, :, None]
    assert linear_probe(train[:, None] + offsets, y, test[:, None] + offsets, z)["accuracy"] == found["accuracy"]
    assert linear_probe(train, [f"c{c}" for c in y], test, [f"c{c}" for c in z])["per_class"].keys() == {"c0", "c1", "c2", "c3"}


def clip_blobs(n: int, clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Features of clips that scatter around their video, as videos do around their class."
    videos, labels = blobs(n, 6, 20, 0.9, seed)
    return videos[:, None] + 1.2 * np.random.default_rng(seed + 50).normal(size=(n, clips, 20)).astype(np.float32), labels


@pytest.mark.parametrize("fit", ["videos", "clips"])
@pytest.mark.parametrize("solver", ["logistic", "sgd"])
def test_probe_is_within_half_a_point_of_logistic_regression(solver: str, fit: str) -> None:
    (train, y), (test, z) = clip_blobs(400, 4, 0), clip_blobs(1500, 4, 1)
    found = linear_probe(train, y, test, z, solver=solver, fit=fit)
    x, of = (train.mean(1), y) if fit == "videos" else (train.reshape(-1, 20), y.repeat(4))
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=found["C"], max_iter=1000)).fit(x, of)
    chances = reference.predict_proba(test.reshape(-1, 20)).reshape(1500, 4, 6)
    clip, video = (chances.argmax(2) == z[:, None]).mean(), (chances.mean(1).argmax(1) == z).mean()
    assert 0.5 < clip < video - 0.05 < 0.95, "clips and videos have to differ for this to tell them apart"
    assert found["clip_accuracy"] == pytest.approx(clip, abs=0.005) and found["accuracy"] == pytest.approx(video, abs=0.005)
    assert (found["fit"], found["solver"]) == (fit, solver)


def test_sgd_follows_its_seed_and_copes_with_any_scale() -> None:
    (train, y), (test, z) = blobs(150, 5, 16, 1.0, 0), blobs(400, 5, 16, 1.0, 1)
    train[:, 1:8] = train[:, :1] + 0.1 * train[:, 1:8]  # steep in one direction, flat in others
    found = linear_probe(train, y, test, z, solver="sgd", batch_size=16, epochs=20)
    assert linear_probe(train, y, test, z, solver="sgd", batch_size=16, epochs=20) == found and found["clip_accuracy"] is None
    assert linear_probe(train * 1e4, y, test * 1e4, z, solver="sgd", batch_size=16, epochs=20)["accuracy"] == pytest.approx(found["accuracy"], abs=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert linear_probe(train, y, test, z, solver="sgd", batch_size=16, epochs=20) == found
    few = linear_probe(train[:12], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], test, z % 3, solver="sgd", groups=np.arange(12) // 4)
    assert 0 <= few["accuracy"] <= 1  # in every fold a class is missing
    for wrong in ({"solver": "adam"}, {"fit": "frames"}):
        with pytest.raises(ValueError, match="accepted are"):
            linear_probe(train, y, test, z, **wrong)


def test_the_test_split_has_no_say_in_the_probe() -> None:
    (train, y), (test, z) = blobs(150, 5, 16, 1.5, 0), blobs(100, 5, 16, 1.5, 1)
    found = linear_probe(train, y, test, z)
    shuffled = linear_probe(train, y, test, np.random.default_rng(0).permutation(z))
    assert shuffled["C"] == found["C"] and shuffled["cv_accuracy"] == found["cv_accuracy"] and shuffled["accuracy"] < 0.4 < found["accuracy"]
    elsewhere = linear_probe(train, y, np.vstack([test, 1e6 * test]), np.concatenate([z, z]))
    assert elsewhere["C"] == found["C"]


def test_choosing_the_penalty_respects_groups() -> None:
    # each person wears one colour and does one action: colour identifies the person, so folds that mix persons look perfect
    rng = np.random.default_rng(4)
    persons = np.repeat(np.arange(20), 10)
    actions = persons % 4
    colour = rng.normal(size=(20, 64))[persons] + 0.05 * rng.normal(size=(200, 64))
    test, asked = rng.normal(size=(40, 64)), np.arange(40) % 4
    assert linear_probe(colour, actions, test, asked)["cv_accuracy"] > 0.95
    assert linear_probe(colour, actions, test, asked, groups=persons)["cv_accuracy"] < 0.5
    for fit, check in grouped_folds(persons, actions):
        assert not set(persons[fit]) & set(persons[check])
    assert grouped_folds(["one"] * 5) == []


def test_a_probe_on_next_to_nothing_is_quiet_and_defined() -> None:
    # two persons, each class seen with one of them only: no fold knows both classes
    x, y = np.random.default_rng(5).normal(size=(6, 3)), np.array([0, 0, 0, 1, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = linear_probe(x, y, x, y, groups=y)
        assert found["cv_accuracy"] is None and 0 <= found["accuracy"] <= 1
        linear_probe(np.vstack([x, x[:1] + 9]), [*y, 2], x, y)  # a class with a single member
        linear_probe(np.random.default_rng(6).normal(size=(60, 400)), np.arange(60) % 7, x.repeat(134, 1)[:, :400], y, max_iter=3)
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe(x, np.zeros(6), x, y)


def test_knn_votes() -> None:
    (train, y), (test, z) = blobs(200, 5, 16, 0.3, 0), blobs(100, 5, 16, 0.3, 1)
    assert knn(train, y, test, z) > 0.97
    assert knn(train, y, test, z, k=1) == retrieval(test, z, train, y, (1,))[1]
    # of three neighbours the nearest one outweighs the two others at a low temperature only
    gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    assert knn(gallery, ["a", "b", "b"], np.array([[1.0, 0.0]]), ["a"], k=3, temperature=0.07) == 1
    assert knn(gallery, ["a", "b", "b"], np.array([[1.0, 0.0]]), ["a"], k=3, temperature=10) == 0
    with pytest.raises(ValueError, match="temperature"):
        knn(train, y, test, z, temperature=0)


def test_standardise_uses_training_rows_only() -> None:
    rng = np.random.default_rng(7)
    train, test = rng.normal(3, 2, size=(50, 4)), rng.normal(9, 5, size=(30, 4))
    train[:, 2] = 0.1 + 0.2  # constant, but its deviation is a rounding error rather than 0
    a, b = standardise(train, test)
    keep = [0, 1, 3]
    np.testing.assert_allclose(a[:, keep].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(a[:, keep].std(0), 1)
    np.testing.assert_allclose(b[:, keep], (test[:, keep] - train[:, keep].mean(0)) / train[:, keep].std(0))
    assert (a[:, 2] == 0).all() and (b[:, 2] == 0).all()


# protocol

def test_protocols() -> None:
    published = PROTOCOLS["iivdr"]
    assert (published.n_clips, published.clip_len, published.stride, published.size, published.frame_size) == (10, 16, 4, 112, (128, 171))
    assert published.centring == "own" and published.ks == (1, 5, 10, 20, 50)
    assert published.replace(centring="none", ks=[1]) == Protocol("iivdr", ks=(1,))
    for change in ({"n_clips": 0}, {"centring": "test"}, {"ks": ()}, {"ks": (0,)}, {"size": 129}, {"pooling": "median"}, {"frame_size": (1, 2, 3)},
                   {"placement": "middle"}, {"pool_window": (1, 2, 2)}, {"pooling": "max", "pool_window": (1, 2)}, {"pooling": "max", "pool_window": (0, 2, 2)}):
        with pytest.raises(ValueError, match="protocol 'iivdr'"):
            published.replace(**change)
    with pytest.raises(ValueError, match="no field 'clips'; it has name, n_clips"):
        published.replace(clips=3)


def test_published_protocols_say_what_the_papers_did() -> None:
    tclr, tcgl, mine = PROTOCOLS["tclr"], PROTOCOLS["tcgl"], PROTOCOLS["recommended"]
    assert (tclr.n_clips, tclr.stride, tclr.pooling, tclr.centring, tclr.size / tclr.frame_size[0]) == (9, 2, "time", "none", 0.8)
    assert (tcgl.n_clips, tcgl.stride, tcgl.pooling, tcgl.pool_window, tcgl.centring) == (10, 1, "max", (1, 2, 2), "none")
    assert PROTOCOLS["iivdr-test"].differences(PROTOCOLS["iivdr"]) == {"stride": (2, 4), "centring": ("none", "own")}
    assert mine.centring == "gallery" and "transductive" in PROTOCOLS["iivdr"].source
    assert all(name == protocol.name and protocol.source for name, protocol in PROTOCOLS.items())
    assert mine.replace(name="x", source="y").differences(mine) == {}


@pytest.mark.parametrize("length", [1, 3, 20, 32, 33, 41, 42, 60, 63, 64, 150, 1000])
def test_clips_lie_where_the_papers_put_them(length: int) -> None:
    rng = np.random.default_rng(0)
    tclr, tcgl = (PROTOCOLS[name].views(length, 16, PROTOCOLS[name].stride, rng) for name in ("tclr", "tcgl"))
    for m, clip in enumerate(tclr):
        start = int(np.linspace(0, length - 32 - 10, 9)[m])
        start = min(start if start >= 0 else m, length - 1)
        present = [n for n in range(start, start + 32, 2) if n < length]
        while len(present) < 16:  # back and forth, the turning frames once
            present += (present[::-1][1:] or present)[: 16 - len(present)]
        assert clip.tolist() == present[:16]
    if length >= 16:
        assert (tcgl == np.floor(np.linspace(8, length - 8, 10) - 8)[:, None] + np.arange(16)).all()
    assert max(tclr.max(), tcgl.max()) < length and min(tclr.min(), tcgl.min()) >= 0


def test_pooled_features_have_the_published_widths() -> None:
    def width(name: str, protocol: Protocol, **options: object) -> int:
        with torch.device("meta"):
            network, clip = create_backbone(name, **options).eval(), torch.zeros(1, 3, 16, 112, 112)
        return pool_clips(network(clip), protocol).shape[1]
    assert width("r3d_18", PROTOCOLS["tclr"], dilated=True) == 2048
    assert width("r3d", PROTOCOLS["tcgl"]) == 9216
    assert width("r21d", PROTOCOLS["tcgl"].replace(pool_window=(2, 5, 5))) == 512
    assert width("r3d", PROTOCOLS["iivdr"]) == 512
    maps = torch.rand(3, 5, 2, 4, 6)
    assert torch.equal(pool_clips(maps, Protocol("all", pooling="max")), maps.amax((2, 3, 4)))
    with pytest.raises(ValueError, match=r"pool_window \(1, 5, 1\) does not fit the map of \(2, 4, 6\)"):
        pool_clips(maps, Protocol("high", pooling="max", pool_window=(1, 5, 1)))


# one change, and the figure has to move

class White(nn.Module):
    "What a clip shows where and when: white or black, no shades, so that a codec cannot blur the answer."
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        white = (x.mean(1, keepdim=True) > 0).float()
        return self.seen(torch.nn.functional.avg_pool3d(white, (1, 4, 4)).round())

    def seen(self, white: torch.Tensor) -> torch.Tensor:
        return torch.cat([white, torch.ones_like(white)], 1)


class Change(White):
    "How often it changes from frame to frame."
    def seen(self, white: torch.Tensor) -> torch.Tensor:
        change = (white[:, :, 1:] - white[:, :, :-1]).abs()
        return torch.cat([change, torch.ones_like(change)], 1)


def two_actions(root: Path, kind: str, length: int) -> Path:
    "Action a and action b, once in each split, that differ in one way only."
    time = np.arange(length)
    frames = {name: np.zeros((length, 16, 24, 3), np.uint8) for name in "ab"}
    if kind == "blink":
        frames["b"][time % 4 < 2] = 255
    elif kind == "late":
        frames["b"][2 * length // 3 :] = 255
    elif kind == "order":
        frames["a"][: length // 2], frames["b"][length // 2 :] = 255, 255
    else:
        frames["a"][:, :, :12], frames["b"][:, :, 12:] = 255, 255
    for split in ("train", "test"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            write_video(root / split / name / "v.mp4", frames[name], crf=5)
    return root


def recall_of(protocol: Protocol, root: Path, network: nn.Module) -> float:
    manifest, _ = scan(root, progress=False)
    how = protocol.replace(size=16, frame_size=(16, 24), ks=(1,))
    train, test = (extract_features(network, manifest.split(split), how, progress=False) for split in ("train", "test"))
    return retrieve(test, train, how).recall[1]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_stride_decides_what_is_seen(name: str, tmp_path: Path) -> None:
    # light that blinks every fourth frame stands still at stride 4; what cannot be told apart is one video out of two
    root = two_actions(tmp_path, "blink", 90)
    fine = PROTOCOLS[name].replace(stride=min(2, PROTOCOLS[name].stride))
    assert recall_of(fine, root, Change()) == 1 and recall_of(fine.replace(stride=4), root, Change()) == 0.5


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_number_of_clips_decides_what_is_seen(name: str, tmp_path: Path) -> None:
    root = two_actions(tmp_path, "late", 240)
    assert recall_of(PROTOCOLS[name], root, White()) == 1 and recall_of(PROTOCOLS[name].replace(n_clips=1), root, White()) == 0.5


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_pooling_decides_what_is_kept(name: str, tmp_path: Path) -> None:
    protocol = PROTOCOLS[name]
    span = protocol.clip_len * protocol.stride + (10 if protocol.placement == "tclr" else 0)
    when, where = two_actions(tmp_path / "when", "order", protocol.clip_len * protocol.stride), two_actions(tmp_path / "where", "side", span)
    kept = {"mean": (0.5, 0.5), "time": (1.0, 0.5), "max": (1.0, 1.0)}
    for pooling, expected in kept.items():
        how = protocol.replace(pooling=pooling, pool_window=(1, 2, 2) if pooling == "max" else None, centring="none", n_clips=1)
        assert (recall_of(how, when, White()), recall_of(how, where, White())) == expected
    own = PROTOCOLS[name].replace(n_clips=1)
    assert (recall_of(own, when, White()), recall_of(own, where, White())) == kept[own.pooling]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_centring_decides_who_is_near(name: str) -> None:
    # the gallery's classes point the same way from zero; the test split lies further up as a whole
    gallery, query = np.array([[10, 1], [30, 3]], np.float32), np.array([[10, 9], [30, 11]], np.float32)
    train, test = (Features(x[:, None], np.zeros((2, 1), np.float32), np.arange(2), ["a", "b"], ["p", "q"], ["g", "h"]) for x in (gallery, query))
    found = {centring: retrieve(test, train, PROTOCOLS[name].replace(centring=centring, ks=(1,))) for centring in ("none", "own", "gallery")}
    assert (found["none"].recall[1], found["own"].recall[1]) == (0.5, 1)
    assert all(entry.uncentred == found["none"].recall for entry in found.values())
    # a constant that is added to everything changes nothing where the gallery's mean is taken away
    moved = [dataclasses.replace(features, clips=features.clips + np.float32(7)) for features in (test, train)]
    assert retrieve(*moved, PROTOCOLS[name].replace(centring="gallery", ks=(1,))).recall == found["gallery"].recall


# features

SMALL = Protocol("small", n_clips=3, clip_len=4, stride=2, size=16, frame_size=(18, 24), ks=(1,))


class Tiny(nn.Module):
    "Conv, batch norm and dropout: eval mode, order of frames and place of pixels all matter."
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out_channels = 6
        self.conv, self.norm, self.drop = nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.Dropout(0.5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(x)).relu())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Seven videos of different lengths, one shorter than a clip."
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for n, length in enumerate((20, 31, 5, 12, 25, 16, 40)):
        folder = root / ("test" if n > 4 else "train") / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        start, end = rng.integers(0, 256, (2, 6, 8, 3))
        mix = np.linspace(0, 1, length)[:, None, None, None]
        small = start * (1 - mix) + end * mix
        write_video(folder / f"v{n}.mp4", small.astype(np.uint8).repeat(6, 1).repeat(6, 2))
    return root


def test_features_are_what_a_loop_over_videos_and_clips_computes(videos: Path) -> None:
    manifest, unreadable = scan(videos, progress=False)
    assert len(manifest) == 7 and not len(unreadable)
    network = Tiny().train()
    network.norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = extract_features(network, manifest, SMALL, batch_size=4, progress=False)
    assert network.training and network.drop.training and not network.norm.training, "modes were not restored"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    network.eval()
    for n, file in enumerate(manifest.files):
        with VideoReader(file) as reader:
            length = len(reader)
            for m, numbers in enumerate(uniform_clips(length, SMALL.clip_len, SMALL.stride, SMALL.n_clips)):
                view = centre_crop(reader.frames(numbers)[None, None], SMALL.size, SMALL.frame_size)[0]
                with torch.no_grad():
                    np.testing.assert_allclose(found.clips[n, m], network(view).mean((2, 3, 4))[0], rtol=1e-4, atol=1e-5)
                assert found.position[n, m] == pytest.approx((numbers.mean() + 0.5) / length)
    assert found.paths == list(manifest.table["path"]) and list(found.labels) == list(manifest.table["label"])
    assert (found.position > 0).all() and (found.position <= 1).all()


@pytest.mark.parametrize("options", [{"workers": 2}, {"batch_size": 1}, {"batch_size": 100}, {"cached": True}], ids=str)
def test_features_do_not_depend_on_batches_workers_or_cache(videos: Path, options: dict) -> None:
    manifest, _ = scan(videos, progress=False)
    network = Tiny()
    expected = extract_features(network, manifest, SMALL, progress=False)
    if options.pop("cached", False):
        options["clips"] = evaluation.evaluation_clips(manifest, SMALL, cache=True)
        extract_features(network, manifest, SMALL, progress=False, reverse=True, **options)
    found = extract_features(network, manifest, SMALL, progress=False, **options)
    np.testing.assert_allclose(found.clips, expected.clips, rtol=1e-5, atol=1e-6)
    assert (found.position == expected.position).all()


def test_reversed_clips_hold_the_same_frames_backwards(videos: Path) -> None:
    class Ramp(nn.Module):
        "Weighs frame t by t: tells forward from backward, and nothing else."
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.arange(x.shape[2], dtype=x.dtype).view(-1, 1, 1)

    manifest, _ = scan(videos, progress=False)
    forward, backward = (extract_features(Ramp(), manifest, SMALL, reverse=r, progress=False) for r in (False, True))
    flat = extract_features(nn.Identity(), manifest, SMALL, progress=False)
    np.testing.assert_allclose(forward.clips + backward.clips, flat.clips * (SMALL.clip_len - 1), rtol=1e-4, atol=1e-5)
    assert np.abs(forward.clips - backward.clips).max() > 0.05
    assert (forward.position == backward.position).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_never_substitutes_a_video(videos: Path, tmp_path: Path, workers: int) -> None:
    import shutil
    copy = tmp_path / "copy"
    shutil.copytree(videos, copy)
    manifest, _ = scan(copy, progress=False)
    victim = manifest.files[3]
    victim.write_bytes(victim.read_bytes()[:200])
    network = Tiny().train()
    with pytest.raises(VideoError) as caught:
        extract_features(network, manifest, SMALL, progress=False, workers=workers)
    assert str(caught.value.path) == str(victim) and caught.value.reason and network.training


def test_features_of_nothing_or_of_other_clips_are_refused(videos: Path) -> None:
    manifest, _ = scan(videos, progress=False)
    clips = evaluation.evaluation_clips(manifest, SMALL)
    with pytest.raises(ValueError, match="stride 2; the protocol says 1"):
        extract_features(Tiny(), manifest, SMALL.replace(stride=1), clips=clips, progress=False)
    with pytest.raises(ValueError, match="other videos"):
        extract_features(Tiny(), manifest.split("test"), SMALL, clips=clips, progress=False)
    with pytest.raises(ValueError, match="batch_size is 0"):
        extract_features(Tiny(), manifest, SMALL, batch_size=0, progress=False)


def some_features() -> Features:
    rng = np.random.default_rng(0)
    return Features(rng.normal(size=(3, 2, 5)).astype(np.float32), rng.random((3, 2)).astype(np.float32), np.array([0, 1, 0]),
                    ["öffnen", "zu"], ["a/ä.mp4", "b/x y.mp4", "a/\udce9.mp4"], ["p1", "", "p2"])


def test_features_come_back_from_disk_exactly(tmp_path: Path) -> None:
    features = some_features()
    file = features.save(tmp_path / "deep" / "features_test.npz")
    stored = Features.load(file)
    for name in ("clips", "position", "targets"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(features, name))
        assert getattr(stored, name).dtype == getattr(features, name).dtype
    assert (stored.classes, stored.paths, stored.groups) == (features.classes, features.paths, features.groups)
    assert [p.name for p in file.parent.iterdir()] == ["features_test.npz"]
    np.testing.assert_allclose(stored.videos, features.clips.mean(1), rtol=1e-6)


def test_what_is_no_features_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "f.npz"
    with pytest.raises(FileNotFoundError, match="f.npz"):
        Features.load(file)
    some_features().save(file)
    whole = file.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="f.npz"):
            Features.load(file)
    np.savez(file, clips=np.zeros((1, 1, 1)))
    with pytest.raises(ValueError, match="f.npz.*classes"):
        Features.load(file)
    evil = tmp_path / "evil.npz"
    np.savez(evil, allow_pickle=True, clips=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="evil.npz"):
        Features.load(evil)
    with pytest.raises(ValueError, match="do not fit together"):
        Features(np.zeros((3, 2, 5), dtype=np.float32), np.zeros((3, 2), dtype=np.float32), np.zeros(3, dtype=np.int64), ["a"], ["x"] * 2, ["y"] * 3)


# results

def some_result() -> Result:
    return Result({"retrieval": {1: np.float32(0.25), 5: 0.5}, "progress": torch.tensor(0.125), "ratio": float("nan")}, PROTOCOLS["iivdr"], "iivdr", "r21d", 3,
                  "abc", blocks=[1, 1, 1, 1], parameters=14_365_303, chance={"retrieval": {1: 0.1}})


def test_a_result_comes_back_with_all_that_made_it(tmp_path: Path) -> None:
    result = some_result()
    file = save_result(result, tmp_path / "results" / "evaluation.json")
    stored = load_result(file)
    assert stored.metrics == {"retrieval": {"1": 0.25, "5": 0.5}, "progress": 0.125, "ratio": None}
    assert stored.protocol == PROTOCOLS["iivdr"]
    for name in ("method", "backbone", "seed", "manifest_hash", "blocks", "parameters", "versions", "command", "created"):
        assert getattr(stored, name) == getattr(result, name)
    assert {"python", "ivdr", "torch", "scikit-learn"} <= stored.versions.keys() and stored.command
    assert json.loads(file.read_text())["protocol"]["centring"] == "own"
    assert save_result(stored, tmp_path / "again.json").read_bytes() == file.read_bytes()


def test_a_failed_save_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_result(some_result(), tmp_path / "evaluation.json")
    before = file.read_bytes()
    with pytest.raises(TypeError):
        save_result(Result({"x": object()}, PROTOCOLS["laptop"], "m", "b", 0, "h"), file)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(evaluation.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device.*evaluation.json"):
        save_result(some_result(), file)
    with pytest.raises(OSError, match="features.npz"):
        some_features().save(tmp_path / "features.npz")
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_what_is_no_result_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    stored = json.loads(save_result(some_result(), file).read_text())
    for content in ("", "{", "[]", "{}", json.dumps(stored | {"new": 1}), json.dumps(stored | {"protocol": {"name": "x", "clips": 3}})):
        file.write_text(content)
        with pytest.raises(ValueError, match="r.json"):
            load_result(file)

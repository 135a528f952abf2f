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
from torch import nn

from ivdr import evaluation
from ivdr.augment import centre_crop
from ivdr.datasets import scan
from ivdr.evaluation import (
    PROTOCOLS, Features, Protocol, Result, centre_features, chance, extract_features, first_hits, grouped_folds, knn, linear_probe,
    load_result, nearest, retrieval, save_result, standardise,
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

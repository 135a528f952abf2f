"""Features in files: what a reader gets, what a killed writer leaves behind, what is refused."""
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivdr import datasets, evaluation
from ivdr.backbones import create_backbone
from ivdr.datasets import Manifest, open_manifest
from ivdr.evaluation import FeatureFiles, Features, Protocol, Rows, extract_features, nearest, network_hash, retrieve, write_features
from ivdr.synthetic import render_dataset
from ivdr.tcgl import MotionEncoder
from ivdr.video import VideoError

SMALL = Protocol("small", n_clips=3, clip_len=4, stride=2, size=16, frame_size=(18, 24), ks=(1, 3))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("feature-files") / "videos"
    render_dataset(root, 22, n_frames=12, size=(32, 40), actions=("walk", "run"), workers=0, progress=False)
    return root


@pytest.fixture(scope="module")
def manifest(videos: Path) -> Manifest:
    return open_manifest(videos)


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_backbone("small")


def write(manifest: Manifest, folder: Path, **options: object) -> FeatureFiles:
    given = {"shard_size": 5, "progress": False} | options
    return write_features(given.pop("backbone", None) or network(), manifest, given.pop("protocol", SMALL), folder, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# rows

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_rows_of_several_arrays_are_those_of_one(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(2 * sum(lengths)).reshape(-1, 2)
    rows = Rows(np.split(whole, np.cumsum(lengths)[:-1]))
    picked = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=12)), dtype=np.int64)
    start, stop = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))
    assert rows.shape == whole.shape and (np.asarray(rows) == whole).all()
    assert (rows[picked] == whole[picked]).all() and (rows[start:stop] == whole[start:stop]).all()


# writing and reading

def test_files_hold_what_extraction_computes(manifest: Manifest, tmp_path: Path) -> None:
    whole, files = extract_features(network(), manifest, SMALL, progress=False), write(manifest, tmp_path / "f")
    loaded = files.load()
    for name in ("clips", "position", "targets"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(whole, name))
    assert (loaded.classes, loaded.paths, loaded.groups) == (whole.classes, whole.paths, whole.groups)
    np.testing.assert_array_equal(np.asarray(files.videos), whole.videos)
    assert (files.protocol, files.manifest_hash, len(files)) == (SMALL, manifest.hash, 22)
    assert [len(part) for part in files.clips.parts] == [5, 5, 5, 5, 2] and all(isinstance(part, np.memmap) for part in files.clips.parts)
    again = FeatureFiles(files.folder)
    assert (np.asarray(again.clips) == whole.clips).all() and (again.labels == whole.labels).all()
    index = json.loads((tmp_path / "f" / "index.json").read_text())
    assert (index["manifest_hash"], index["paths"], index["protocol"]["stride"]) == (manifest.hash, whole.paths, 2)


def test_half_precision_rounds_clips_and_spares_videos(manifest: Manifest, tmp_path: Path) -> None:
    whole, files = extract_features(network(), manifest, SMALL, progress=False), write(manifest, tmp_path / "f", dtype="float16")
    assert files.clips.dtype == np.float16 and (np.asarray(files.clips) == whole.clips.astype(np.float16)).all()
    assert (np.asarray(files.videos) == whole.videos).all()

    class Loud(torch.nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e5
    with pytest.raises(ValueError, match="do not fit float16; float32"):
        write(manifest, tmp_path / "loud", backbone=Loud(), dtype="float16")


def test_reversed_features_are_those_of_reversed_clips(manifest: Manifest, tmp_path: Path) -> None:
    expected = extract_features(network(), manifest, SMALL, reverse=True, progress=False)
    assert (np.asarray(write(manifest, tmp_path / "f", reverse=True).clips) == expected.clips).all()


def test_both_directions_come_from_one_decoding(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = [], datasets.read_clips
    monkeypatch.setattr(datasets, "read_clips", lambda path, *rest: opened.append(path) or read(path, *rest))
    forwards = write(manifest, tmp_path / "f", backwards=tmp_path / "b")
    assert len(opened) == 22
    for folder, options in (("f", {}), ("b", {"reverse": True})):
        assert contents(tmp_path / folder) == contents(write(manifest, tmp_path / f"{folder}-alone", **options).folder)
    assert not forwards.reverse and FeatureFiles(tmp_path / "b").reverse
    (tmp_path / "b" / "shard-00001.json").unlink()
    opened.clear()
    write(manifest, tmp_path / "f", backwards=tmp_path / "b")
    assert len(opened) == 5 and contents(tmp_path / "b") == contents(tmp_path / "b-alone"), "only what is not there"


# members that cannot be read

@pytest.fixture
def spoilt(manifest: Manifest, videos: Path, tmp_path: Path) -> tuple[Manifest, Manifest, list[str]]:
    "The manifest on a copy of which a whole shard and two more cannot be read; the same without those; which they are."
    root = tmp_path / "copy"
    shutil.copytree(videos, root)
    found = open_manifest(root)
    lost = [0, 5, 6, 7, 8, 9, 21]
    for row in lost:
        found.files[row].write_bytes(found.files[row].read_bytes()[:200] if row else b"")
    return found, Manifest(found.table.drop(index=lost), root), [str(path) for path in found.table["path"].iloc[lost]]


def test_missing_members_are_listed_and_change_no_other_feature(spoilt: tuple[Manifest, Manifest, list[str]], tmp_path: Path) -> None:
    whole, rest, names = spoilt
    with pytest.raises(VideoError) as stopped:
        extract_features(network(), whole, SMALL, progress=False)
    assert Path(stopped.value.path) == whole.files[0]
    expected, found = extract_features(network(), rest, SMALL, progress=False), extract_features(network(), whole, SMALL, progress=False, missing="list")
    files = write(whole, tmp_path / "f", missing="list")
    for features in (found, files, FeatureFiles(tmp_path / "f"), files.load(), Features.load(found.save(tmp_path / "found.npz"))):
        assert list(features.missing) == names and all(features.missing.values())
        assert (features.paths, features.groups, len(features)) == (expected.paths, expected.groups, 15)
        np.testing.assert_allclose(np.asarray(features.clips), expected.clips, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(features.position, expected.position)
        assert (features.labels == expected.labels).all()
    assert retrieve(files, expected, SMALL).recall[1] == 1


def test_missing_members_are_asked_for(spoilt: tuple[Manifest, Manifest, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _, names = spoilt
    folder = write(whole, tmp_path / "f", missing="list").folder
    before = contents(folder)
    assert contents(write(whole, folder, missing="list").folder) == before
    rest, again = whole.files[21].read_bytes(), whole.files[20].read_bytes()
    whole.files[21].write_bytes(again)  # downloaded once more
    with caplog.at_level(logging.WARNING, "ivdr.evaluation"):
        assert list(write(whole, folder, missing="list").missing) == names[:-1] and "lacks 1 videos, of which 1 can be read by now" in caplog.text
    whole.files[21].write_bytes(rest)
    with pytest.raises(VideoError) as stopped, caplog.at_level(logging.WARNING, "ivdr.evaluation"):
        write(whole, folder)
    assert stopped.value.path == str(whole.files[0]) and "shard-00000.json lacks 1 of 5 videos" in caplog.text
    none = Manifest(whole.table.iloc[5:10], whole.root)
    for attempt in (lambda: extract_features(network(), none, SMALL, progress=False, missing="list"), lambda: write(none, tmp_path / "n", missing="list"),
                    lambda: FeatureFiles(tmp_path / "n")):
        with pytest.raises(VideoError, match=f"none of 5 videos could be read; {names[1]}: "):
            attempt()


# killed, damaged, of something else

KILLED = """
import os, signal, sys, torch
from ivdr.backbones import create_backbone
from ivdr.datasets import open_manifest
from ivdr.evaluation import write_features
sys.path.insert(0, sys.argv[3])
from test_feature_files import SMALL
torch.manual_seed(0)
network, calls = create_backbone("small"), []
def die(*_):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
network.register_forward_hook(die)
write_features(network, open_manifest(sys.argv[1]), SMALL, sys.argv[2], shard_size=5, batch_size=9, progress=False)
"""


def test_a_killed_writer_is_gone_on_with(videos: Path, manifest: Manifest, tmp_path: Path) -> None:
    whole = contents(write(manifest, tmp_path / "whole", batch_size=9).folder)
    # nine clips are three videos, so a shard of five takes two forward passes: killed in the third shard
    dead = subprocess.run([sys.executable, "-c", KILLED, str(videos), str(tmp_path / "f"), str(Path(__file__).parent)], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    (tmp_path / "f" / ".clips-00002.npy.123.tmp").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="3 of 5 shards are missing; write_features goes on"):
        FeatureFiles(tmp_path / "f")
    seen = []
    counted = network()
    counted.register_forward_hook(lambda _, clips, __: seen.append(len(clips[0])))
    write(manifest, tmp_path / "f", backbone=counted, batch_size=9)
    assert sum(seen) == 3 * 12, "only the videos of the missing shards are computed"
    assert contents(tmp_path / "f") == whole


def change(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-4], "flip": content[:-1] + bytes([content[-1] ^ 1]), "garbage": b"{", "other": b"[]"}[how])


@pytest.mark.parametrize("name, how, reason", [
    ("clips-00001.npy", "cut", "clips-00001.npy has"), ("videos-00001.npy", "flip", "videos-00001.npy is not what was written: its hash"),
    ("shard-00001.json", "garbage", "shard-00001.json is damaged"), ("shard-00001.json", "other", "shard-00001.json is damaged"),
])
def test_a_damaged_shard_is_refused_and_made_again(manifest: Manifest, tmp_path: Path, name: str, how: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(manifest, tmp_path / "f").folder
    whole = contents(folder)
    change(folder / name, how)
    with pytest.raises(ValueError, match=f"1 of 5 shards are damaged.*{reason}"):
        FeatureFiles(folder)
    if how == "flip":
        FeatureFiles(folder, verify=False)  # only sizes were asked for
    with caplog.at_level(logging.WARNING, "ivdr.evaluation"):
        write(manifest, folder)
    assert reason in caplog.text and contents(folder) == whole


def test_other_features_are_not_let_in(manifest: Manifest, tmp_path: Path) -> None:
    folder = write(manifest, tmp_path / "f").folder
    whole = contents(folder)
    for options, reason in (
        ({"protocol": SMALL.replace(stride=1)}, "stride 2 there, 1 asked for"), ({"protocol": SMALL.replace(pooling="time")}, "pooling mean there"),
        ({"backbone": network(1)}, "weights"), ({"reverse": True}, "reverse False there"), ({"dtype": "float16"}, "dtype float32 there"),
        ({"shard_size": 4}, "shard_size 5 there"), ({"backbone": create_backbone("small", width=4)}, "weights"),
    ):
        with pytest.raises(ValueError, match=f"holds other features.*{reason}.*another folder"):
            write(manifest, folder, **options)
    with pytest.raises(ValueError, match="manifest_hash"):
        write(manifest.split("test"), folder)
    assert contents(folder) == whole
    # what is asked of features later does not make them others
    write(manifest, folder, protocol=SMALL.replace(name="mine", centring="own", ks=(5,)))


def test_networks_of_one_set_of_weights_are_told_apart_by_what_they_do() -> None:
    torch.manual_seed(0)
    whole, wide = torch.nn.Conv3d(3, 4, 3), torch.nn.Conv3d(3, 4, 3, stride=2)
    wide.load_state_dict(whole.state_dict())
    assert network_hash(whole) != network_hash(wide)
    assert network_hash(MotionEncoder(network(), "motion")) == network_hash(MotionEncoder(network(), "motion")) != network_hash(MotionEncoder(network(), "all"))


def test_what_is_no_features_folder_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="index.json"):
        FeatureFiles(tmp_path)
    folder = write(manifest, tmp_path / "f").folder
    index = json.loads((folder / "index.json").read_text())
    for content, reason in (("{", "damaged"), ("{}", "lacks"), (json.dumps(index | {"format": "ivdr features 9"}), "format")):
        (folder / "index.json").write_text(content)
        with pytest.raises(ValueError, match=reason):
            FeatureFiles(folder)
        with pytest.raises(ValueError, match=reason):
            write(manifest, folder)
    for options in ({"shard_size": 0}, {"dtype": "int8"}):
        with pytest.raises(ValueError, match="accepted are"):
            write(manifest, tmp_path / "g", **options)


def test_a_full_disk_leaves_whole_shards_and_the_network_as_it_was(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], os.fsync

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) > 5:  # the index, one shard, and the clips of the next
            raise OSError(28, "No space left on device")
        real(number)
    backbone = network().train()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device.*videos-00001"):
            write(manifest, tmp_path / "f", backbone=backbone)
    assert backbone.training and not list((tmp_path / "f").glob(".*"))
    write(manifest, tmp_path / "f")


# retrieval from files

def some(labels: list[str], seed: int, d: int = 6) -> Features:
    classes = sorted(set(labels))
    rng = np.random.default_rng(seed)
    n = len(labels)
    return Features(rng.normal(size=(n, 2, d)).astype(np.float32) + 3, np.zeros((n, 2), np.float32), np.array([classes.index(x) for x in labels]), classes,
                    [f"{seed}-{i}.mp4" for i in range(n)], ["g"] * n)


def test_retrieval_from_files_is_retrieval_from_memory(manifest: Manifest, tmp_path: Path) -> None:
    train, test = (extract_features(network(), manifest.split(name), SMALL, progress=False) for name in ("train", "test"))
    files = write(manifest.split("train"), tmp_path / "f")
    for centring in ("none", "own", "gallery"):
        how = SMALL.replace(centring=centring)
        assert retrieve(test, files, how) == retrieve(test, train, how)
        q, g = evaluation.centre_features(test.videos, train.videos, centring)
        assert retrieve(test, files, how).recall == evaluation.retrieval(q, test.labels, g, train.labels, how.ks)
    assert retrieve(files, files, SMALL).recall[1] == 1
    with pytest.raises(ValueError, match="another protocol than 'x'.*stride 2 there, 3 asked for"):
        retrieve(test, files, SMALL.replace(name="x", stride=3))


def test_a_large_gallery_is_read_in_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(700, 16)).astype(np.float32) for _ in range(4)]
    asked: list[int] = []

    class Watched(Rows):
        def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
            found = super().__getitem__(rows)
            asked.append(len(found))
            return found
    query = rng.normal(size=(64, 16))
    found = nearest(query, Watched(parts), 5, block=2**12)
    assert (found == nearest(query, np.concatenate(parts), 5)).all()
    assert len(asked) > 40 and max(asked) <= 64 * 21, "a few rows at a time, or the candidates of the queries"


def test_classes_of_two_data_sets_meet_by_name() -> None:
    query, gallery = some(["run", "sit", "wave", "run"], 0), some(["walk", "sit", "run", "sit", "walk"], 1)
    found = retrieve(query, gallery, SMALL)
    assert (found.queries, found.left_out, found.gallery, found.classes) == (3, 1, 5, ["run", "sit"])
    known = [0, 1, 3]
    assert found.recall == evaluation.retrieval(query.videos[known], query.labels[known], gallery.videos, gallery.labels, (1, 3))
    assert found.chance[1] == pytest.approx((1 / 5 + 2 / 5 + 1 / 5) / 3)
    centred = retrieve(query, gallery, SMALL.replace(centring="own"))
    assert centred.uncentred == found.recall
    with pytest.raises(ValueError, match="no class in common: wave … against run, sit, walk …"):
        retrieve(some(["wave"] * 4, 0), gallery, SMALL)
    with pytest.raises(ValueError, match="too small for every k"):
        retrieve(query, gallery, SMALL.replace(ks=(6, 7)))

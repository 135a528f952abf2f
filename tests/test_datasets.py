"Manifests that keep their word, clips read in one pass, and batches that no worker count, restart or process count changes."
import gc
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision.transforms import v2

import ivdr.datasets
from ivdr.datasets import (
    COLUMNS, Manifest, VideoClips, make_eval_loader, make_loader, open_manifest, save_unreadable, scan, steps_per_epoch)
from ivdr.sampling import UniformViews, sample_rng, three_views, two_views
from ivdr.video import VideoError, VideoReader, write_video

REALDATA = Path(__file__).parents[1].parent / "shared" / "realdata"
SIZE = (24, 32)


def moving_bar(n_frames: int, hue: int, height: int = 48, width: int = 64) -> np.ndarray:
    frames = np.full((n_frames, height, width, 3), 40, dtype=np.uint8)
    for t in range(n_frames):
        frames[t, :, (3 * t + 5 * hue) % width :][:, :8, hue % 3] = 230
    return frames


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    "Fourteen videos of 3 to 42 frames, two labels, train and test."
    root = tmp_path_factory.mktemp("videos")
    for i in range(14):
        split, label = ("train", "test")[i >= 10], ("jump", "walk")[i % 2]
        (root / split / label).mkdir(parents=True, exist_ok=True)
        write_video(root / split / label / f"v{i:02d}.mp4", moving_bar(3 * (i + 1), i))
    return root


@pytest.fixture(scope="session")
def manifest(folder) -> Manifest:
    found, unreadable = scan(folder, progress=False)
    assert unreadable.empty
    return found


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def clips_of(manifest: Manifest, **options) -> VideoClips:
    return VideoClips(manifest, **{"views": three_views, "clip_len": 8, "stride": 2, "size": SIZE, **options})


def fingerprint(batch: dict) -> tuple:
    "Everything in a batch, as values that compare."
    return tuple((name, value.numpy().tobytes() if torch.is_tensor(value) else tuple(value)) for name, value in sorted(batch.items()))


# ---- scan

def test_scan_reads_labels_and_splits_from_folders(manifest, folder):
    table = manifest.table
    assert list(table.columns) == list(COLUMNS) and len(table) == 14
    assert table["path"].tolist() == sorted(table["path"]) and table["path"][0] == "test/jump/v10.mp4"
    assert manifest.classes == ["jump", "walk"]
    assert (table["split"] == table["path"].str.split("/").str[0]).all()
    assert (table["label"] == table["path"].str.split("/").str[1]).all()
    assert table["group"].is_unique
    row = table[table["path"] == "train/walk/v05.mp4"].iloc[0]
    assert (row["frames"], row["fps"], row["width"], row["height"]) == (18, 25, 64, 48)
    assert all(file.is_file() for file in manifest.files)
    np.testing.assert_array_equal(manifest.targets, (table["label"] == "walk").astype(int))


def test_scan_of_a_folder_without_splits_is_all_train(folder):
    found, _ = scan(folder / "train", progress=False)
    assert set(found.table["split"]) == {"train"} and found.classes == ["jump", "walk"]
    alone, _ = scan(folder / "train" / "walk", progress=False)
    assert alone.classes == ["walk"]


def test_scan_lists_what_it_cannot_read_and_why(copy):
    jump = copy / "train" / "jump"
    (jump / "zero.mp4").touch()
    (jump / "text.avi").write_text("not a video")
    whole = (jump / "v08.mp4").read_bytes()
    (jump / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (jump / "dangling.mkv").symlink_to(copy / "nowhere.mkv")
    (jump / "notes.txt").write_text("no video suffix: not our business")
    os.mkfifo(jump / "pipe.mp4")
    (jump / "folder.mp4").mkdir()
    found, unreadable = scan(copy, progress=False)
    assert len(found) == 14
    reasons = dict(unreadable.itertuples(index=False))
    names = {"zero.mp4", "text.avi", "cut.mp4", "dangling.mkv", "pipe.mp4"}
    assert {path.removeprefix("train/jump/") for path in reasons} == names
    assert all(reasons.values())
    assert "regular" in reasons["train/jump/pipe.mp4"]


def test_scan_takes_odd_names_and_follows_links_once(folder, tmp_path):
    place = tmp_path / "a, b" / "class\nwith \"all\" of ü"
    place.mkdir(parents=True)
    names = ["UPPER.MP4", " leading.mp4", "comma, and 'quote'.mp4", "線.mp4", "-dash.mp4", "percent%20.mp4", "a:b.mp4"]
    for i, name in enumerate(names):
        shutil.copy(folder / "train" / "jump" / f"v{2 * (i % 5):02d}.mp4", place / name)
    (place / "again").symlink_to(place)
    (place / "linked.mp4").symlink_to(folder / "test" / "walk" / "v11.mp4")
    found, unreadable = scan(tmp_path, progress=False)
    assert unreadable.empty and len(found) == len(names) + 1
    saved = Manifest.load(found.save(tmp_path / "manifest.csv"))
    assert saved.hash == found.hash and all(file.is_file() for file in saved.files)
    assert set(saved.classes) == {place.name}


def test_scan_names_files_whose_name_is_not_text(copy):
    with open(os.fsencode(copy) + b"/train/jump/\xff.mp4", "wb"):
        pass
    found, unreadable = scan(copy, progress=False)
    assert len(found) == 14 and "UTF-8" in unreadable["reason"][0]
    save_unreadable(unreadable, copy / "m.unreadable.csv")


def test_scan_takes_labels_groups_and_splits_of_an_existing_manifest(copy, manifest):
    own = manifest.table.assign(label="swim", group=[f"person{i % 3}" for i in range(14)], split="val", tempo=np.linspace(0, 1, 14), sha256="old", frames=1)
    Manifest(own, copy).save(copy / "manifest.csv")
    (copy / "train" / "jump" / "v00.mp4").unlink()
    shutil.copy(copy / "train" / "jump" / "v02.mp4", copy / "new.mp4")
    found, unreadable = scan(copy, progress=False)
    assert found.classes == ["swim"] and set(found.table["split"]) == {"val"} and set(found.table["group"]) == {"person0", "person1", "person2"}
    assert list(found.table.columns) == [*COLUMNS, "tempo"]
    again = found.table.merge(manifest.table, on="path", suffixes=("", "_true"))
    assert len(again) == 13 and (again["sha256"] == again["sha256_true"]).all() and (again["frames"] == again["frames_true"]).all()
    assert dict(unreadable.itertuples(index=False)) == {
        "train/jump/v00.mp4": "listed in manifest.csv but not there", "new.mp4": "not listed in manifest.csv"}


def test_same_files_scanned_by_any_number_of_threads(folder, manifest):
    for workers in (1, 5):
        pd.testing.assert_frame_equal(scan(folder, workers=workers, progress=False)[0].table, manifest.table)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        scan(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_manifest(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    for opener in (scan, open_manifest):
        with pytest.raises(ValueError, match="no video files"):
            opener(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        scan(tmp_path / "notes.txt")
    (tmp_path / "bad.mp4").touch()
    with pytest.raises(ValueError, match="none of 1 videos.*bad.mp4"):
        open_manifest(tmp_path)


# ---- manifest

@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_round_trip_keeps_text_and_numbers(manifest, tmp_path, suffix):
    labels = ["007", "NA", "null", "1e3", " x ", 'a "b", c', "True"] * 2
    table = manifest.table.assign(label=labels, phase=np.linspace(0, 1, 14) / 3, person=[f"{i:02d}" if i else None for i in range(14)], camera=range(14))
    first = Manifest(table, manifest.root)
    back = Manifest.load(first.save(tmp_path / "deep" / f"list.{suffix}"))
    assert back.hash == first.hash and back.classes == first.classes
    assert [file.resolve() for file in back.files] == [file.resolve() for file in first.files]
    np.testing.assert_array_equal(back.table["phase"], table["phase"])
    assert back.table["camera"].tolist() == list(range(14))
    assert back.table["frames"].tolist() == table["frames"].tolist()
    assert os.listdir(tmp_path / "deep") == [f"list.{suffix}"]  # no temporary file left


def test_parquet_without_pyarrow_is_one_clear_error(manifest, tmp_path, monkeypatch):
    file = manifest.save(tmp_path / "list.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (lambda: Manifest.load(file), lambda: manifest.save(tmp_path / "other.parquet")):
        with pytest.raises(ValueError, match="pyarrow"):
            call()
    assert os.listdir(tmp_path) == ["list.parquet"]


def test_a_failed_save_leaves_the_old_manifest(manifest, tmp_path, monkeypatch):
    file = manifest.save(tmp_path / "manifest.csv")
    before = file.read_bytes()

    def full(table, path, **options):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="No space"):
        manifest.save(file)
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["manifest.csv"]


@given(order=st.permutations(range(14)), row=st.integers(0, 13), column=st.sampled_from(["path", "label", "group", "split", "sha256"]))
@settings(max_examples=40)
def test_hash_knows_content_and_not_order_or_place(manifest, order, row, column):
    table = manifest.table
    assert Manifest(table.iloc[list(order)], "/elsewhere").hash == manifest.hash
    assert Manifest(table.assign(note="extra"), manifest.root).hash == manifest.hash
    changed = table.copy()
    changed.loc[row, column] += "x"
    assert Manifest(changed, manifest.root).hash != manifest.hash
    assert Manifest(table.drop(index=row), manifest.root).hash != manifest.hash


def test_hash_does_not_confuse_neighbouring_columns(manifest):
    one, two = manifest.table.copy(), manifest.table.copy()
    one["label"], one["group"] = "ab", "c"
    two["label"], two["group"] = "a", "bc"
    assert Manifest(one, ".").hash != Manifest(two, ".").hash


def test_saving_elsewhere_keeps_files_and_hash(manifest, tmp_path):
    for target in (tmp_path / "list.csv", manifest.root / "deep" / "er" / "list.csv"):
        back = open_manifest(manifest.save(target))
        assert back.hash == manifest.hash
        assert not back.table["path"].str.contains("\\", regex=False).any()
    shutil.rmtree(manifest.root / "deep")


def test_splits(manifest):
    train, test = manifest.split("train"), manifest.split("test")
    assert (len(train), len(test)) == (10, 4) and train.hash != test.hash
    with pytest.raises(ValueError, match="'valid'.*test.*train"):
        manifest.split("valid")


def test_broken_manifests_are_refused(manifest, tmp_path):
    cases = {
        "no.csv": ("path,label\na.mp4,x\n", "group, split"),
        "twice.csv": (pd.concat([manifest.table] * 2).to_csv(index=False), "stand twice"),
        "holes.csv": (None, "sha256"),
        "empty.csv": ("", "not a table"),
        "none.csv": (",".join(COLUMNS) + "\n", "lists no videos"),
    }
    for name, (text, message) in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
            with pytest.raises(ValueError, match=message):
                open_manifest(tmp_path / name)
    with pytest.raises(ValueError, match="label"):
        Manifest(manifest.table.assign(label=[None] + ["x"] * 13), tmp_path)
    with pytest.raises(ValueError, match=".csv or .parquet"):
        manifest.save(tmp_path / "list.xlsx")


def test_vanished_videos_are_one_error(copy):
    found, _ = scan(copy, progress=False)
    found.save(copy / "manifest.csv")
    assert open_manifest(copy).hash == found.hash
    shutil.rmtree(copy / "train" / "jump")
    with pytest.raises(FileNotFoundError, match=r"5 of 14 videos.*v00\.mp4.*v02\.mp4.*v04\.mp4, …"):
        open_manifest(copy)


def test_opening_a_plain_folder_scans_it(folder, manifest):
    assert open_manifest(folder).hash == manifest.hash


# ---- items

def slow_item(manifest: Manifest, epoch: int, index: int, seed: int, views, clip_len: int, stride: int) -> torch.Tensor:
    "Every clip on its own: open, read, resize frame by frame."
    with VideoReader(manifest.files[index]) as reader:
        wanted = views(len(reader), clip_len, stride, sample_rng(seed, epoch, index))
    clips = []
    for clip in wanted:
        with VideoReader(manifest.files[index]) as reader:
            frames = [reader.frames([int(frame)])[0].permute(2, 0, 1) for frame in clip]
        clips.append(torch.stack([
            v2.functional.resize(frame, list(SIZE), v2.InterpolationMode.BICUBIC, antialias=True).permute(1, 2, 0) for frame in frames]))
    return torch.stack(clips)


def test_items_equal_clips_read_one_by_one(manifest):
    items = clips_of(manifest, seed=4)
    for epoch, index in [(0, 0), (1, 13), (7, 6)]:
        item = items[(epoch, index)]
        assert item["clips"].dtype == torch.uint8 and item["clips"].shape == (3, 8, *SIZE, 3) and item["clips"].is_contiguous()
        assert torch.equal(item["clips"], slow_item(manifest, epoch, index, 4, three_views, 8, 2))
        assert (int(item["epoch"]), int(item["index"]), int(item["label"])) == (epoch, index, manifest.targets[index])
        assert int(item["n_frames"]) == manifest.table["frames"][index]
        assert torch.equal(item["clips"][0], item["clips"][2]) and torch.equal(item["frames"][0], item["frames"][2])
        assert len(item["bad"]) == 0 and item["bad_reason"] == []
    assert torch.equal(items[5]["clips"], items[(0, 5)]["clips"])


def test_cache_gives_the_same_bits_and_reads_each_file_once(manifest, monkeypatch):
    opened: list[str] = []

    class Counting(VideoReader):
        def __init__(self, path, *arguments, **options):
            opened.append(str(path))
            super().__init__(path, *arguments, **options)

    monkeypatch.setattr(ivdr.datasets, "VideoReader", Counting)
    plain, cached = clips_of(manifest), clips_of(manifest, cache=True)
    for epoch in (0, 1):
        for index in range(len(manifest)):
            assert fingerprint(plain[(epoch, index)]) == fingerprint(cached[(epoch, index)])
    # one open an item; with the cache one a video
    assert all(opened.count(str(file)) == 3 for file in manifest.files)


def test_portrait_landscape_and_native_sizes(manifest):
    assert clips_of(manifest, size=(171, 128))[0]["clips"].shape == (3, 8, 171, 128, 3)
    assert clips_of(manifest, size=None)[0]["clips"].shape == (3, 8, 48, 64, 3)
    assert clips_of(manifest, views=UniformViews(10), clip_len=16)[2]["clips"].shape == (10, 16, *SIZE, 3)


def test_videos_shorter_than_a_clip_repeat_their_border(manifest):
    shortest = int(manifest.table["frames"].argmin())
    item = clips_of(manifest, clip_len=16, stride=4)[shortest]
    assert item["clips"].shape[:2] == (3, 16) and int(item["frames"].max()) <= 2


def test_bad_arguments_are_named(manifest, folder):
    for options, message in [({"size": (24,)}, "size"), ({"size": (0, 4)}, "size"), ({"max_bad_share": 2}, "max_bad_share")]:
        with pytest.raises(ValueError, match=message):
            clips_of(manifest, **options)
    with pytest.raises(ValueError, match="no videos"):
        clips_of(Manifest(manifest.table[:0], folder))
    items = clips_of(manifest)
    with pytest.raises(IndexError):
        items[14]
    with pytest.raises(ValueError, match="14 videos do not fill one batch of 15"):
        make_loader(items, 15, seed=0)
    with pytest.raises(ValueError, match="at most 7"):
        make_loader(items, 8, seed=0, world=2)
    with pytest.raises(ValueError, match="rank is 2"):
        make_loader(items, 2, seed=0, rank=2, world=2)
    with pytest.raises(ValueError, match="start_step is 9"):
        make_loader(items, 2, seed=0, start_step=9, total_steps=8)
    with pytest.raises(ValueError, match="batch_size is 0"):
        steps_per_epoch(5, 0)
    with pytest.raises(ValueError, match="max_bad_share"):
        make_eval_loader(items, 4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        make_eval_loader(clips_of(manifest, max_bad_share=0), 0)


# ---- loader

def run(manifest: Manifest, **options) -> list[tuple]:
    items = clips_of(manifest, seed=3, clip_len=4)
    return [fingerprint(batch) for batch in make_loader(items, options.pop("batch_size", 3), seed=3, **options)]


def test_workers_change_nothing(manifest):
    # the parent has decoded before: forked readers must not hang on what it left
    alone = run(manifest, total_steps=9)
    assert len(alone) == 9 == len(set(alone))
    assert run(manifest, total_steps=9, workers=2) == alone


def test_workers_start_after_threaded_work_in_the_parent(manifest):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (torch.rand(600, 600) @ torch.rand(600, 600)).sum()
        assert run(manifest, workers=2) == run(manifest)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_sees_the_tail_of_the_whole_run(manifest, workers):
    whole = run(manifest, total_steps=9)
    for start in (1, 4, 8, 9):  # 4 = an epoch's begin
        assert run(manifest, start_step=start, total_steps=9, workers=workers) == whole[start:]


def test_without_total_steps_an_epoch_is_finished(manifest):
    items = clips_of(manifest)
    assert len(make_loader(items, 3, seed=0)) == 4 == steps_per_epoch(14, 3)
    assert [len(make_loader(items, 3, seed=0, start_step=start)) for start in (1, 3, 4)] == [3, 1, 4]


def places(loader) -> list[list[tuple[int, int]]]:
    return list(loader.batch_sampler)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**40), st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranks_share_each_global_batch(manifest, batch_size, world, seed, start):
    if batch_size * world > 14:
        batch_size = 14 // world
    items = clips_of(manifest)
    single = places(make_loader(items, batch_size * world, seed, start_step=start, total_steps=12))
    ranks = [places(make_loader(items, batch_size, seed, start_step=start, total_steps=12, rank=rank, world=world)) for rank in range(world)]
    assert len(single) == 12 - start
    for step, batch in enumerate(single):
        parts = [ranks[rank][step] for rank in range(world)]
        assert sum(parts, []) == batch and len(set(batch)) == batch_size * world


@given(st.integers(1, 14), st.integers(0, 2**40))
@settings(max_examples=40)
def test_an_epoch_meets_no_video_twice_and_orders_differ(manifest, batch_size, seed):
    items = clips_of(manifest)
    per_epoch = steps_per_epoch(14, batch_size)
    batches = places(make_loader(items, batch_size, seed, total_steps=3 * per_epoch))
    for epoch in range(3):
        met = sum(batches[epoch * per_epoch : (epoch + 1) * per_epoch], [])
        assert {number for number, _ in met} == {epoch}
        assert len({index for _, index in met}) == len(met) == per_epoch * batch_size


def test_reading_moves_no_global_generator(manifest):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state().clone(), np.random.get_state()[1].copy()
    run(manifest, workers=2)
    run(manifest)
    assert torch.equal(before[0], torch.random.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_a_loader_can_be_left_and_read_again(manifest):
    loader = make_loader(clips_of(manifest), 2, seed=0, workers=2)
    first = fingerprint(next(iter(loader)))
    assert [fingerprint(batch) for batch in loader][0] == first
    assert len(loader) == 7


def long_loader(manifest, steps, workers=2):
    return make_loader(clips_of(manifest), 3, seed=3, total_steps=steps, workers=workers)


def test_what_is_kept_of_a_batch_never_changes(manifest):
    truth = [batch["clips"] for batch in long_loader(manifest, 30, workers=0)]
    ways = (lambda clips: clips, lambda clips: clips[1, 2], lambda clips: clips.numpy()[::2], lambda clips: clips.flatten(0, 2), lambda clips: clips.float())
    loader, kept = long_loader(manifest, 30), {}
    for step, batch in enumerate(loader):
        if step % 4:
            kept[step] = ways[step % 5](batch["clips"])
    del batch
    for step, clips in kept.items():
        assert torch.equal(torch.as_tensor(clips), torch.as_tensor(ways[step % 5](truth[step]))), step
    del loader
    gc.collect()
    assert all(torch.equal(torch.as_tensor(clips), torch.as_tensor(ways[step % 5](truth[step]))) for step, clips in kept.items()), "the loader is gone, they are not"


def test_memory_is_filled_again_and_again(manifest):
    loader = long_loader(manifest, 60)
    places = [batch["clips"].data_ptr() for batch in loader]
    # two batches of each worker are ready, one is being read, and one is looked at
    assert len(set(places)) <= len(loader.dataset.shelf.known) <= 2 * 4
    for _ in range(10):
        next(iter(loader))
    assert len(loader.dataset.shelf.known) <= 2 * 8, "batches that nobody asked for give theirs back too"


def test_clips_are_copied_to_pinned_memory_and_theirs_given_back(manifest, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    loader = long_loader(manifest, 40)
    for batch, truth in zip(DataLoader.__iter__(loader), long_loader(manifest, 40, workers=0), strict=True):
        assert torch.equal(pin_memory(batch)["clips"], truth["clips"])
    assert len(loader.dataset.shelf.known) <= 2 * 4


def test_frames_of_unequal_size_cannot_be_batched_without_a_size(copy):
    write_video(copy / "train" / "jump" / "wide.mp4", moving_bar(9, 1, 48, 96))
    found, _ = scan(copy, progress=False)
    with pytest.raises(ValueError, match="give VideoClips a size"):
        list(make_loader(clips_of(found, size=None), 15, seed=0))


def test_eval_loader_reads_every_video_in_order(manifest):
    items = clips_of(manifest, views=UniformViews(4), max_bad_share=0)
    batches = list(make_eval_loader(items, 4, workers=2))
    assert len(make_eval_loader(items, 4)) == 4 == len(batches)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(14))
    assert [fingerprint(batch) for batch in make_eval_loader(items, 4)] == [fingerprint(batch) for batch in batches]


# ---- videos that turn out bad

def spoil(manifest: Manifest, *indices: int) -> list[str]:
    for index in indices:
        manifest.files[index].write_bytes(b"spoilt after the scan")
    return [str(manifest.files[index]) for index in indices]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_video_is_replaced_counted_and_listed(copy, manifest, workers):
    found, _ = scan(copy, progress=False)
    whole = list(make_loader(clips_of(found, seed=1), 7, seed=1, total_steps=4))
    (name,) = spoil(found, 6)
    loader = make_loader(clips_of(found, seed=1, max_bad_share=0.1), 7, seed=1, total_steps=4, workers=workers)
    batches = list(loader)
    assert list(loader.bad) == [6] and name in loader.bad[6] and ": " in loader.bad[6]
    met = 0
    for good, batch in zip(whole, batches, strict=True):
        place = (good["index"] == 6).nonzero().flatten()
        met += len(place)
        assert batch["bad"].tolist() == [6] * len(place) and len(batch["bad_reason"]) == len(place)
        assert 6 not in batch["index"]
        assert len(set(batch["index"].tolist())) == 7  # the stand-in is no second copy of a batch member
        kept = [i for i in range(7) if i not in place]
        assert torch.equal(batch["clips"][kept], good["clips"][kept])
    assert met == 2  # 14 videos in batches of 7: every epoch meets each of them


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_videos_stop_the_run(copy, workers):
    found, _ = scan(copy, progress=False)
    names = spoil(found, 1, 8)
    loader = make_loader(clips_of(found, max_bad_share=0.1), 1, seed=0, workers=workers)
    with pytest.raises(VideoError, match="2 of 14 videos could not be read, more than max_bad_share 0.1 accepts") as caught:
        list(loader)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_never_replaces_a_video(copy, workers):
    found, _ = scan(copy, progress=False)
    (name,) = spoil(found, 9)
    items = clips_of(found, max_bad_share=0)
    with pytest.raises(VideoError) as caught:
        items[9]
    assert caught.value.path == name
    with pytest.raises(VideoError) as caught:
        list(make_eval_loader(items, 4, workers=workers))
    # the file and the reason, without the traceback of a worker
    assert caught.value.path == name and "\n" not in str(caught.value) and caught.value.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_lists_what_it_could_not_read_if_asked_to(copy, workers):
    found, _ = scan(copy, progress=False)
    lost = (4, 5, 6, 7, 9)  # a whole batch of four, and one of another
    spoil(found, *lost)
    loader = make_eval_loader(clips_of(found, max_bad_share=0), 4, workers, missing="list")
    batches = list(loader)
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [8, 10, 11], [12, 13]]
    assert sorted(loader.missing) == list(lost) and all(loader.missing.values()) and not loader.bad
    assert all("unread" not in batch for batch in batches)
    with pytest.raises(ValueError, match="missing is 'skip'.*raise.*list"):
        make_eval_loader(clips_of(found, max_bad_share=0), 4, missing="skip")


def test_a_scanned_folder_remembers_which_split_lost_what(folder, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(folder / "train", tmp_path / split)
    broken = sorted((tmp_path / "test").rglob("*.mp4"))[0]
    broken.write_bytes(b"no video")
    found = open_manifest(tmp_path)
    name = broken.relative_to(tmp_path).as_posix()
    assert found.unreadable["path"].tolist() == [name] == found.split("test").unreadable["path"].tolist() and found.split("train").unreadable.empty
    assert found.unreadable["reason"].iloc[0] and name not in set(found.table["path"])
    found.table[["path", "label", "group", "split"]].to_csv(tmp_path / "manifest.csv", index=False)
    assert open_manifest(tmp_path).unreadable.empty, "what the folder's own list does not name is no member"


def test_a_folder_of_only_bad_videos_ends(copy):
    found, _ = scan(copy, progress=False)
    spoil(found, *range(14))
    with pytest.raises(VideoError, match="14 of 14"):
        list(make_loader(clips_of(found, max_bad_share=1.0), 2, seed=0))


# ---- real footage

def test_real_folders():
    if not REALDATA.is_dir():
        pytest.skip(f"{REALDATA} is not there: real footage not checked")
    expected = {"actions": (41, 4, {"train": 27, "test": 14}), "same_video": (92, 23, {"train": 46, "test": 46})}
    for name, (videos, classes, splits) in expected.items():
        found, unreadable = scan(REALDATA / name, progress=False)
        given = pd.read_csv(REALDATA / name / "manifest.csv")
        assert unreadable.empty and len(found) == videos and len(found.classes) == classes
        assert found.table["split"].value_counts().to_dict() == splits
        assert found.table["sha256"].tolist() == given["sha256"].tolist() and found.table["frames"].tolist() == given["frames"].tolist()
        assert open_manifest(REALDATA / name).hash == found.hash
    unit, unreadable = scan(REALDATA / "unit", progress=False)
    assert {"broken.mp4", "corrupted.mp4"} == set(unreadable["path"])
    batch = next(iter(make_loader(VideoClips(unit, partial(two_views, reverse_p=0.0), 8, 2, (32, 43)), len(unit), seed=0)))
    assert batch["clips"].shape == (17, 2, 8, 32, 43, 3) and not len(batch["bad"])

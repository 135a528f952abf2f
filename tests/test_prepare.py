"""The prepare room: the same film frame by frame, whatever was wrong with the file; killed at any moment, the same data set in the end."""

import csv
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from processes import kill_when

from ivdr import prepare as room
from ivdr.cli import main, make_parser
from ivdr.datasets import Manifest, VideoClips, open_manifest, resize_frames, scan
from ivdr.prepare import MIN_PSNR, Prepared, Settings, pack_tars, prepare, prepare_file, prepared_size, psnr
from ivdr.sampling import two_views
from ivdr.video import VideoError, VideoReader, encode, file_of, probe, write_video

multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "pytest", "hypothesis", "ivdr.prepare"])
FRESH = multiprocessing.get_context("forkserver")
SHARED = Path(__file__).parents[1].parent / "shared" / "realdata"
UNIT = SHARED / "unit"
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"NO REAL VIDEOS: {SHARED} is not there")


def counted(n: int, height: int = 160, width: int = 200, seed: int = 0) -> np.ndarray:
    "A film whose frames tell their own number: eight squares, white for a one, over a picture that hardly changes."
    base = np.random.default_rng(seed).integers(60, 190, (5, 6, 3), dtype=np.uint8)
    picture = np.kron(base, np.ones((height // 5 + 1, width // 6 + 1, 1), dtype=np.uint8))[:height, :width]
    film = np.repeat(picture[None], n, axis=0)
    for t in range(n):
        for bit in range(8):
            film[t, 4 : height // 4, 4 + bit * (width // 8) : (bit + 1) * (width // 8) - 2] = 255 * (t >> bit & 1)
    return film


def numbers(frames: np.ndarray) -> list[int]:
    "What the frames say their numbers are."
    height, width = frames.shape[1:3]
    row, columns = int(0.14 * height), ((np.arange(8) + 0.55) * width / 8).astype(int)
    bits = frames[:, row][:, columns].mean(-1) > 128
    return [int(sum(1 << i for i in range(8) if row[i])) for row in bits]


def whole(path: Path, backend: str = "pyav") -> np.ndarray:
    with VideoReader(path, backend) as reader:
        return np.asarray(reader.frames(range(len(reader))))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Fourteen films in two splits, and three files that are none."
    folder = tmp_path_factory.mktemp("prepare") / "raw"
    for number in range(14):
        place = folder / ("train", "test")[number % 2] / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        write_video(place / f"film{number:02d}.mp4", counted(20 + 3 * number, seed=number), fps=25)
    bad = folder / "train" / "class0"
    (bad / "empty.avi").touch()
    (bad / "page.mp4").write_text("<html>404 not found</html>\n" * 50)
    first = folder / "train" / "class0" / "film00.mp4"
    (bad / "cut.mp4").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    return folder


BAD = {f"train/class0/{name}" for name in ("empty.avi", "page.mp4", "cut.mp4")}


def quietly(raw: Path, out: Path, workers: int = 0, shard: tuple[int, int] = (1, 1), settings: Settings = Settings()) -> Prepared:
    return prepare(raw, out, settings, shard, workers, progress=False)


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert quietly(raw, out).written == 14
    return out


def contents(out: Path) -> dict[str, bytes]:
    "All files but the records."
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent != out / "prepare"}


# -- one film

def test_every_frame_is_the_frame_of_the_same_number(tmp_path: Path) -> None:
    film = counted(200)
    encode(tmp_path / "a.mp4", film, (160, 200), 30000 / 1001, {"crf": "20"})
    facts = prepare_file(tmp_path / "a.mp4", tmp_path / "b.mp4")
    copy = whole(tmp_path / "b.mp4")
    assert numbers(copy) == list(range(200)) == numbers(film)
    assert (facts["frames"], facts["height"], facts["width"], facts["fps"]) == (200, 128, 160, 29.97) and facts["psnr"] > 30
    assert psnr(copy, np.asarray(resize_frames(torch.from_numpy(whole(tmp_path / "a.mp4")), (128, 160)))) > 30
    with VideoReader(tmp_path / "b.mp4", "decord") as reader:
        # no file of ours may need the slow way round
        assert reader.backend in ("decord", "pyav") and not reader._index.doubts
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        keys = [i for i, packet in enumerate(p for p in container.demux(stream) if p.size) if packet.is_keyframe]
        assert len(container.streams) == 1 and stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert keys[0] == 0 and max(np.diff([*keys, 200])) <= 25 and "creation_time" not in container.metadata
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.mp4", "b.mp4"]


def test_a_variable_rate_keeps_its_frames_and_their_mean_rate(tmp_path: Path) -> None:
    film, moments = counted(40), np.cumsum(np.random.default_rng(0).integers(1, 9, 40))
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("libx264", rate=100)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.time_base = 160, 200, "yuv420p", Fraction(1, 100)
        for image, moment in zip(film, moments, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(moment), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    prepare_file(tmp_path / "a.mov", tmp_path / "b.mp4")
    assert numbers(whole(tmp_path / "b.mp4")) == list(range(40))
    assert probe(tmp_path / "b.mp4").fps == pytest.approx(probe(tmp_path / "a.mov").fps, rel=1e-3)


@pytest.mark.parametrize("n, height, width", [(1, 160, 200), (2, 300, 130), (5, 95, 141), (3, 128, 400), (20, 130, 1000)])
def test_short_odd_and_small_films(tmp_path: Path, n: int, height: int, width: int) -> None:
    encode(tmp_path / "a.mp4", counted(n, height + height % 2, width + width % 2), (height + height % 2, width + width % 2), 24.0, {"crf": "18"})
    facts = prepare_file(tmp_path / "a.mp4", tmp_path / "b.mp4")
    info, copy = probe(tmp_path / "b.mp4"), whole(tmp_path / "b.mp4")
    assert numbers(copy) == list(range(n)) and info.fps == pytest.approx(24, rel=1e-3)
    assert (info.height, info.width) == copy.shape[1:3] == (facts["height"], facts["width"]) and info.height % 2 == info.width % 2 == 0
    assert min(info.height, info.width) == min(128, min(height, width) + min(height, width) % 2)


def test_odd_sides_are_padded_not_stretched(tmp_path: Path) -> None:
    film = counted(3, 95, 141)
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:  # a codec without blocks of two by two
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 95, 141, "bgr0"
        for image in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    prepare_file(tmp_path / "odd.mkv", tmp_path / "even.mp4", Settings(crf=5))
    copy = whole(tmp_path / "even.mp4")
    assert copy.shape == (3, 96, 142, 3) == (3, *prepared_size(95, 141, 128), 3)
    assert psnr(copy[:, :95, :141], film) > 28 and psnr(copy[:, 95], copy[:, 94]) > 25


def test_a_copy_that_went_wrong_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = counted(30)
    write_video(tmp_path / "a.mp4", film)

    def losing(path: Path, images: Iterator[np.ndarray], *rest: Any) -> None:
        kept = list(images)
        encode(path, kept[:-1], *rest)

    def swapping(path: Path, images: Iterator[np.ndarray], *rest: Any) -> None:
        kept = list(images)
        encode(path, [*kept[1:], 255 - kept[0]], *rest)

    for fault, told in ((losing, "29"), (swapping, "dB")):
        monkeypatch.setattr(room, "encode", fault)
        with pytest.raises(VideoError, match=told) as caught:
            prepare_file(tmp_path / "a.mp4", tmp_path / "b.mp4")
        assert caught.value.path == str(tmp_path / "a.mp4") and [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("change", [{"short_side": 127}, {"short_side": 8}, {"gop": 0}, {"crf": 52}, {"preset": "hasty"}])
def test_settings_say_what_they_accept(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        Settings(**change)


# -- a data set

def test_what_comes_out(raw: Path, undisturbed: Path) -> None:
    manifest = open_manifest(undisturbed)
    source, unreadable = scan(raw, progress=False)
    columns = ["label", "split", "frames", "fps", "group"]
    assert manifest.table.set_index("raw_path")[columns].equals(source.table.set_index("path")[columns].rename_axis("raw_path"))
    assert set(manifest.table["raw_sha256"]) == set(source.table["sha256"])
    assert scan(undisturbed, progress=False)[0].hash == manifest.hash, "what the manifest says is what is there"
    assert set(unreadable["path"]) == BAD == set(manifest.unreadable["path"]) and set(manifest.unreadable["split"]) == {"train"}
    with open(undisturbed / "manifest.unreadable.csv") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == BAD and "0 bytes" in reasons["train/class0/empty.avi"] and all(reasons.values())
    item = VideoClips(manifest, two_views, 8, 2, size=None)[0, 3]
    assert item["clips"].shape == (2, 8, 128, 160, 3)


def test_a_second_call_does_nothing(raw: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.mp4")}
    again = quietly(raw, undisturbed)
    assert again.written == 0 and again.videos == 14 and len(again.failed) == 3
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.mp4")} == before


def test_any_number_of_workers_gives_the_same_bytes(raw: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quietly(raw, tmp_path / "two", 2).written == 14
    monkeypatch.setattr(room, "_hire", lambda: _hire_with(room._serve))  # forked from a process that has imported all: faster
    assert quietly(raw, tmp_path / "one", 1).written == 14
    assert contents(tmp_path / "two") == contents(tmp_path / "one") == contents(undisturbed)


def test_shards_joined_equal_one_whole(raw: Path, undisturbed: Path, tmp_path: Path) -> None:
    first, last = (quietly(raw, tmp_path / "out", shard=(i, 2)) for i in (1, 2))
    assert first.manifest is None and first.pending == last.videos + len(last.failed) and last.manifest is not None and not last.pending
    assert first.videos + last.videos == 14 and min(first.videos, last.videos) > 0 and len(first.failed) + len(last.failed) == 3
    assert contents(tmp_path / "out") == contents(undisturbed)
    # two machines with disks of their own, brought together afterwards
    for i in (1, 2):
        assert quietly(raw, tmp_path / str(i), shard=(i, 2)).manifest is None
        shutil.copytree(tmp_path / str(i), tmp_path / "joined", dirs_exist_ok=True)
    joined = quietly(raw, tmp_path / "joined")
    assert joined.written == 0 and contents(tmp_path / "joined") == contents(undisturbed)


def test_a_changed_source_is_prepared_again_and_a_new_date_is_not(raw: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw / "test", mine)
    names = sorted(path.relative_to(mine).as_posix() for path in mine.rglob("*.mp4"))
    first = quietly(mine, out)
    os.utime(mine / names[0], (1, 1))
    untouched = quietly(mine, out)
    assert untouched.written == 1 and untouched.manifest and first.manifest and untouched.manifest.hash == first.manifest.hash
    assert quietly(mine, out).written == 0, "the new date is on record"
    write_video(mine / names[0], counted(33, seed=77))
    (out / names[1]).unlink()
    (out / names[2]).write_bytes(b"half")
    mended = quietly(mine, out)
    assert mended.written == 3 and mended.manifest and probe(out / names[0]).frames == 33
    assert mended.manifest.hash == quietly(mine, tmp_path / "fresh").manifest.hash  # type: ignore[union-attr]
    (mine / names[3]).unlink()
    assert len(quietly(mine, out).manifest) == 6, "what is gone from the source is gone from the manifest"  # type: ignore[arg-type]


def test_a_manifest_keeps_its_labels_and_its_losses(raw: Path, tmp_path: Path) -> None:
    table = scan(raw, progress=False)[0].table.assign(label="walk", group="Ann", weather="fine")
    Manifest(table, raw).save(tmp_path / "lists" / "mine.csv")
    (tmp_path / "lists" / "mine.unreadable.csv").write_text("path,reason,split\nold/lost.mp4,truncated,test\n")
    found = quietly(tmp_path / "lists" / "mine.csv", tmp_path / "out")
    assert found.manifest and set(found.manifest.table["label"]) == {"walk"} and set(found.manifest.table["weather"]) == {"fine"}
    assert all((tmp_path / "out" / path).is_file() and not path.startswith("..") for path in found.manifest.table["path"])
    assert found.failed.values.tolist() == [["old/lost.mp4", "test", "truncated"]] == open_manifest(tmp_path / "out").unreadable.values.tolist()


def test_one_name_for_two_films(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov", "b.mp4"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        write_video(tmp_path / "raw" / name, counted(4, seed=len(name)))
    found = quietly(tmp_path / "raw", tmp_path / "out")
    assert found.manifest and found.manifest.table["path"].tolist() == ["a.mov.mp4", "a.mp4.mp4", "b.mp4"]


# -- refusals

def test_refusals_change_nothing(raw: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = contents(undisturbed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").touch()
    for data, out, options, told in ((raw, undisturbed, {"settings": Settings(crf=30)}, "crf 22, now 30"), (raw, raw / "out", {}, "outside"),
                                     (undisturbed / "manifest.csv", undisturbed, {}, "never replace"), (raw, tmp_path / "full", {}, "not an empty folder"),
                                     (tmp_path / "none", tmp_path / "out", {}, "does not exist"), (raw, tmp_path / "out", {"shard": (3, 2)}, "3/2"),
                                     (raw, tmp_path / "out", {"workers": -1}, "-1")):
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            quietly(data, out, **options)  # type: ignore[arg-type]
    assert contents(undisturbed) == before and not (raw / "out").exists() and not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_call_and_blames_no_film(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "encode", full)
    with pytest.raises(OSError, match="cannot go on"):
        quietly(raw, tmp_path / "out")
    monkeypatch.undo()
    assert len(quietly(raw, tmp_path / "out").failed) == 3


# -- deaths

def _in_a_group(raw: Path, out: Path, workers: int, begun: Path) -> None:
    os.setpgrp()
    begun.touch()
    prepare(raw, out, workers=workers, progress=False)


def recorded(out: Path) -> int:
    record = out / "prepare" / "shard-1-of-1.jsonl"
    return record.read_bytes().count(b"\n") if record.exists() else 0


def test_killed_ten_times_at_random_it_ends_with_the_same_bytes(raw: Path, undisturbed: Path, tmp_path: Path) -> None:
    out, chance, killed = tmp_path / "out", random.Random(7), 0
    for turn in range(10):
        begun, wanted = tmp_path / f"begun{turn}", recorded(out) + (turn % 3 == 2)
        process = FRESH.Process(target=_in_a_group, args=(raw, out, 2 if turn == 5 else 0, begun))
        process.start()
        # any moment, before the first film, within one or between two
        until = time.monotonic() + 90
        while process.is_alive() and not (begun.exists() and recorded(out) >= wanted):
            assert time.monotonic() < until, "the moment never came"
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.12))
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for path in out.rglob("*.mp4"):
            probe(path)  # whatever has its name is whole
    assert killed >= 8, "it ended before it was killed"
    assert quietly(raw, out).videos == 14
    assert contents(out) == contents(undisturbed), "no more and no fewer files, and the same bytes"


def test_workers_end_when_their_parent_is_killed(raw: Path, tmp_path: Path) -> None:
    process = FRESH.Process(target=_in_a_group, args=(raw, tmp_path / "out", 1, tmp_path / "begun"))
    process.start()
    group = process.pid
    kill_when(process, lambda: recorded(tmp_path / "out") >= 1)  # the parent alone
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        os.killpg(group, signal.SIGKILL)
        pytest.fail("a worker outlived its parent")


def _deadly(job: Any) -> dict[str, Any]:
    if "film03" in job.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return room._attempt_as_it_is(job)  # type: ignore[attr-defined,no-any-return]


def _serve_deadly(pipe: Any) -> None:
    room._attempt_as_it_is = room._attempt  # type: ignore[attr-defined]
    room._attempt = _deadly
    room._serve(pipe)


def test_a_film_that_kills_the_decoder_is_listed_and_the_others_are_prepared(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(raw / "test", tmp_path / "raw")
    serve = room._serve
    monkeypatch.setattr(room, "_hire", lambda: _hire_with(_serve_deadly))
    found = quietly(tmp_path / "raw", tmp_path / "out", workers=2)
    assert found.failed.values.tolist() == [["class0/film03.mp4", "train", "the process that was preparing it was killed by signal 11"]]
    assert found.videos == 6
    monkeypatch.undo()
    assert room._serve is serve and quietly(tmp_path / "raw", tmp_path / "out").videos == 7, "and tried again by the next call"


def _hire_with(serve: Any) -> Any:
    here, there = FRESH.Pipe()
    worker = FRESH.Process(target=serve, args=(there,), daemon=True)
    worker.start()
    there.close()
    return here, (worker, None)


def test_two_calls_for_one_shard(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(raw, out, shard=(1, 2))
    with room._open_record(out / "prepare" / "shard-1-of-2.jsonl"):
        with pytest.raises(ValueError, match="another call"):
            quietly(raw, out, shard=(1, 2))
        assert quietly(raw, out, shard=(2, 2)).videos > 0


def test_a_record_cut_off_by_a_power_failure(raw: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    record = out / "prepare" / "shard-1-of-1.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:5]) + lines[5][:-20])
    assert quietly(raw, out).videos == 14 and contents(out) == contents(undisturbed)
    assert all(json.loads(line) for line in record.read_text().splitlines())
    record.write_bytes(b"nonsense\n" + record.read_bytes())
    with pytest.raises(ValueError, match=r"jsonl:1 is not a line"):
        quietly(raw, out)


# -- tar files

MB = 0.05


@pytest.fixture(scope="module")
def tars(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tars") / "out"
    pack_tars(undisturbed, out, MB, progress=False)
    return out


def test_videos_in_tar_files_are_the_same_videos(undisturbed: Path, tars: Path) -> None:
    apart, packed = open_manifest(undisturbed), open_manifest(tars)
    assert len({file_of(file) for file in packed.files}) >= 3 and all(file_of(file).is_file() for file in packed.files)
    rest = [name for name in apart.table.columns if name != "path"]
    assert packed.table[rest].equals(apart.table[rest]) and packed.table["packed_path"].tolist() == apart.table["path"].tolist()
    assert packed.unreadable.equals(apart.unreadable)
    for one, other in zip(apart.files, packed.files, strict=True):
        for backend in ("pyav", "decord"):
            assert np.array_equal(whole(one), whole(other, backend))
    sides = [VideoClips(manifest, two_views, 4, 2, (64, 80), "pyav") for manifest in (apart, packed)]
    assert all(torch.equal(sides[0][5, index]["clips"], sides[1][5, index]["clips"]) for index in range(len(apart)))


def test_tar_files_are_laid_out_as_webdataset_reads_them(tars: Path) -> None:
    rows = open_manifest(tars).table.set_index("packed_path")
    seen = 0
    for path in sorted(tars.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for words, video in zip(members[::2], members[1::2], strict=True):
                assert words.name.split(".") == [video.name.split(".")[0], "json"] and video.name.endswith(".mp4") and "/" not in video.name
                said = json.load(tar.extractfile(words))  # type: ignore[arg-type]
                assert rows.loc[said["path"], "label"] == said["label"] and rows.loc[said["path"], "bytes"] == video.size
                assert (words.mtime, words.uid, words.uname) == (0, 0, "")
                seen += 1
    assert seen == len(rows)


def _pack(data: Path, out: Path) -> None:
    pack_tars(data, out, MB, progress=False)


def test_packing_killed_goes_on_and_ends_in_the_same_bytes(undisturbed: Path, tars: Path, tmp_path: Path) -> None:
    out, chance, killed = tmp_path / "out", random.Random(3), 0
    for turn in range(4):
        process = FRESH.Process(target=_pack, args=(undisturbed, out))
        process.start()
        until = time.monotonic() + 90
        while process.is_alive() and len([*out.glob("*.tar")]) < turn:
            assert time.monotonic() < until, "the moment never came"
        time.sleep(chance.uniform(0, 0.004))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 2, "it ended before it was killed"
    _pack(undisturbed, out)
    assert contents(out) == contents(tars)


def test_a_tar_file_that_is_not_the_one_of_the_manifest(undisturbed: Path, tars: Path, tmp_path: Path) -> None:
    shutil.copytree(tars, tmp_path / "out")
    files = open_manifest(tmp_path / "out").files
    first, other = tmp_path / "out" / "videos-000000.tar", tmp_path / "out" / "videos-000001.tar"
    shutil.copy(other, first)
    with pytest.raises(VideoError, match=r"videos-000000.*manifest belongs to another"):
        VideoReader(files[0])
    first.write_bytes((tars / first.name).read_bytes()[: 512 * 5])
    with pytest.raises(VideoError, match="truncated: the tar ends at byte 2560"):
        VideoReader(files[0])
    other.unlink()
    with pytest.raises(FileNotFoundError, match=r"of 14 videos .* missing: .*videos-000001\.tar@"):
        open_manifest(tmp_path / "out")
    with pytest.raises(OSError, match="is not the video"):
        (tmp_path / "again").mkdir()
        shutil.copy(tars / "tars.json", tmp_path / "again")
        data = bytearray((tars / first.name).read_bytes())
        data[file_start(files[0]) + 700] ^= 1
        (tmp_path / "again" / first.name).write_bytes(data)
        _pack(undisturbed, tmp_path / "again")


def file_start(address: Path) -> int:
    return int(str(address).rsplit("@", 1)[1].split("+")[0])


def test_a_folder_may_be_called_like_a_tar_file(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.tar@1+2"
    folder.mkdir()
    shutil.copy(next(raw.rglob("film00.mp4")), folder / "a.mp4")
    assert probe(folder / "a.mp4").frames == 20


def test_packing_refuses(undisturbed: Path, tars: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        pack_tars(undisturbed, tmp_path / "out", 0)
    with pytest.raises(ValueError, match="lies in a tar file already"):
        pack_tars(tars, tmp_path / "out")
    with pytest.raises(ValueError, match="made with other options"):
        pack_tars(undisturbed, tars, 2 * MB)
    assert not (tmp_path / "out").exists()


def test_tar_files_by_command_and_trained_on(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["prepare", str(raw), "--out", str(out), "--workers", "0", "--tar", str(MB)]) == 2  # three films are none
    assert f"14 videos in tar files: {out / 'tars' / 'manifest.csv'}" in capsys.readouterr().out
    words = ["--backbone", "small", "--epochs", "1", "--batch-size", "2", "--workers", "0", "--clips.length", "4", "--clips.stride", "1", "--clips.size", "32"]
    assert main(["pretrain", "--data", str(out / "tars" / "manifest.csv"), "--method", "simclr", "--out", str(tmp_path / "run"), *words]) == 0


# -- the command

def test_the_command_prepares_as_the_library_does_when_nothing_is_said() -> None:
    args = make_parser().parse_args(["prepare", "videos", "--out", "copies"])
    assert Settings(args.short_side, args.gop, args.crf, args.preset) == Settings()


def test_the_command(raw: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", str(raw), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*words, "--shard", "1/2"]) == main([*words, "--shard", "2/2"]) == 2, "three files failed"
    capsys.readouterr()
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "14 videos" in shown.out and "3 failed" in shown.out and Manifest.load(undisturbed).hash[:12] in shown.out
    assert all(f"FAILED {path}: " in shown.out for path in BAD) and "3 videos could not be prepared" in shown.err
    assert main([*words, "--shard", "0.5"]) == 2 and "3/8" in capsys.readouterr().err
    assert main([*words, "--crf", "30"]) == 2 and "crf 22, now 30" in capsys.readouterr().err
    assert main(["prepare", str(raw / "test"), "--out", str(tmp_path / "good"), "--workers", "0"]) == 0


# -- real files

ODD = ("av1_video.mkv", "nasa_13013_vfr.mp4", "awesome_movie.mov", "nasa_13013_rotated.mp4", "sideways_movie.mov", "video_90.mov",
       "RATRACE_wave_f_nm_np1_fr_goo_37.avi", "test_non_zero_start.mp4", "weird_aspect.small.mpg", "testsrc2_vp9.webm")


@real
@pytest.mark.parametrize("name", ODD)
def test_real_oddities_frame_by_frame(name: str, tmp_path: Path) -> None:
    facts = prepare_file(UNIT / name, tmp_path / "copy.mp4", Settings(crf=2))  # or the encoding hides what neighbours differ by
    source, copy = whole(UNIT / name), whole(tmp_path / "copy.mp4")
    assert len(copy) == len(source) == facts["frames"] and probe(tmp_path / "copy.mp4").rotation == 0
    size = prepared_size(*source.shape[1:3], 128)
    assert copy.shape[1:3] == size and (copy.shape[1] > copy.shape[2]) == (source.shape[1] > source.shape[2]), "upright as the reader shows it"
    small = np.asarray(resize_frames(torch.from_numpy(source), size))
    own = [psnr(a, b) for a, b in zip(small, copy, strict=True)]
    assert min(own) > MIN_PSNR
    pairs = [(t, near) for t in range(len(copy)) for near in (t - 1, t + 1) if 0 <= near < len(copy)]
    # pairs that differ by more than the encoding does: no frame is more like its neighbour's copy than like its own
    telling = [(t, near) for t, near in pairs if psnr(small[t], small[near]) < own[t]]
    assert telling or name.startswith("nasa"), "whose frames hardly differ"
    assert all(own[t] >= psnr(small[t], copy[near]) for t, near in telling)
    assert probe(tmp_path / "copy.mp4").fps == pytest.approx(probe(UNIT / name).fps, rel=2e-3)


@real
def test_real_failures_are_listed_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("broken.mp4", "corrupted.mp4", "nasa_13013.audio_only.mp3", "video_90.mov"):
        shutil.copy(UNIT / name, tmp_path / "raw" / name.replace(".mp3", ".mp4"))
    whole_film = (UNIT / "WUzgd7C1pWA.mp4").read_bytes()
    (tmp_path / "raw" / "cut.mp4").write_bytes(whole_film[: len(whole_film) // 2])
    found = quietly(tmp_path / "raw", tmp_path / "out")
    reasons = dict(zip(found.failed["path"], found.failed["reason"], strict=True))
    assert reasons.keys() == {"broken.mp4", "corrupted.mp4", "nasa_13013.audio_only.mp4", "cut.mp4"} and found.videos == 1
    assert "only audio" in reasons["nasa_13013.audio_only.mp4"] and "cannot be decoded" in reasons["corrupted.mp4"]


@real
def test_real_actions_keep_labels_groups_and_splits(tmp_path: Path) -> None:
    source = SHARED / "actions"
    found = quietly(source, tmp_path / "out")
    own = Manifest.load(source).table.set_index("path")
    columns = ["label", "group", "split", "frames", "width", "height"]
    assert found.manifest is not None and not len(found.failed)
    assert found.manifest.table.set_index("raw_path")[columns].equals(own.loc[found.manifest.table["raw_path"], columns].rename_axis("raw_path"))


def _peak(folder: Path, name: str) -> None:
    prepare_file(folder / f"{name}.mp4", folder / f"{name}-copy.mp4")
    (folder / f"{name}.txt").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def test_memory_stays_flat(tmp_path: Path) -> None:
    "Six times the film, hardly more memory: 600 frames of 640 x 480 would be 550 MB."
    for name, n in (("short", 100), ("long", 600)):
        still = [np.roll(counted(1, 480, 640)[0], 3 * t, axis=1) for t in range(6)]
        encode(tmp_path / f"{name}.mp4", (still[t % 6] for t in range(n)), (480, 640), 25.0, {"preset": "ultrafast", "crf": "35", "g": "12"})
        process = FRESH.Process(target=_peak, args=(tmp_path, name))
        process.start()
        process.join()
    short, long = (int((tmp_path / f"{name}.txt").read_text()) for name in ("short", "long"))
    assert long - short < 40_000, f"kB: {short}, {long}"

"UCF101, HMDB51 and Kinetics as they are downloaded: trees with the real naming schemes, held against lists in the real formats."
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivdr.cli import main
from ivdr.datasets import (
    COLUMNS, BenchmarkScan, Manifest, hmdb51_listing, hmdb51_source, kinetics_listing, kinetics_name, open_manifest, parse_kinetics_name, scan, scan_hmdb51,
    scan_kinetics, scan_ucf101, ucf101_group, ucf101_listing)
from ivdr.video import write_video

REALDATA = Path(__file__).parents[1].parent / "shared" / "realdata"


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    "Three tiny videos of 4, 5 and 6 frames."
    place, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    return [write_video(place / f"{i}.mp4", rng.integers(0, 255, (4 + i, 32, 48, 3), dtype=np.uint8)) for i in range(3)]


def put(video: Path, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, place)


def rows(result: BenchmarkScan) -> list[tuple[str, ...]]:
    return list(result.manifest.table[["path", "label", "group", "split"]].itertuples(index=False, name=None))


def pairs(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["path"], table["reason"], strict=True))


# ---- UCF101

UCF101 = {"ApplyEyeMakeup": "ApplyEyeMakeup", "HandstandPushups": "HandStandPushups", "YoYo": "YoYo"}  # folder -> as spelled in the file names
GROUPS = {1: ((1, 2), (8, 9, 15)), 2: ((8, 9), (1, 2, 15)), 3: ((15,), (1, 2, 8, 9))}  # split -> groups for testing, for training


def ucf101_path(label: str, group: int) -> str:
    return f"{label}/v_{UCF101[label]}_g{group:02d}_c01.avi"


@pytest.fixture
def ucf101(tmp_path: Path, videos: list[Path]) -> tuple[Path, Path]:
    "Fifteen videos as UCF101.rar unpacks them, and their lists."
    root, splits = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    splits.mkdir()
    (splits / "classInd.txt").write_bytes(b"".join(f"{i} {label}\r\n".encode() for i, label in enumerate(UCF101, 1)))
    for split, (test, train) in GROUPS.items():
        lines = [f"{ucf101_path(label, group)} {i}" for i, label in enumerate(UCF101, 1) for group in train]
        (splits / f"trainlist{split:02d}.txt").write_bytes("\r\n".join([*lines, ""]).encode())
        (splits / f"testlist{split:02d}.txt").write_bytes("\r\n".join([*(ucf101_path(label, group) for label in UCF101 for group in test), ""]).encode())
    for label in UCF101:
        for group in (1, 2, 8, 9, 15):
            put(videos[group % 3], root / ucf101_path(label, group))
    return root, splits


@pytest.mark.parametrize("split", [1, 2, 3])
def test_ucf101_row_by_row(ucf101, split):
    root, splits = ucf101
    result = scan_ucf101(root, splits, split, progress=False)
    test, _ = GROUPS[split]
    assert rows(result) == [(ucf101_path(label, group), label, f"{label}_g{group:02d}", "test" if group in test else "train")
                            for label in UCF101 for group in (1, 2, 8, 9, 15)]
    assert list(result.manifest.table.columns) == list(COLUMNS)
    assert set(result.manifest.table["frames"]) == {4, 5, 6} and (result.manifest.table["width"] == 48).all()
    assert result.missing.empty and result.extra.empty and result.unreadable.empty
    official = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}[split]
    assert tuple(result.counts.loc[["train", "test"], "official"]) == official and result.counts.loc["all", "official"] == 13320
    assert tuple(result.counts.loc[["train", "test", "all"], "readable"]) == (3 * len(GROUPS[split][1]), 3 * len(test), 15)
    assert not set(result.manifest.split("train").table["group"]) & set(result.manifest.split("test").table["group"])
    assert any(f"{official[0]:,}" in note for note in result.notes), "short lists are noticed"


def test_splits_of_ucf101_are_different_data_and_the_same_files(ucf101):
    found = [scan_ucf101(*ucf101, split, progress=False).manifest for split in (1, 2)]
    assert found[0].hash != found[1].hash and list(found[0].table["sha256"]) == list(found[1].table["sha256"])


def test_ucf101_missing_extra_and_unreadable(ucf101, videos, tmp_path):
    root, splits = ucf101
    gone, cut, empty = (root / ucf101_path(label, group) for label, group in [("YoYo", 1), ("YoYo", 8), ("ApplyEyeMakeup", 2)])
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:200])
    empty.write_bytes(b"")
    put(videos[0], root / "YoYo" / "v_YoYo_g26_c01.avi", root / "copy" / "v_YoYo_g02_c01.mp4", root / "Zumba" / "v_Zumba_g01_c01.avi")
    (root / "YoYo" / "Thumbs.db").touch()
    result = scan_ucf101(root, splits, progress=False)
    assert result.missing.values.tolist() == [["YoYo/v_YoYo_g01_c01.avi", "YoYo", "test"]]
    assert set(pairs(result.unreadable)) == {ucf101_path("YoYo", 8), ucf101_path("ApplyEyeMakeup", 2)} and all(result.unreadable["reason"])
    reasons = pairs(result.extra)
    assert set(reasons) == {"YoYo/v_YoYo_g26_c01.avi", "copy/v_YoYo_g02_c01.mp4", "YoYo/v_YoYo_g02_c01.avi", "Zumba/v_Zumba_g01_c01.avi"} - set(
        result.manifest.table["path"])
    assert sum("second copy" in reason for reason in reasons.values()) == 1 and len(result.manifest) == 12
    assert result.counts[["listed", "missing", "unreadable", "readable"]].to_dict("index") == {
        "train": {"listed": 9, "missing": 0, "unreadable": 1, "readable": 8}, "test": {"listed": 6, "missing": 1, "unreadable": 1, "readable": 4},
        "all": {"listed": 15, "missing": 1, "unreadable": 2, "readable": 12}}
    assert "12 of 15 listed videos can be used; 1 missing, 2 unreadable, 3 extra" in result.text
    manifest, *tables = result.save(tmp_path / "lists" / "ucf.csv")
    assert open_manifest(manifest).hash == result.manifest.hash
    assert [path.name for path in tables] == ["ucf.missing.csv", "ucf.extra.csv", "ucf.unreadable.csv"]
    assert [len(pd.read_csv(path)) for path in tables] == [1, 3, 2]


def test_ucf101_is_known_by_its_names_wherever_they_lie(ucf101, tmp_path):
    root, splits = ucf101
    expected = scan_ucf101(root, splits, progress=False).manifest.table
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in root.rglob("*.avi"):
        # `unrar e` forgets folders; a folder spelled like its files, and another container, happen in copies
        put(file, flat / file.with_suffix(".MP4").name.replace("HandStand", "Handstand"))
    found = scan_ucf101(flat, tmp_path, progress=False).manifest.table
    for column in ("label", "group", "split", "sha256"):
        assert sorted(found[column]) == sorted(expected[column])
    assert set(found["label"]) == set(UCF101)


@pytest.mark.parametrize("name, line, said", [
    ("trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 3", "classInd.txt"),
    ("trainlist01.txt", "Juggling/v_Juggling_g08_c01.avi 3", "classInd.txt"),
    ("testlist01.txt", "v_YoYo_g01_c01.avi", "testlist01.txt:7"),
    ("testlist01.txt", "YoYo/yoyo.avi", "testlist01.txt:7.*v_Class_gNN_cNN"),
    ("testlist01.txt", "YoYo/v_YoYo_g08_c01.avi", r"YoYo \(train\) and YoYo \(test\)|YoYo \(test\) and YoYo \(train\)"),
])
def test_spoilt_lists_of_ucf101_are_refused(ucf101, name, line, said):
    file = ucf101[1] / name
    file.write_text(file.read_text().rstrip("\n") + f"\n{line}\n")
    with pytest.raises(ValueError, match=said):
        ucf101_listing(ucf101[1])


def test_a_few_videos_listed_twice_are_left_out_with_a_warning(tmp_path, caplog):
    lines = [f"s,id{i:09d},0,10,train" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines, lines[5], "other,id000000007,0,10,train"]))
    listing = kinetics_listing(tmp_path / "t.csv")
    assert len(listing.members) == 299 and "id000000007" in caplog.text and "id000000005" in set(listing.members["group"])


# ---- HMDB51

HMDB51 = {  # names as they are in the data set, and names that are worse; code in split 1, source
    "clap": [("#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", 1, "#20_Rhythm"), ("Baby_Bob_kann_klatschen_!_clap_u_cm_np1_fr_med_0.avi", 2, "Baby_Bob_kann_klatschen_!"),
             ("TrumanShow_clap_f_nm_np1_ba_med_21.avi", 0, "TrumanShow"), ("R\u00fcckw\u00e4rts_clap_u_cm_np1_le_bad_3.avi", 2, "R\u00fcckw\u00e4rts")],
    "kick_ball": [("Wayne_Rooney_At_Home_[Funny]_&_more_kick_ball_f_cm_np1_le_bad_5.avi", 1, "Wayne_Rooney_At_Home_[Funny]_&_more"),
                  ("TrumanShow_kick_ball_f_nm_np12_ri_med_2.avi", 2, "TrumanShow"), ("50_+_1;_2_kick_ball_l_nm_np1_ri_med_0.avi", 1, "50_+_1;_2")],
    "hug": [("-_FREE_HUGS_-_Abrazos_Gratis_hug_u_cm_np2_ba_goo_10.avi", 1, "-_FREE_HUGS_-_Abrazos_Gratis"),
            ("hug_hug_hug_h_nm_np2_fr_goo_1.avi", 2, "hug_hug"), ("named otherwise (1).avi", 0, "named otherwise (1)")],
}


@pytest.fixture
def hmdb51(tmp_path: Path, videos: list[Path]) -> tuple[Path, Path]:
    "Ten videos with awkward names, and their lists; in splits 2 and 3 the codes move on by one and two."
    root, splits = tmp_path / "hmdb51_org", tmp_path / "testTrainMulti_7030_splits"
    splits.mkdir()
    for label, names in HMDB51.items():
        for split in (1, 2, 3):
            (splits / f"{label}_test_split{split}.txt").write_bytes("".join(f"{name} {(code + split - 1) % 3} \n" for name, code, _ in names).encode())
        for i, (name, _, _) in enumerate(names):
            put(videos[i % 3], root / label / name)
    return root, splits


@pytest.mark.parametrize("split", [1, 2, 3])
def test_hmdb51_row_by_row(hmdb51, split):
    result = scan_hmdb51(*hmdb51, split, progress=False)
    word = ["unused", "train", "test"]
    assert sorted(rows(result)) == sorted((f"{label}/{name}", label, source, word[(code + split - 1) % 3])
                                          for label, names in HMDB51.items() for name, code, source in names)
    assert result.missing.empty and result.extra.empty and result.unreadable.empty
    assert result.counts["official"].to_dict() == {"train": 3570, "test": 1530, "unused": 1666, "all": 6766}
    assert any("3 classes" in note and "70 train and 30 test" in note for note in result.notes)


def test_hmdb51_lists_of_seventy_and_thirty_are_not_complained_about(tmp_path):
    codes = [1] * 70 + [2] * 30 + [0] * 3
    (tmp_path / "run_test_split2.txt").write_text("".join(f"f{i}_run_f_nm_np1_ba_med_{i}.avi {code}\n" for i, code in enumerate(codes)))
    listing = hmdb51_listing(tmp_path, 2)
    assert listing.members["split"].value_counts().to_dict() == {"train": 70, "test": 30, "unused": 3}
    from ivdr.datasets import _notes
    assert not any("70" in note and "classes" in note for note in _notes(listing))


def test_a_source_on_both_sides_is_said(hmdb51):
    for split, both in ((1, False), (2, True)):
        # TrumanShow: unused and test in split 1, train and unused in split 2; made train and test below
        if both:
            (hmdb51[1] / f"kick_ball_test_split{split}.txt").write_text("TrumanShow_kick_ball_f_nm_np12_ri_med_2.avi 2\n")
        notes = scan_hmdb51(*hmdb51, split, progress=False).notes
        assert any("TrumanShow" in note and "training and for testing" in note for note in notes) == both


def test_hmdb51_names_in_other_encodings_are_the_same_names(hmdb51):
    root, splits = hmdb51
    name = "R\u00fcckw\u00e4rts_clap_u_cm_np1_le_bad_3.avi"
    expected = rows(scan_hmdb51(root, splits, progress=False))
    file = splits / "clap_test_split1.txt"
    file.write_bytes(file.read_text().encode("latin-1"))
    assert rows(scan_hmdb51(root, splits, progress=False)) == expected
    apart = unicodedata.normalize("NFD", name)
    (root / "clap" / name).rename(root / "clap" / apart)
    found = scan_hmdb51(root, splits, progress=False)
    assert found.missing.empty and f"clap/{apart}" in set(found.manifest.table["path"]) and found.manifest.files[0].is_file()


def test_hmdb51_names_that_are_no_text_are_there_but_unreadable(hmdb51, tmp_path):
    root, splits = hmdb51
    name = "R\u00fcckw\u00e4rts_clap_u_cm_np1_le_bad_3.avi"
    os.rename(root / "clap" / name, os.fsencode(root / "clap") + b"/" + name.encode("latin-1"))
    with open(os.fsencode(root / "hug") + b"/nobody\xff.avi", "wb"):
        pass
    result = scan_hmdb51(root, splits, progress=False)
    assert result.missing.empty and len(result.manifest) == 9
    assert [("rename" in reason, "ckw" in path) for path, reason in pairs(result.unreadable).items()] == [(True, True)]
    assert ["nobody" in path for path in result.extra["path"]] == [True]
    assert result.counts.loc["test", "unreadable"] == 1
    for path in result.save(tmp_path / "m.csv"):
        assert path.read_text(encoding="utf-8")


def test_the_same_name_in_two_classes_of_hmdb51_is_two_videos(hmdb51, videos):
    root, splits = hmdb51
    name = "TrumanShow_clap_f_nm_np1_ba_med_21.avi"
    (splits / "hug_test_split1.txt").write_text((splits / "hug_test_split1.txt").read_text() + f"{name} 1\n")
    assert scan_hmdb51(root, splits, progress=False).missing["path"].tolist() == [f"hug/{name}"]
    put(videos[1], root / "hug" / name)
    labels = {row[0]: row[1:] for row in rows(scan_hmdb51(root, splits, progress=False))}
    assert labels[f"hug/{name}"] == ("hug", "TrumanShow_clap", "train") and labels[f"clap/{name}"] == ("clap", "TrumanShow", "unused")


def test_spoilt_lists_of_hmdb51_are_refused(hmdb51):
    file = hmdb51[1] / "hug_test_split1.txt"
    for line in ("a_hug_f_nm_np1_ba_med_1.avi 3", "a_hug_f_nm_np1_ba_med_1.avi", "1"):
        file.write_text(f"x y.avi 1\n{line}\n")
        with pytest.raises(ValueError, match="hug_test_split1.txt:2"):
            hmdb51_listing(hmdb51[1])


# ---- Kinetics

KINETICS = [  # label, YouTube id, start, end, split as in the tables
    ("abseiling", "-3B32lodo2M", 59, 69, "train"), ("air drumming", "_dbcJuKJQNs", 40, 50, "train"), ("air drumming", "a__b_000010", 0, 10, "validate"),
    ("abseiling", "12345678901", 3, 13, "validate"), ("massaging person's head", "1e5--------", 100, 110, "train"),
    ("massaging person's head", "---QUuC4vJs", 84, 94, "validate"), ("abseiling", "-3B32lodo2M", 169, 179, "train"),
]
VALUE = {"train": "train", "validate": "val"}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    "A folder with train.csv as of Kinetics-700 and validate.csv as of Kinetics-400, which quotes labels and has one column more."
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *(",".join(map(str, row)) for row in KINETICS if row[4] == "train"), ""]))
    (folder / "validate.csv").write_text("\r\n".join(["label,youtube_id,time_start,time_end,split,is_cc",
                                                      *(f'"{row[0]}",' + ",".join(map(str, row[1:])) + ",0" for row in KINETICS if row[4] != "train")]))
    return folder


LAYOUTS = {
    "by class": lambda label, split, name: f"{label}/{name}.mp4",
    "by split and class": lambda label, split, name: f"{split}/{label.replace(' ', '_')}/{name}.mp4",
    "flat": lambda label, split, name: f"{name}.mp4",
    "archives": lambda label, split, name: f"{split}/{name}.mp4",
    "other containers": lambda label, split, name: f"{split}/{name}.mkv",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kinetics_row_by_row_in_every_layout(annotations, videos, tmp_path, layout):
    place, root = LAYOUTS[layout], tmp_path / "k"
    expected = []
    for i, (label, youtube_id, start, end, split) in enumerate(KINETICS):
        path = place(label, VALUE[split], f"{youtube_id}_{start:06d}_{end:06d}")
        put(videos[i % 3], root / path)
        expected.append((path, label, youtube_id, VALUE[split]))
    result = scan_kinetics(root, annotations, progress=False)
    assert rows(result) == sorted(expected)
    assert result.missing.empty and result.extra.empty and result.unreadable.empty and list(result.counts.index) == ["train", "val", "all"]
    tables = [annotations / "train.csv", annotations / "validate.csv"]
    assert scan_kinetics(root, tables, progress=False).manifest.hash == result.manifest.hash
    alone = scan_kinetics(root, tables[0], progress=False)
    assert len(alone.manifest) == 4 and len(alone.extra) == 3 and set(alone.manifest.table["split"]) == {"train"}


def test_kinetics_replacements_win_over_corrupt_videos(annotations, videos, tmp_path):
    root = tmp_path / "k400"
    names = [(VALUE[split], kinetics_name(*row)) for _, *row, split in KINETICS]
    put(videos[0], *(root / split / f"{name}.mp4" for split, name in names))
    (root / "train" / f"{names[0][1]}.mp4").write_bytes(b"corrupt")
    put(videos[2], root / "replacement" / "replacement_for_corrupted_k400" / f"{names[0][1]}.mp4")
    (root / "val" / f"{names[2][1]}.mp4").write_bytes(b"corrupt, and nobody has another")
    (root / "val" / f"{names[3][1]}.mp4").unlink()
    put(videos[1], root / "val" / "somebody.mp4")
    result = scan_kinetics(root, annotations, progress=False)
    paths = dict(zip(result.manifest.table["group"] + result.manifest.table["path"].str[-10:], result.manifest.table["path"], strict=True))
    assert paths["-3B32lodo2M000069.mp4"].startswith("replacement/") and len(result.manifest) == 5
    assert set(result.manifest.table["split"][result.manifest.table["path"].str.startswith("replacement")]) == {"train"}
    assert pairs(result.extra)["val/somebody.mp4"] and "replacement/" in pairs(result.extra)[f"train/{names[0][1]}.mp4"] and len(result.extra) == 2
    assert list(result.unreadable["path"]) == [f"val/{names[2][1]}.mp4"] and list(result.missing["split"]) == ["val"]


def test_full_size_tables_of_kinetics_show_a_usual_copy_beside(tmp_path):
    lines = [f"class {i % 400},{i:011d},{i % 200},{i % 200 + 10},{('train', 'val')[i >= 8000]}" for i in range(8800)]
    (tmp_path / "all.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]))
    listing = kinetics_listing(tmp_path / "all.csv")
    assert listing.name == "Kinetics-400" and listing.sizes == {"train": 240_436, "val": 19_796} and listing.source != "official"
    assert listing.members["group"][0] == "00000000000" and len(listing.members) == 8800


@pytest.mark.parametrize("text, said", [
    ("youtube_id,time_start,time_end,split\nabc,0,10,test\n", "label.*held-out"),
    ("id;start\n", "no column label, youtube_id"),
    ("label,youtube_id,time_start,time_end,split\nrun,abc,soon,10,train\n", "train.csv:2.*soon"),
    ("label,youtube_id,time_start,time_end,split\nrun,,0,10,train\n", "train.csv:2.*youtube_id"),
    ("label,youtube_id,time_start,time_end,split\n", "name no video"),
    ("label,youtube_id,time_start,time_end,split\nrun,abc,0,10,train\nrun,abc,0,10,val\n", r"run \(train\) and run \(val\).*versions mixed"),
    ("", "not a table"),
])
def test_spoilt_tables_of_kinetics_are_refused(tmp_path, text, said):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        kinetics_listing(tmp_path)


def test_tables_without_a_split_are_named_by_their_file_and_seconds_may_have_a_point(tmp_path):
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,time_end\nrun,NA,1.0,11.0\n")
    assert kinetics_listing(tmp_path / "val.csv").members.values.tolist() == [["NA_000001_000011.mp4", "run", "NA", "val", "NA_000001_000011"]]


# ---- trees that are not right

def test_mishaps_with_ucf101_say_what_to_do(ucf101, tmp_path, videos):
    root, splits = ucf101

    def said(root: Path, splits: Path = splits, split: int = 1, **options: bool) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            scan_ucf101(root, splits, split, progress=False, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    packed, hollow = tmp_path / "packed", tmp_path / "hollow"
    for label in UCF101:
        (hollow / label).mkdir(parents=True)
    packed.mkdir()
    (packed / "UCF101.rar").touch()
    assert "UCF101.rar" in said(packed) and "unrar x" in said(packed)
    assert "3 empty folders" in said(hollow) and "YoYo" in said(hollow) and "unrar x" in said(hollow)
    assert "--splits" in said(splits) and "testlist01.txt" in said(splits)
    assert "nowhere does not exist" in said(tmp_path / "nowhere")
    assert "is not a folder" in said(splits / "classInd.txt")
    assert "UCF101TrainTestSplits" in said(root, tmp_path / "nowhere") and "ucfTrainTestlist" in said(root, tmp_path / "nowhere")
    assert "ApplyEyeMakeup" in said(root, root) and "trainlist" in said(root, root)
    assert "1, 2, 3" in said(root, split=4) and "split is 0" in said(root, split=0)
    other = tmp_path / "other"
    put(videos[0], other / "jump" / "a.mp4")
    assert "jump/a.mp4" in said(other) and "ApplyEyeMakeup/v_" in said(other) and "right folder" in said(other)
    (splits / "testlist01.txt").unlink()
    assert "testlist01.txt does not exist" in said(root) and "unpack it again" in said(root)
    for file in root.rglob("*.avi"):
        file.write_bytes(b"")
    assert "none of 15 videos" in said(root, split=2) and "can be read" in said(root, split=2)


def test_half_extracted_trees_are_refused_unless_a_part_is_wanted(ucf101):
    root, splits = ucf101
    shutil.rmtree(root / "YoYo")
    (root / "YoYo").mkdir()
    with pytest.raises(ValueError, match=r"1 of 3 classes.*YoYo.*1 empty folders.*half extracted.*--partial"):
        scan_ucf101(root, splits, progress=False)
    result = scan_ucf101(root, splits, partial=True, progress=False)
    assert len(result.manifest) == 10 and len(result.missing) == 5


def test_a_class_of_hmdb51_still_packed_is_seen(hmdb51):
    root, splits = hmdb51
    shutil.rmtree(root / "hug")
    (root / "hug.rar").touch()
    with pytest.raises(ValueError, match=r"1 of 3 classes.*hug.*1 archives still packed \(hug.rar\).*each of the 51 archives"):
        scan_hmdb51(root, splits, progress=False)
    with pytest.raises(ValueError, match="test_train_splits.rar"):
        scan_hmdb51(root, root, progress=False)
    for file in splits.glob("*split3.txt"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="test_split3.txt"):
        scan_hmdb51(root, splits, 3, progress=False)


def test_archives_beside_a_whole_tree_disturb_nobody(hmdb51):
    (hmdb51[0] / "hmdb51_org.rar").touch()
    assert len(scan_hmdb51(*hmdb51, progress=False).manifest) == 10


def test_half_extracted_kinetics_is_refused(annotations, videos, tmp_path):
    root = tmp_path / "k400"
    names = [(VALUE[split], kinetics_name(*row)) for _, *row, split in KINETICS]
    put(videos[0], *(root / split / f"{name}.mp4" for split, name in names if split == "train"))
    with pytest.raises(ValueError, match=r"1 of 2 splits.*val"):
        scan_kinetics(root, annotations, progress=False)
    put(videos[0], *(root / split / f"{name}.mp4" for split, name in names[2:4]))
    assert len(scan_kinetics(root, annotations, progress=False).missing) == 1, "copies differ: a missing video is told, not refused"
    (root / "val" / "part_7.tar.gz").touch()
    with pytest.raises(ValueError, match=r"1 of 7 videos.*part_7.tar.gz.*half extracted"):
        scan_kinetics(root, annotations, progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        scan_kinetics(root, [annotations / "train.csv", tmp_path / "nowhere.csv"])
    with pytest.raises(ValueError, match="no .csv"):
        scan_kinetics(root, root)


# ---- names

@given(st.text("abcXYZ0189-_", min_size=1, max_size=14), st.integers(0, 999_999), st.integers(0, 999_999),
       st.sampled_from(["", ".mp4", ".mkv", ".mp4.part"]), st.sampled_from(["", "air drumming/", "val/000000_000010/"]))
def test_names_of_kinetics_come_back(youtube_id, start, end, ending, folder):
    assert parse_kinetics_name(f"{folder}{kinetics_name(youtube_id, start, end)}{ending}") == (youtube_id, start, end)


@pytest.mark.parametrize("name", ["abc.mp4", "abc_000001.mp4", "_000001_000011", "abc_1_11.mp4", "abc_000001_00001x.mp4", ""])
def test_other_names_are_no_kinetics(name):
    assert parse_kinetics_name(name) is None


SOURCES = st.text("abcAZ019_-#!()[]+&;' \u00fc\u7dda.", min_size=1, max_size=20).filter(lambda text: text.strip() == text)


@given(SOURCES, st.sampled_from(["clap", "kick_ball", "climb", "climb_stairs", "ride_bike"]), st.sampled_from("fhlu"), st.sampled_from(["cm", "nm"]), st.integers(1, 20),
       st.sampled_from(["ba", "fr", "le", "ri"]), st.sampled_from(["bad", "goo", "med"]), st.integers(0, 60))
def test_sources_of_hmdb51_come_back(source, label, body, camera, people, view, quality, number):
    name = f"{label}/{source}_{label}_{body}_{camera}_np{people}_{view}_{quality}_{number}.avi"
    assert hmdb51_source(name, label) == source


@given(st.from_regex(r"[A-Z][A-Za-z]{2,20}", fullmatch=True), st.integers(1, 25), st.integers(1, 7))
def test_groups_of_ucf101_come_back(label, group, clip):
    assert ucf101_group(f"{label}/v_{label}_g{group:02d}_c{clip:02d}.avi", label) == f"{label}_g{group:02d}"


# ---- as typed

def test_scan_as_typed(ucf101, hmdb51, annotations, videos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (ucf101[0] / ucf101_path("YoYo", 1)).unlink()
    assert main(["scan", "ucf101", "UCF-101", "--splits", "ucfTrainTestlist", "--split", "2", "--out", "u.csv"]) == 0
    shown = capsys.readouterr().out
    assert "UCF101 split 2: 14 of 15 listed videos can be used; 1 missing" in shown and "13320" in shown and "u.missing.csv" in shown
    assert main(["scan", "hmdb51", "hmdb51_org", "--splits", ".", "--out", "lists/h.parquet", "--workers", "1"]) == 0
    assert Manifest.load("lists/h.parquet").split("unused") and Path("lists/h.extra.csv").is_file()
    put(videos[0], *(Path("k") / f"{kinetics_name(*row)}.mp4" for _, *row, _ in KINETICS))
    assert main(["scan", "kinetics", "k", "--annotations", "annotations/train.csv", "annotations/validate.csv", "--out", "k.csv"]) == 0
    assert main(["scan", "kinetics", "k", "--splits", "annotations", "--out", "k2.csv"]) == 0
    assert Manifest.load("k.csv").hash == Manifest.load("k2.csv").hash and len(Manifest.load("k.csv")) == 7
    assert Manifest.load("u.csv").hash == scan_ucf101(*ucf101, 2, progress=False).manifest.hash
    for words in (["folder", "UCF-101"], ["UCF-101"]):
        assert main(["scan", *words, "--out", "f.csv"]) == 0
        assert Manifest.load("f.csv").hash == scan("UCF-101", progress=False)[0].hash and not Path("f.missing.csv").exists()


@pytest.mark.parametrize("words, said", [
    (["ucf102", "UCF-101", "--splits", "ucfTrainTestlist"], "ucf101, hmdb51, kinetics"),
    (["ucf101", "UCF-101"], "--splits"),
    (["kinetics", "UCF-101"], "--annotations"),
    (["UCF-101", "--splits", "ucfTrainTestlist"], "ivdr scan ucf101"),
    (["ucf101", "UCF-101", "--splits", "ucfTrainTestlist", "--annotations", "x.csv"], "--annotations does not go with ucf101"),
    (["kinetics", "UCF-101", "--annotations", "x.csv", "--split", "1"], "--split does not go"),
    (["ucf101", "UCF-101", "--splits", "ucfTrainTestlist", "--split", "4"], "1, 2, 3"),
    (["ucf101", "UCF-101", "--splits", "ucfTrainTestlist", "--split", "0"], "split is 0"),
    (["ucf101", "--splits", "ucfTrainTestlist"], "kind of data set and a folder"),
    (["ucf101", "ucfTrainTestlist", "--splits", "ucfTrainTestlist"], "lists, which belong to --splits"),
])
def test_mistypings_are_one_line(ucf101, tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", *words, "--out", "m.csv"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ivdr: error:") and said in lines[0]
    assert not list(tmp_path.glob("m.*"))


def test_an_ending_that_cannot_be_written_is_refused_before_hours_of_reading(ucf101, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ivdr.datasets._examine", lambda file: pytest.fail("read"))
    assert main(["scan", "ucf101", "UCF-101", "--splits", "ucfTrainTestlist", "--out", "m.txt"]) == 2
    assert "m.txt" in capsys.readouterr().err


def test_partial_as_typed(ucf101, tmp_path, monkeypatch, capsys):
    shutil.rmtree(ucf101[0] / "YoYo")
    monkeypatch.chdir(tmp_path)
    typed = ["scan", "ucf101", "UCF-101", "--splits", "ucfTrainTestlist", "--out", "m.csv"]
    assert main(typed) == 2 and not Path("m.csv").exists()
    said = capsys.readouterr().err
    assert "YoYo" in said and "--partial" in said
    assert main([*typed, "--partial"]) == 0
    assert "10 of 15 listed" in capsys.readouterr().out and len(Manifest.load("m.csv")) == 10


def test_help_has_an_example_of_every_kind(capsys):
    with pytest.raises(SystemExit):
        main(["scan", "--help"])
    shown = capsys.readouterr().out
    assert "ivdr scan kinetics k400 --annotations train.csv val.csv" in shown and "ivdr scan hmdb51" in shown and "--partial" in shown


# ---- real files

def test_real_footage_under_its_own_names(tmp_path):
    "Xvid and DivX files of UCF101 and HMDB51 themselves, one with metadata that is not UTF-8."
    if not REALDATA.is_dir():
        pytest.skip("shared/realdata is not here")
    files = {file.name: file for pattern in ("v_*_g??_c??.avi", "hmdb51_*.avi") for file in sorted(REALDATA.rglob(pattern))}
    ucf = [name for name in files if name.startswith("v_")]
    hmdb = [name for name in files if name.startswith("hmdb51_")]
    if not ucf or not hmdb:
        pytest.skip("no footage of UCF101 and HMDB51 in shared/realdata")
    for name in ucf:
        put(files[name], tmp_path / "u" / name.split("_")[1] / name)
    (tmp_path / "trainlist01.txt").write_text("".join(f"{name.split('_')[1]}/{name} {i}\n" for i, name in enumerate(ucf, 1)))
    (tmp_path / "testlist01.txt").write_text("")
    result = scan_ucf101(tmp_path / "u", tmp_path, progress=False)
    assert len(result.manifest) == len(ucf) and (result.manifest.table["frames"] > 10).all()
    for name in hmdb:
        put(files[name], tmp_path / "h" / "some" / name.removeprefix("hmdb51_"))
    (tmp_path / "some_test_split1.txt").write_text("".join(f"{name.removeprefix('hmdb51_')} 1\n" for name in hmdb))
    result = scan_hmdb51(tmp_path / "h", tmp_path, progress=False)
    assert len(result.manifest) == len(hmdb) and (result.manifest.table["frames"] > 10).all()

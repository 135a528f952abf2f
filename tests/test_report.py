"""The report: what it says of what is there, what it says of what is not, and how it behaves in a real browser."""

import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from ivdr.datasets import Manifest
from ivdr.evaluation import Features, Protocol, Result, save_result
from ivdr.report import (FIELD_WORDS, Page, Videos, ahead, alike, factors, group_runs, inline_json, published, published_facts, read_run, read_runs,
                         relation, segment_grams, shown, unlike, write_report)  # fmt: skip
from ivdr.training import pretrain, read_config, write_config
from ivdr.video import write_video

ACTIONS = ["sit_down", "walk"]
NASTY = 'p<b>"&\'</script>'  # a person whose name attacks the page
SHORT = {"epochs": 2, "batch_size": 4}


def make_videos(folder: Path) -> Path:
    "Sixteen small videos of a square that moves sideways or downwards, four persons, two scenes."
    folder.mkdir()
    rows = []
    for n in range(16):
        label, group, split = ACTIONS[n % 2], ["p0", "p1", NASTY, "p3"][n // 4], "train" if n < 8 else "test"
        frames = np.zeros((20, 48, 64, 3), np.uint8) + np.uint8([40 + 8 * n, 90, 160 - 8 * n])
        for t, frame in enumerate(frames):
            y, x = (10, 2 * t) if n % 2 else (t, 20)
            frame[y : y + 12, x : x + 12] = (250, 170, 30)
        path = write_video(folder / f"v{n:02d}.mp4", frames)
        rows.append({"path": path.name, "label": label, "group": group, "split": split, "frames": 20, "fps": 25.0, "width": 64, "height": 48,
                     "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "scene": ["room", "park"][n // 2 % 2], "split_of": "x"})  # fmt: skip
    Manifest(pd.DataFrame(rows), folder).save(folder / "manifest.csv")
    return folder


def make_features(folder: Path, split: str, seed: int) -> Features:
    "Features in which videos of one action lie together and clips move along a line in time."
    table = Manifest.load(folder).split(split).table.reset_index(drop=True)
    rng = np.random.default_rng([seed, len(split)])
    position = np.tile(np.linspace(0.1, 0.9, 5, dtype=np.float32), (len(table), 1))
    targets = np.array([ACTIONS.index(label) for label in table["label"]])
    clips = rng.normal(size=(2, 12))[targets][:, None] + 0.3 * rng.normal(size=(len(table), 1, 12)) + position[..., None] * rng.normal(size=12)
    return Features(clips.astype(np.float32), position, targets, ACTIONS, table["path"].tolist(), table["group"].tolist())


def make_result(method: str, seed: int, data: Path, r1: float, r2: float) -> Result:
    metrics = {"retrieval": {"R@1": r1, "R@5": 0.9}, "linear": {"accuracy": 0.5}, "order": {"accuracy": 0.51}, "progress": {"r2": r2},
               "variance": {"inter": 0.4, "intra": 0.1, "ratio": 0.25}}  # fmt: skip
    chance = {"retrieval": {"R@1": 0.5}, "linear": {"accuracy": 0.5}, "order": {"accuracy": 0.5}, "progress": {"r2": 0.0}}
    return Result(metrics, Protocol("as trained", 5, 8, 2, 32, (36, 48)), method, "small", seed, "abc123", chance=chance, notes={"data": str(data)},
                  command=f"ivdr compare --seeds 3 --note '<i>{method}</i>'")  # fmt: skip


def make_run(folder: Path, method: str, seed: int, data: Path, r1: float = 0.5, r2: float = 0.1, log: bool = True, **config) -> Path:
    "A run folder without weights."
    folder.mkdir(parents=True)
    own = {"method": "simclr", "epochs": 0} if method == "untrained" else {"method": method}
    write_config(read_config("laptop", data=str(data), out=str(folder), seed=seed, **config | own), folder / "config.yaml")
    if log:
        step = np.arange(1, 121)
        sr = {"sr": 0.65 - 0.004 * step, "weight_sr": 1.0, "weight_clip": (step > 60) * 1.0, "sr_accuracy": 0.5, "slot_cosine": 0.1} if method == "iivdr" else {}
        pd.DataFrame({"step": step, "epoch": 0, "lr": 0.1, "loss": 3 / step, "clip": 2 / step, **sr, "step_ms": 3.0}).to_csv(folder / "log.csv", index=False)
    save_result(make_result(method, seed, data, r1, r2), folder / "results" / "evaluation.json")
    for split in ("train", "test"):
        make_features(data, split, seed).save(folder / "results" / f"features_{split}.npz")
    return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> dict[str, object]:
    "Two untrained runs, three of SimCLR, three of IIVDR (one of them really trained), and their report."
    root = tmp_path_factory.mktemp("story")
    data = make_videos(root / "videos")
    runs = [make_run(root / f"untrained-{s}", "untrained", s, data, 0.3, 0.0, log=False, **SHORT) for s in (0, 1, 2)]
    runs += [make_run(root / f"simclr-{s}", "simclr", s, data, 0.5 + 0.1 * s, 0.01, **SHORT) for s in (0, 1, 2)]
    runs += [make_run(root / f"iivdr-{s}", "iivdr", s, data, 0.55, 0.4 + 0.1 * s, **SHORT) for s in (1, 2)]
    trained = root / "iivdr-0"
    pretrain(read_config("laptop", data=str(data), out=str(trained), **SHORT, threads=1, workers=0), progress=False)
    save_result(make_result("iivdr", 0, data, 0.55, 0.3), trained / "results" / "evaluation.json")
    for split in ("train", "test"):
        make_features(data, split, 0).save(trained / "results" / f"features_{split}.npz")
    page = write_report(root / "report.html", [*runs, trained], title="A <title> & more")
    return {"root": root, "data": data, "runs": [*runs, trained], "path": page, "html": page.read_text(encoding="utf-8")}


def part(html: str, anchor: str) -> str:
    "One section of the page."
    return html.split(f'<section id="{anchor}">', 1)[1].split("<section id=", 1)[0]


def without_code(html: str) -> str:
    "The page without its scripts and styles."
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)


def test_page_needs_nothing_from_outside(story):
    html = story["html"]
    assert story["path"].stat().st_size < 10e6
    body = without_code(html)
    assert "http" not in body
    addresses = re.findall(r'(?:src|srcset|href)="([^"]*)"', body)
    assert len(addresses) > 50
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#|data:)", re.search(r"<style>(.*?)</style>", html, re.S).group(1))


def test_every_section_is_there_and_nothing_is_missing(story):
    ids = re.findall(r'<section id="([^"]+)"', story["html"])
    assert ids == ["table", "sampled", "losses", "shuffle-rank", "ranking", "map", "variance", "protocol", "again", "published"]
    assert "Left out" not in story["html"]
    links = re.findall(r'<a href="#([^"]+)"', story["html"])
    assert links == ids


def test_names_from_outside_cannot_break_the_page(story):
    body = without_code(story["html"])
    assert "<b>\"&'" not in story["html"] and "p&lt;b&gt;" in body
    assert "<i>iivdr</i>" not in story["html"] and "A <title>" not in story["html"]
    data = json.loads(re.search(r'<script type="application/json" id="map-data">(.*?)</script>', story["html"], re.S).group(1))
    assert {video["group"] for video in data["videos"]} == {NASTY, "p3"}
    assert json.loads(inline_json({"x": NASTY})) == {"x": NASTY} and "<" not in inline_json(NASTY)


def test_table_gives_mean_spread_and_chance(story):
    section = part(story["html"], "table")
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", section, re.S)]
    assert rows[1][:3] == ["chance", "50.0", "%"] and "Not comparable" not in section and 'class="group"' not in section
    assert [row[0] for row in rows[2:5]] == ["untrained", "SimCLR", "IIVDR"]
    assert rows[3][1:5] == ["60.0", "±", "10.0", "%"] and rows[3][-1] == "3"
    # progress: every seed of IIVDR above every other; retrieval: SimCLR's seeds overlap IIVDR's
    assert section.count("▲</span>") == 1 and "progress R²: IIVDR" in section and "R@1: " not in section


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        ({"a": [1, 2, 3], "b": [4, 5, 6]}, "b"),
        ({"a": [1, 2, 3], "b": [3, 5, 6]}, None),
        ({"a": [1, 2], "b": [4, 5]}, None),
        ({"a": [1, 2, 3]}, None),
        ({"a": [1, 2, 3], "b": [4, 5, 6], "c": []}, "b"),
        ({"a": [1, 2, 3], "b": [4, 5, 6], "c": [9]}, None),
    ],
)
def test_a_model_is_ahead_only_with_three_seeds_that_do_not_overlap(values, winner):
    assert ahead(values) == winner


def test_means_are_shown_with_the_sample_deviation():
    assert shown([0.1, 0.3], True).startswith("20.0") and "14.1" in shown([0.1, 0.3], True)
    assert "±" not in shown([0.1], False)


def test_thumbnails_move_and_have_a_still_twin(story):
    section = part(story["html"], "ranking")
    import base64

    def frames(address):
        return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/webp;base64,")))).n_frames

    moving, still = re.findall(r'<img src="([^"]+)"', section), re.findall(r'srcset="([^"]+)"', section)
    assert len(moving) == len(still) == 2 + 2 * 3 * 5
    assert all(frames(address) > 5 for address in moving[:4]) and all(frames(address) == 1 for address in still[:4])


def test_seeds_are_one_model_and_options_are_another(tmp_path, story):
    data = story["data"]
    paths = [make_run(tmp_path / "a", "iivdr", 0, data), make_run(tmp_path / "b", "iivdr", 1, data),
             make_run(tmp_path / "c", "iivdr", 0, data, method_options={"terms": ["clip", "sr"]})]  # fmt: skip
    models = group_runs([read_run(path) for path in paths])
    assert [len(model.runs) for model in models] == [2, 1]
    assert all(model.name.startswith("IIVDR (terms ") for model in models)
    assert len({model.colour for model in models}) == 2


def test_single_run_makes_a_page(tmp_path, story):
    out = write_report(tmp_path / "new" / "one.html", [story["root"] / "simclr-0"])
    html = out.read_text(encoding="utf-8")
    assert "One model alone" in html and "no run was trained with the shuffle-rank term" in html
    assert write_report(tmp_path, [story["root"] / "simclr-0" / "results" / "evaluation.json"]) == tmp_path / "report.html"


def test_videos_that_are_gone_are_named_and_the_rest_still_stands(tmp_path, story):
    run = make_run(tmp_path / "run", "simclr", 0, story["data"])
    moved = tmp_path / "moved"
    shutil.copytree(story["data"], moved)
    (moved / "v09.mp4").unlink()
    html = write_report(tmp_path / "r.html", [run], data=moved).read_text(encoding="utf-8")
    assert "video<br>not there" in html and re.search(r'id="left-out".*v09\.mp4', html, re.S)
    shutil.rmtree(moved)
    html = write_report(tmp_path / "r.html", [run], data=moved).read_text(encoding="utf-8")
    assert "is not there any more" in html and ">R@1<" in html and 'id="map-data"' in html
    assert "data:image/webp" not in html


def test_trained_but_never_measured_run_still_shows_its_losses(tmp_path, story):
    run = make_run(tmp_path / "run", "iivdr", 0, story["data"])
    shutil.rmtree(run / "results")
    html = write_report(tmp_path / "r.html", [run]).read_text(encoding="utf-8")
    assert "content-blind floor" in html and "no run was measured yet" in html
    assert re.search(r"left it at step \d+", html)


def test_an_old_report_survives_a_failed_one(tmp_path, story, monkeypatch):
    out = tmp_path / "r.html"
    out.write_text("old")
    with pytest.raises(ValueError, match="does not exist"):
        write_report(out, [tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither config.yaml nor"):
        write_report(out, [tmp_path / "empty"])
    with pytest.raises(ValueError, match="at least one"):
        write_report(out, [])
    # a programming error is not a missing picture: it must not be swallowed
    monkeypatch.setattr("ivdr.report.SECTIONS", (("table", "x", lambda page: 1 / 0),))
    with pytest.raises(ZeroDivisionError):
        write_report(out, [story["root"] / "simclr-0"])
    assert out.read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == ["empty", "r.html"]


def test_relation_of_neighbours(story):
    query, gallery = make_features(story["data"], "test", 0), make_features(story["data"], "train", 0)
    assert relation(query, 0, gallery, 0) == "action" and relation(query, 0, gallery, 1) == "other"
    assert relation(query, 3, query, 3) == "video"


def test_factors_come_from_the_manifest(story):
    videos = Videos(story["data"])
    paths = make_features(story["data"], "test", 0).paths
    assert list(factors(videos.manifest, paths)) == ["scene"]  # not what every manifest has, nor what never varies
    assert factors(videos.manifest, [*paths, "stranger.mp4"]) == {}
    assert Page([], videos).thumbnail("stranger.mp4").startswith('<span class="gone">') and list(videos.gone) == ["stranger.mp4"]


class Reader(torch.nn.Module):
    "A stand-in method: reads the mean brightness of each half, so its slots follow the segments exactly."

    segments = 2

    def encode(self, clips):
        return clips.mean((1, 3, 4)).unflatten(1, (2, -1)).mean(2)

    def series(self, pooled):
        return torch.stack([pooled.cos(), pooled.sin()], -1)


def test_gram_matrices_of_slots_that_follow_their_segments():
    clips = torch.zeros(3, 3, 8, 4, 4)
    clips[:, :, 4:] = torch.tensor([0.5, 1.0, 1.5]).view(3, 1, 1, 1, 1)
    before, after, right = segment_grams(Reader(), clips)
    assert right == 1.0 and before.shape == after.shape == (3, 4, 4)
    for b, angle in enumerate((0.5, 1.0, 1.5)):
        assert before[b, 0, 2] == pytest.approx(np.cos(angle), abs=1e-6) and before[b, 0, 3] == pytest.approx(1, abs=1e-6)
        assert after[b, 0, 2] == pytest.approx(1, abs=1e-6) and after[b, 0, 3] == pytest.approx(np.cos(angle), abs=1e-6)


# ---- what may stand in one column

LAPTOP = Protocol("laptop", 5, 8, 2, 32, (36, 48))
MISSING = {"test": {"of": 20, "videos": {"clip<1>.mp4": "no video stream", "b.mp4": "cut off", "c.mp4": "empty"}}}


class Tables(HTMLParser):
    "The tables of a page, each as rows of texts, with the heading above it."

    def __init__(self, html: str):
        super().__init__()
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.heading, self.inside = "", None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append((self.heading.strip(), []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        if tag == "h3":
            self.heading = ""
        self.inside = tag if tag in ("td", "th", "h3") else self.inside

    def handle_endtag(self, tag):
        self.inside = None if tag in ("td", "th", "h3") else self.inside

    def handle_data(self, data):
        if self.inside == "h3":
            self.heading += data
        elif self.inside:
            self.tables[-1][1][-1][-1] += data


def column_of(table: list[list[str]], title: str) -> dict[str, str]:
    "A column of a table by the names of its rows."
    place = table[0].index(title)
    return {row[0]: row[place] for row in table[1:]}


def result(method: str, seed: int = 0, protocol: Protocol = LAPTOP, manifest: str = "aaaa" * 16, chance: dict | None = None, **metrics) -> Result:
    return Result(metrics, protocol, method, "small", seed, manifest, chance=chance or {}, notes={"epochs": 3, "cost": {"epochs": 3.0, "hours": 0.1 + seed}}, command="ivdr evaluate x")


def page_of(folder: Path, *results: Result) -> str:
    "The report of results that lie in one folder, without any run."
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(results):
        save_result(one, folder / f"result-{i:02d}.json")
    return write_report(folder / "page.html", [folder]).read_text(encoding="utf-8")


@pytest.mark.parametrize("change", [{"n_clips": 6}, {"centring": "own"}, {"ks": (1,)}, {"pooling": "max"}, {"frame_size": (40, 50)}, {"backend": "decord"}])
def test_any_field_of_a_protocol_keeps_figures_apart_and_its_name_does_not(change):
    one = result("simclr")
    apart = unlike(one, replace(one, protocol=LAPTOP.replace(**change)))
    assert list(apart) == [FIELD_WORDS[next(iter(change))]] and len(set(apart[FIELD_WORDS[next(iter(change))]])) == 2
    assert unlike(one, replace(one, protocol=LAPTOP.replace(name="another", source="ours"))) == {}


def test_every_field_of_a_protocol_has_words():
    assert FIELD_WORDS.keys() == Protocol.__dataclass_fields__.keys() - {"name", "source"}


def test_videos_gallery_and_missing_videos_keep_figures_apart():
    one = result("simclr")
    others = {"videos": replace(one, manifest_hash="b" * 64), "gallery": replace(one, notes={"gallery": "kinetics.csv"}), "test videos missing": replace(one, notes={"missing": MISSING})}
    for words, other in others.items():
        assert list(unlike(one, other)) == list(unlike(other, one)) == [words]
    galleries = [replace(one, notes={"gallery": path, "gallery_hash": key}) for path, key in (("a/k400.csv", "1" * 64), ("b/k400.csv", "1" * 64), ("a/k400.csv", "2" * 64))]
    assert not unlike(*galleries[:2]), "the same gallery in another place"
    assert unlike(galleries[0], galleries[2]) == {"gallery": ("a/k400.csv (11111111)", "a/k400.csv (22222222)")}
    lost = [{"test": {"of": 20, "videos": {path: "cut off"}}} for path in ("a.mp4", "b.mp4")]
    assert unlike(*[replace(one, notes={"missing": m}) for m in lost]), "as many are missing, but others"
    assert not unlike(*[replace(one, notes={"missing": {"test": {"of": 20, "videos": {"a.mp4": why}}}}) for why in ("cut off", "empty")])


def test_unlike_figures_never_stand_in_one_column(tmp_path):
    "Every figure is a number of its own; a column of figures must come from one way of measuring."
    ways = {"A": {}, "B": {"protocol": LAPTOP.replace(n_clips=10)}, "C": {"manifest": "b" * 64}, "D": {"protocol": LAPTOP.replace(centring="own"), "manifest": "b" * 64}}
    value = {(way, method, seed): 0.01 * (1 + 12 * i + 4 * j + seed) for i, way in enumerate(ways) for j, method in enumerate(("simclr", "iivdr", "tclr")) for seed in range(3)}
    rest = {"variance": {"inter": 0.4, "intra": 0.1, "ratio": 0.25}}
    made = [result(method, seed, **ways[way], retrieval={"R@1": v}, knn={"accuracy": v, "k": 5, "temperature": 0.07}, linear={"accuracy": v, "clip_accuracy": v / 2}, **rest)
            for (way, method, seed), v in value.items()]  # fmt: skip
    html = page_of(tmp_path / "r", *made)
    found = [(heading, table) for heading, table in Tables(part(html, "table") + part(html, "frozen")).tables if "R@1" in table[0] or "kNN" in table[0]]
    assert len(found) == 8, "two sections of four groups"
    means = {way: {f"{100 * np.mean([value[way, method, s] for s in range(3)]):.1f}" for method in ("simclr", "iivdr", "tclr")} for way in ways}
    seen = []
    for heading, table in found:
        title = "R@1" if "R@1" in table[0] else "kNN"
        cells = {cell.split()[0] for name, cell in column_of(table, title).items() if name != "chance"}
        own = [way for way in ways if cells == means[way]]
        assert len(own) == 1, f"{heading}: {cells}"
        seen.append((title, own[0]))
    assert len(set(seen)) == 8
    assert "The results were not all measured alike" in html and html.count("Not comparable with") == 3
    # the best of a group is marked in it (seeds do not overlap: TCLR), and no verdict speaks of two groups
    assert part(html, "table").count("▲</span>") == 4 * 2 and all(verdict.count("R@1: TCLR") == 1 for verdict in re.findall(r"Clearly ahead.*?</p>", part(html, "table")))


def test_what_differs_is_said_in_words(tmp_path):
    html = page_of(tmp_path / "r", *[result("simclr", s, retrieval={"R@1": 0.1}) for s in (0, 1)], result("simclr", 0, LAPTOP.replace(n_clips=7, centring="own"), retrieval={"R@1": 0.2}))
    words = unescape(re.sub(r"<[^>]+>", "", re.search(r'<div class="unlike">(.*?)</div>', html, re.S).group(1)))
    assert "Not comparable with A" in words and "clips a video: 7 here, 5 in A" in words and "mean taken off before cosines: each part's own here, none in A" in words
    assert "stride" not in words


def test_alike_protocols_of_two_names_share_a_column_and_one_name_of_two_kinds_does_not():
    same = [read for read in (result("simclr", 0, retrieval={"R@1": 0.1}), result("simclr", 1, LAPTOP.replace(name="mine"), retrieval={"R@1": 0.2}))]
    from ivdr.report import Run, group_title

    def groups(*results):
        return alike(group_runs([Run(Path(f"r{i}"), one.method, one.seed, result=one) for i, one in enumerate(results)]))

    (group,) = groups(*same)
    assert [len(model.runs) for model in group.models] == [2] and "also called &#x27;mine&#x27;" in group_title(group)
    assert len(groups(same[0], replace(same[0], protocol=LAPTOP.replace(stride=3)))) == 2


def test_no_winner_across_groups(tmp_path):
    "Three seeds each that do not overlap, but measured differently: nobody is ahead."
    made = [result("simclr", s, retrieval={"R@1": 0.1}) for s in range(3)] + [result("iivdr", s, LAPTOP.replace(n_clips=9), retrieval={"R@1": 0.9}) for s in range(3)]
    html = page_of(tmp_path / "apart", *made)
    assert "▲" not in part(html, "table") and "Clearly ahead" not in html
    html = page_of(tmp_path / "together", *[replace(one, protocol=LAPTOP) for one in made])
    assert part(html, "table").count("▲</span>") == 1


def test_missing_videos_are_named_beside_every_figure_they_concern(tmp_path):
    figures = {"retrieval": {"R@1": 0.3}, "linear": {"accuracy": 0.4}, "variance": {"inter": 0.4, "intra": 0.1, "ratio": 0.25}, "order": {"accuracy": 0.6}}
    lost = MISSING | {"train": {"of": 40, "videos": {"t.mp4": "empty"}}}
    one = result("iivdr", **figures)
    html = page_of(tmp_path / "r", replace(one, notes=one.notes | {"missing": lost}))
    rows = Tables(part(html, "table")).tables[0][1]
    cells = dict(zip(rows[0], rows[2]))
    for title in ("R@1", "linear", "order"):
        assert "test: 3 of 20 missing" in cells[title] and "train: 1 of 40 missing" in cells[title]
    assert "test: 3 of 20 missing" in cells["intra/inter"] and "train" not in cells["intra/inter"], "the variance split looks at test videos only"
    assert "3 of 20" not in "".join(rows[1]), "chance is measured on nothing"
    assert "clip&lt;1&gt;.mp4" in html and "clip<1>" not in without_code(html) and "no video stream" in html and "test: 3 of 20 missing" in part(html, "variance")


def test_one_result_given_twice_is_one_seed_and_parts_of_a_measurement_are_put_together(tmp_path):
    first, second = result("simclr", retrieval={"R@1": 0.3}), result("simclr", knn={"accuracy": 0.4, "k": 5, "temperature": 0.1}, linear={"accuracy": 0.2})
    html = page_of(tmp_path / "r", first, first, second)
    (row,) = [row for row in Tables(part(html, "table")).tables[0][1] if row[0] == "SimCLR"]
    assert row[1].startswith("30.0") and row[-1] == "1" and "±" not in "".join(row)
    html = page_of(tmp_path / "against", first, replace(first, metrics={"retrieval": {"R@1": 0.5}}))
    rows = [row for row in Tables(part(html, "table")).tables[0][1] if row[0].startswith("SimCLR")]
    assert [row[1].split()[0] for row in rows] == ["30.0", "50.0"] and "again" in rows[1][0], "contradictions are shown, not averaged"


def test_results_are_found_wherever_they_lie_and_belong_to_their_run(tmp_path, story):
    run = make_run(tmp_path / "run", "simclr", 0, story["data"])
    stored = run / "results" / "evaluation.json"
    other = replace(make_result("simclr", 0, story["data"], 0.4, 0.1), protocol=LAPTOP.replace(stride=3), created="2999-01-01T00:00:00+00:00")
    save_result(other, tmp_path / "elsewhere" / "other.json")
    (tmp_path / "elsewhere" / "table.json").write_text('{"budget": 1}')
    found = read_runs([run, stored, tmp_path / "elsewhere"])
    assert [one.file for one in found] == [stored, tmp_path / "elsewhere" / "other.json"]
    assert [one.config.method for one in found] == ["simclr", "simclr"] and len(group_runs(found)) == 1
    assert [one.test is None for one in found] == [True, False], "features are those of the newest measurement"
    # a stray result beside a run of another method does not become its result
    save_result(make_result("tclr", 0, story["data"], 0.4, 0.1), run / "stray.json")
    assert read_run(run / "stray.json").config is None


def test_runs_trained_on_other_videos_are_no_seeds_of_one_model(tmp_path, story):
    paths = [make_run(tmp_path / name, "simclr", seed, story["data"]) for seed, name in enumerate("ab")]
    config = paths[1] / "config.yaml"
    config.write_text(config.read_text().replace(str(story["data"]), "/elsewhere/films"))
    assert [len(model.runs) for model in group_runs(read_runs(paths))] == [1, 1]


# ---- the tasks

DRAW = {"clip_accuracy": 0.3, "videos": 24, "held_out": 0, "select": "held-out", "epoch": 4, "seed": 0, "share": 0.1, "missing": {}}


def full(method: str, seed: int, shift: float) -> Result:
    "A result with every task, as `measure` writes it."
    tune = {"recipe": "finetune-laptop", "share": 0.1, "sd": 0.1, "clip_accuracy": 0.3}
    return result(method, seed, chance={"linear": {"accuracy": 0.25}, "knn": {"accuracy": 0.25}},
                  knn={"accuracy": 0.31 + shift, "k": 20, "temperature": 0.07}, linear={"accuracy": 0.42 + shift, "clip_accuracy": 0.33, "solver": "logistic", "fit": "videos"},
                  sgd={"accuracy": 0.44 + shift, "clip_accuracy": 0.35, "solver": "sgd", "fit": "clips"},
                  limited={str(p): {"accuracy": 0.2, "sd": 0.05, "draws": [0.15 + p / 100, 0.25 + p / 100], "videos": 4 * p} for p in (1, 10, 5)},
                  confusion={"classes": ["sit<down>", "stand_up"], "matrix": [[7, 3], [5, 5]], "accuracy": 0.6},
                  finetune=tune | {"accuracy": 0.5, "draws": [DRAW | {"accuracy": 0.45 + shift}, DRAW | {"accuracy": 0.55 + shift}]},
                  scratch=tune | {"accuracy": 0.3, "draws": [DRAW | {"accuracy": 0.25}, DRAW | {"accuracy": 0.35}]})  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> str:
    return page_of(tmp_path_factory.mktemp("tasks") / "r", *[full(method, seed, 0.1 * (method == "iivdr")) for method in ("simclr", "iivdr") for seed in (0, 1)])


def test_frozen_classifiers_by_video_and_by_clip(tasks):
    table = Tables(part(tasks, "frozen")).tables[0][1]
    row = {title: column_of(table, title)["IIVDR"].split()[0] for title in table[0][1:]}
    assert row == {"kNN": "41.0", "linear, videos": "52.0", "linear, single clips": "33.0", "sgd, videos": "54.0", "sgd, single clips": "35.0", "seeds": "2"}
    assert column_of(table, "kNN")["chance"].startswith("25.0") and "k 20" in part(tasks, "frozen")


def test_a_figure_that_not_every_seed_has_says_so(tmp_path):
    html = page_of(tmp_path / "r", result("simclr", 0, retrieval={"R@1": 0.3}, linear={"accuracy": 0.4}), result("simclr", 1, retrieval={"R@1": 0.3}))
    table = Tables(part(html, "table")).tables[0][1]
    assert column_of(table, "linear")["SimCLR"] == "40.0 %1 of 2 seeds" and "seeds" not in column_of(table, "R@1")["SimCLR"]


def test_settings_of_a_task_keep_figures_apart_too(tmp_path):
    html = page_of(tmp_path / "r", *[result(m, knn={"accuracy": 0.3, "k": k, "temperature": 0.07}) for m, k in (("simclr", 5), ("iivdr", 20))])
    table = Tables(part(html, "frozen")).tables[0][1]
    assert table[0][1:3] == ["kNN, k 5", "kNN, k 20"]
    assert [column_of(table, "kNN, k 5")[name].strip() for name in ("SimCLR", "IIVDR")] == ["30.0 %", "–"]


def test_few_labels_by_per_cent_with_the_spread_of_all_draws(tasks):
    section = part(tasks, "limited")
    table = Tables(section).tables[0][1]
    assert [title.split()[0] for title in table[0][1:4]] == ["1", "5", "10"] and "40 videos" in table[0][3]
    assert column_of(table, table[0][3])["SimCLR"].split() == ["30.0", "±", f"{100 * np.std([0.25, 0.35] * 2, ddof=1):.1f}", "%"] and table[1][-1] == "4"
    assert section.count('role="img"') == 1 and "IIVDR</text>" in section and "SimCLR</text>" in section, "all models in one figure"


def test_fine_tuning_stands_against_from_scratch(tasks):
    section = part(tasks, "finetune")
    table = Tables(section).tables[0][1]
    assert column_of(table, "fine-tuned, videos")["IIVDR"].startswith("60.0") and column_of(table, "from scratch, videos")["IIVDR"].startswith("30.0")
    assert column_of(table, "gain, videos") == {"SimCLR": "+20.0 points", "IIVDR": "+30.0 points"}
    assert ("recipe finetune-laptop, 10 per cent of the labels, tested by the protocol named above, fitted on 24 videos; the epoch was chosen on held-out groups" in section)


def test_recipes_of_fine_tuning_are_kept_apart(tmp_path):
    one, other = full("simclr", 0, 0), full("iivdr", 0, 0)
    for task in ("finetune", "scratch"):
        other.metrics[task] |= {"share": 0.5}
    html = page_of(tmp_path / "r", one, other)
    tables = [table for _, table in Tables(part(html, "finetune")).tables]
    assert [[row[0] for row in table[1:]] for table in tables] == [["SimCLR"], ["IIVDR"]]
    # without a protocol by name, the recipe's own tests the fine-tuned network: another way of measuring, another table
    html = page_of(tmp_path / "named", one, replace(one, seed=1, protocol=LAPTOP.replace(name="as trained")))
    assert len(Tables(part(html, "table") + part(html, "finetune")).tables) == 3 and "tested by the recipe&#x27;s protocol" in html
    del other.metrics["scratch"]
    html = page_of(tmp_path / "s", other)
    assert column_of(Tables(part(html, "finetune")).tables[0][1], "gain, videos") == {"IIVDR": "–"}


def test_confusion_is_added_up_over_seeds_and_escaped(tasks):
    section = part(tasks, "confusion")
    assert section.count('role="img"') == 2 and ">14</text>" in section, "7 + 7"
    assert "sit&lt;down&gt;" in section and "<down>" not in section and "stand up</b>, 16 of 40" in section


def test_tasks_nobody_asked_for_leave_no_section(tmp_path, story):
    for html in (page_of(tmp_path / "r", result("simclr", retrieval={"R@1": 0.3})), story["html"]):
        assert not {"frozen", "limited", "finetune", "confusion"} & set(re.findall(r'<section id="([^"]+)"', html))
    html = page_of(tmp_path / "only", result("simclr", limited=full("simclr", 0, 0).metrics["limited"]))
    assert "None of the headline figures" in part(html, "table") and 'id="limited"' in html


# ---- published numbers

PUBLISHED = Path(__file__).parents[1] / "ivdr" / "published.yaml"


def test_published_numbers_name_their_source_and_none_is_hearsay():
    numbers, stored = published(), yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    assert {kind for number in numbers for kind in number.evidence} <= {"image", "abstract", "readme"}
    assert all(number.where and number.protocol and number.task for number in numbers)
    assert len(numbers) == sum(len(figures) for row in stored["rows"] for figures in row["figures"].values())
    assert not any("tcgl" in number.keys for number in numbers) and "none known" in stored["unknown"]["tcgl"]
    # numbers that are known from memory alone, and others that only resemble those read
    hearsay = {("tclr", figure, value) for figure, value in (("R@5", 72.2), ("R@10", 79.0), ("R@20", 85.3), ("R@1", 22.8), ("top-1", 84.1), ("top-1", 53.6))}
    assert not hearsay & {(key, number.figure, number.value) for number in numbers for key in number.keys}
    assert not {77.6, 39.7} & {number.value for number in numbers}


def test_published_numbers_that_disagree_say_so():
    by = {}
    for number in published():
        by.setdefault((number.keys, number.pretraining, number.task, number.data, number.figure), []).append(number)
    against = {key: numbers for key, numbers in by.items() if key[0] and len({number.value for number in numbers}) > 1}
    assert {frozenset(number.value for number in numbers) for numbers in against.values()} == {frozenset({46.7, 46.1}), frozenset({82.4, 82}), frozenset({56.2, 56.1})}
    for numbers in against.values():
        assert all(str(other.value) in number.conflict for number in numbers for other in numbers)


def test_published_block_stands_apart_and_is_complete(tmp_path, story):
    html = page_of(tmp_path / "r", result("iivdr", retrieval={"R@1": 0.123}), result("tcgl", retrieval={"R@1": 0.234}))
    block = part(html, "published")
    assert re.findall(r'<section id="([^"]+)"', html)[-1] in ("published", "left-out") and "read, not measured" in block and "not comparable" in block
    first, fold = block.split("<details>", 1)
    assert "46.7" in first and "82.0" in first and "none known" in first and "TCLR" not in first and "RSPNet" not in first
    assert "TCLR" in fold and "RSPNet" in fold
    shown_numbers = sorted(cell for _, table in Tables(block).tables for row in table[1:] for cell in row[4:-1] if cell != "–")
    assert shown_numbers == sorted(str(number.value) for number in published())
    conflicts = published_facts()["conflicts"].values()
    assert all(unescape(block).count(words) >= 1 for words in conflicts)
    # never beside a measured figure
    assert "12.3" not in block and "23.4" not in block
    rest = without_code(html.replace(block, ""))
    assert not any(f"{number.value}" in cell for number in published() for _, table in Tables(rest).tables for row in table for cell in row)
    assert "Nothing is listed for the methods on this page" in part(page_of(tmp_path / "s", result("simclr", retrieval={"R@1": 0.1})), "published")


def test_report_in_a_real_browser_without_a_network(story, chromium):
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page = context.new_page()
    trouble, requests = [], []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(story["path"].as_uri())
    page.wait_for_function("document.querySelectorAll('.plot .point').length > 0")

    broken = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0, () => false))).then(r => r.filter(ok => !ok).length)")
    assert page.evaluate("document.images.length") > 40 and broken == 0
    thumbnail = page.locator(".ranked img").first
    first = thumbnail.screenshot()
    assert any(thumbnail.screenshot() != first for _ in range(60)), "the thumbnail stands still"

    def colours():
        return page.evaluate("[...document.querySelectorAll('#map1 .scatterlayer .trace:first-child .point')].map(p => p.style.fill)")

    by_action = colours()
    assert len(by_action) == 8 * 5 and len(set(by_action)) == 2
    page.select_option("#colouring", label="time in the video")
    assert colours() != by_action and len(set(colours())) == 5
    assert page.locator("#legend").inner_text() == "first to last frame"
    page.select_option("#colouring", label="scene")
    assert len(set(colours())) == 2 and set(page.locator("#legend .key").all_inner_texts()) == {"room", "park"}

    def first_place():
        return page.evaluate("document.querySelector('#map1 .point').getAttribute('transform')")

    place = first_place()
    page.select_option("#layout", "pca")
    page.wait_for_function("place => document.querySelector('#map1 .point').getAttribute('transform') !== place", arg=place)

    # touching a point lights up the clips of its video in every map, and shows the video
    page.evaluate("document.getElementById('map1').emit('plotly_click', {points: [{curveNumber: 0, pointNumber: 7}]})")
    for i in range(3):
        assert page.evaluate(f"document.querySelectorAll('#map{i} .scatterlayer .trace:nth-child(2) .point').length") == 5
    assert "v09.mp4" in page.locator("#inspector").inner_text() and page.locator("#inspector img").count() == 1
    assert trouble == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_a_phone_in_both_lights(story, chromium, scheme):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.goto(story["path"].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('main>section')).backgroundColor]")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light") and abs(brightness[0] - brightness[1]) > 450
    text = page.evaluate("getComputedStyle(document.querySelector('.picture svg text')).fill")
    assert abs(sum(map(int, re.findall(r"\d+", text)[:3])) - brightness[1]) > 200
    context.close()

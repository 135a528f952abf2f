"""The report: what it says of what is there, what it says of what is not, and how it behaves in a real browser."""

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ivdr.datasets import Manifest
from ivdr.evaluation import Features, Protocol, Result, save_result
from ivdr.report import Page, Videos, ahead, factors, group_runs, inline_json, read_run, relation, segment_grams, shown, write_report
from ivdr.training import pretrain, read_config, write_config
from ivdr.video import write_video

ACTIONS = ["sit_down", "walk"]
NASTY = 'p<b>"&\'</script>'  # a person whose name attacks the page
SHORT = {"epochs": 2, "batch_size": 4}
CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


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
    trained = "simclr" if method == "untrained" else method
    write_config(read_config("laptop", data=str(data), out=str(folder), method=trained, seed=seed, **config), folder / "config.yaml")
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
    assert ids == ["table", "sampled", "losses", "shuffle-rank", "ranking", "map", "variance", "protocol", "again"]
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
    assert rows[1][:3] == ["chance", "50.0", "%"]
    assert [row[0] for row in rows[2:5]] == ["untrained", "SimCLR", "IIVDR"]
    assert rows[3][1:5] == ["60.0", "±", "10.0", "%"] and rows[3][-1] == "3"
    # progress: every seed of IIVDR above every other; retrieval: SimCLR's seeds overlap IIVDR's
    assert section.count("▲</span>") == 1 and "progress probe R²: IIVDR" in section and "retrieval R@1: " not in section


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
    assert "is not there any more" in html and "retrieval R@1" in html and 'id="map-data"' in html
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


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the report is NOT tested in a browser")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: the report is NOT tested in a browser")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def test_report_in_a_real_browser_without_a_network(story, browser):
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
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
def test_report_fits_a_phone_in_both_lights(story, browser, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.goto(story["path"].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('main>section')).backgroundColor]")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light") and abs(brightness[0] - brightness[1]) > 450
    text = page.evaluate("getComputedStyle(document.querySelector('.picture svg text')).fill")
    assert abs(sum(map(int, re.findall(r"\d+", text)[:3])) - brightness[1]) > 200
    context.close()

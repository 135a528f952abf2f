"""A study: what a recipe says is made, once, and nothing passes for what it is not."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ivdr.cli import main
from ivdr.compare import Row, compare, file_name, plan_jobs, read_study, run_study
from ivdr.datasets import VideoClips, open_manifest
from ivdr.evaluation import Features, evaluation_clips, extract_features, load_result, retrieval
from ivdr.measure import few_clips
from ivdr.synthetic import render_dataset
from ivdr.training import build_method, load_run, read_config, read_log
from ivdr.variance import variance_split

SMALL = {"backbone": "small", "batch_size": 8, "epochs": 1, "tensorboard": False, "backbone_options": {"width": 4},
         "clips": {"length": 4, "stride": 3, "size": 16, "augment": "light", "cache": True}}
VIDEOS = {"n_videos": 24, "seed": 5, "n_frames": 24, "size": [48, 64], "workers": 0}


def recipe(folder: Path, **study: object) -> str:
    "A recipe with this study in it."
    (folder / "small.yaml").write_text(yaml.safe_dump({"method": "iivdr", **SMALL, "study": study}, sort_keys=False))
    return str(folder / "small.yaml")


def test_every_row_of_the_shipped_study_can_be_trained_and_differs_in_what_its_title_says() -> None:
    study = read_study("study")
    jobs = plan_jobs("videos", study.rows_at(0.0), Path("out"), "study", {}, study.budget, tasks=study.tasks)
    configs = {job.method: job.config for job in jobs}
    assert list(configs) == list(study.rows) and configs["untrained"].epochs == 0
    assert {config.epochs for title, config in configs.items() if title != "untrained"} == {read_config("study", data="d", out="o").epochs}
    assert {title: configs[title].method_options["terms"] for title in ("SimCLR + SR", "SimCLR + TC", "IIVDR", "SR alone")} == {
        "SimCLR + SR": ["clip", "sr"], "SimCLR + TC": ["clip", "tc"], "IIVDR": ["clip", "sr", "tc"], "SR alone": ["sr"]}
    seeds = {title: sum(job.method == title for job in jobs) for title in study.rows}
    assert all(seeds[title] >= 3 for title in ("untrained", "SimCLR", "SimCLR + SR", "SimCLR + TC", "IIVDR")), seeds
    for config in configs.values():
        build_method(config)
    assert len({file_name(title) for title in study.rows}) == len(study.rows), "two rows would share a run folder"


def test_a_study_makes_what_it_says_and_makes_it_once(tmp_path: Path) -> None:
    rows = {"untrained": {"epochs": 0}, "SR alone": {"method_options": {"terms": ["sr"]}, "correlations": [1.0], "seeds": 1}}
    spec = recipe(tmp_path, videos=VIDEOS, correlations=[0.0, 1.0], seeds=2, tasks=["retrieval"], rows=rows)
    found = run_study(spec, tmp_path / "out", progress=False)
    table = pd.read_csv(tmp_path / "out" / "study.csv")
    assert list(zip(table["correlation"], table["method"], table["seed"])) == [
        (0, "untrained", 0), (0, "untrained", 1), (1, "untrained", 0), (1, "SR alone", 0), (1, "untrained", 1)]
    assert table["R@1 %"].notna().all() and table["linear %"].isna().all(), "only what was asked"
    sets = [pd.read_csv(tmp_path / "out" / f"correlation-{c}" / "videos" / "manifest.csv") for c in (0, 1)]
    assert sets[1].groupby("label")["scene"].nunique().max() == 1 < sets[0].groupby("label")["scene"].nunique().max()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("evaluation.json")}
    again = run_study(spec, tmp_path / "out", progress=False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("evaluation.json")} == stamps and len(stamps) == 5
    assert [part.text for part in again.values()] == [part.text for part in found.values()]


def test_a_part_of_a_study_is_made_by_name_and_its_curves_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"untrained": {"epochs": 0}, "SR, alone": {"method_options": {"terms": ["sr"]}}, "SimCLR": {"method": "simclr"}}
    spec = recipe(tmp_path, videos=VIDEOS, correlations=[0.0, 1.0], seeds=2, tasks=["retrieval"], rows=rows)
    asked = ["compare", "--recipe", spec, "--out", str(tmp_path / "out"), "--seeds", "1", "--epochs", "2"]
    assert main([*asked, "--methods", "untrained; SR, alone", "--correlations", "1"]) == 0
    table, curves = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("study", "curves"))
    assert list(zip(table["correlation"], table["method"], table["seed"])) == [(1, "untrained", 0), (1, "SR, alone", 0)]
    assert set(curves["method"]) == {"SR, alone"} and curves["epoch"].tolist() == [0, 1] and curves["clip"].isna().all()
    log = read_log(tmp_path / "out" / "correlation-1" / "sr-alone-s0")
    assert curves["sr"].tolist() == pytest.approx([log["sr"][log["epoch"] == epoch].mean() for epoch in (0, 1)], rel=1e-5)
    capsys.readouterr()
    for words, told in ((["--methods", "SimCRL"], "no row 'SimCRL'.*SimCLR"), (["--correlations", "0.5"], "no correlation 0.5.*0.0, 1.0"),
                        (["--data", "x", "--methods", "simclr", "--correlations", "0"], "without --correlations")):
        assert main([*asked, *words]) == 2
        assert re.search(told, capsys.readouterr().err)


def test_other_questions_are_asked_anew_and_other_settings_never_answered_with_old_figures(tmp_path: Path) -> None:
    videos = render_dataset(tmp_path / "videos", progress=False, **VIDEOS).parent  # type: ignore[arg-type]
    spec = recipe(tmp_path)
    rows = [Row("some run", {"method": "simclr"})]
    first = compare(videos, rows, tmp_path / "out", spec, progress=False, tasks=("retrieval",))
    more = compare(videos, rows, tmp_path / "out", spec, progress=False, tasks=("retrieval", "knn"))
    assert "knn" in load_result(more.runs[0] / "results" / "evaluation.json").metrics and first.runs == more.runs
    for _ in range(2):  # the second time, nothing that the first left behind may pass for an answer
        with pytest.raises(RuntimeError, match="some-run-s0.*another configuration"):
            compare(videos, rows, tmp_path / "out", spec, overrides={"optim.lr": 0.5}, progress=False, tasks=("retrieval",))


@pytest.mark.parametrize("study, words", [
    ({"rows": {}, "correlations": [0.0]}, "'videos' is missing"),
    ({"rows": {}, "correlations": [0.0, 1.0], "videos": {}, "seeds": [3]}, r"seeds is \[3\].*one for each of 2"),
    ({"rows": {}, "correlations": [0.0], "videos": {}, "colour": 1}, "'colour' is not known.*videos, correlations, rows"),
])
def test_a_study_that_cannot_be_is_refused_by_name(study: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_study(recipe(tmp_path, **study))


def test_sets_and_rows_may_have_seeds_of_their_own(tmp_path: Path) -> None:
    rows = {"three": {}, "one": {"seeds": 1}}
    study = read_study(recipe(tmp_path, rows=rows, correlations=[0.0, 1.0], videos={}, seeds=[3, 2]))
    assert [[len(row.seeds) for row in study.rows_at(c)] for c in study.correlations] == [[3, 1], [2, 1]]


def test_a_recipe_without_a_study_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="laptop.*no section 'study'.*--data and --methods"):
        read_study("laptop")


def test_a_run_takes_no_study_as_a_key_of_its_own() -> None:
    with pytest.raises(ValueError, match="study.rows"):
        read_config("laptop", data="d", out="o", **{"study.rows": 1})


# what is shipped

SAMPLES = Path(__file__).parents[1] / "data_samples"
WALKTHROUGHS = SAMPLES.parent / "nbs" / "walkthroughs"
SHIPPED = WALKTHROUGHS / "study"
RUNS = sorted(WALKTHROUGHS.glob("*/networks/*"))


def test_the_shipped_tables_hold_the_runs_of_the_recipe_and_no_others() -> None:
    study = read_study("study")
    assert sorted(SHIPPED.glob("correlation-*.json")) == sorted(SHIPPED / f"correlation-{c:g}.json" for c in study.correlations)
    for correlation in study.correlations:
        stored = json.loads((SHIPPED / f"correlation-{correlation:g}.json").read_text())
        planned = plan_jobs("videos", study.rows_at(correlation), Path("out"), "study", {}, study.budget, tasks=study.tasks)
        assert [(run["method"], run["seed"]) for run in stored["runs"]] == [(job.method, job.seed) for job in planned] and not stored["failed"]
        assert {run["epochs"] for run in stored["runs"]} == {job.config.epochs for job in planned}
        assert json.loads(json.dumps(asdict(planned[0].questions.protocol))) == stored["protocol"]


def test_what_is_shipped_is_small() -> None:
    for part, count in (("study", 4), ("dial", 2)):
        files = [file for file in (WALKTHROUGHS / part).rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < 5e6 and sum(file.name == "model.safetensors" for file in files) == count


@pytest.fixture(scope="module")
def seen() -> dict[str, VideoClips]:
    "The sample videos by split, decoded once for all networks."
    how = load_result(RUNS[0] / "results" / "evaluation.json").protocol
    return {split: evaluation_clips(open_manifest(SAMPLES).split(split), how, cache=True) for split in ("train", "test")}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_shipped_weights_score_what_is_shipped_with_them(run: Path, seen: dict[str, VideoClips]) -> None:
    told, (method, _) = load_result(run / "results" / "evaluation.json"), load_run(run)
    manifest = open_manifest(SAMPLES)
    train, test = (extract_features(method.encoder, manifest.split(split), told.protocol, progress=False, clips=seen[split]) for split in ("train", "test"))
    assert told.manifest_hash == manifest.hash
    found = retrieval(test.videos, test.labels, train.videos, train.labels, ks=(1, 5))
    for k, recall in found.items():
        # another processor rounds otherwise, and one or two videos may change their neighbour
        assert recall == pytest.approx(told.metrics["retrieval"][f"R@{k}"], abs=2 / len(test))
    kept = Features.load(run / "results" / "features_test.npz")
    assert kept.paths == test.paths and kept.classes == test.classes
    np.testing.assert_allclose(kept.clips, few_clips(test, kept.clips.shape[1]).clips, atol=5e-3 * np.abs(test.clips).max())
    assert variance_split(test.clips) == pytest.approx((told.metrics["variance"]["inter"], told.metrics["variance"]["intra"]), rel=0.01)

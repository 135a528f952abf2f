"""Widgets without a browser: what their functions say, and that their controls reach their figures."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivdr import widgets as w
from ivdr.backbones import create_backbone
from ivdr.evaluation import Features, retrieval
from ivdr.sampling import unshuffle_segments
from ivdr.shuffle_rank import rank_accuracy, shuffle_rank
from ivdr.synthetic import render_dataset
from ivdr.training import create_method, pretrain, read_config
from ivdr.widgets import PRETEXTS

RNG = np.random.default_rng(0)


def features(videos=6, clips=3, width=8, classes=("run", "walk"), name="v"):
    return Features(RNG.normal(size=(videos, clips, width)).astype(np.float32), np.tile(np.linspace(0.2, 0.8, clips), (videos, 1)).astype(np.float32),
                    np.arange(videos) % len(classes), list(classes), [f"{name}{i}.mp4" for i in range(videos)], [f"p{i % 3}" for i in range(videos)])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PRETEXTS)), st.integers(20, 150), st.integers(1, 4), st.integers(1, 6), st.integers(0, 200), st.booleans())
def test_clips_placed_by_hand_lie_in_the_video_and_go_the_way_that_was_asked(method, n_frames, quarter, stride, place, backwards):
    views = w.method_views(method, n_frames, 4 * quarter, stride, chosen=w.Chosen(place, place // 2, backwards))
    assert views.frames.min() >= 0 and views.frames.max() < n_frames and len(views.names) == len(views.frames)
    forwards = w.method_views(method, n_frames, 4 * quarter, stride, chosen=w.Chosen(place, place // 2, False))
    assert (views.seen == forwards.seen).all()
    if backwards and not (forwards.frames[:, -1] == forwards.frames[:, 0]).all():
        assert sorted(map(tuple, views.frames[:, ::-1])) == sorted(map(tuple, forwards.frames))


def test_a_draw_is_what_training_draws():
    for method in PRETEXTS:
        again = [w.method_views(method, 64, 8, 4, draw=3).frames for _ in range(2)]
        assert (again[0] == again[1]).all()
        assert any((w.method_views(method, 64, 8, 4, draw=d).frames != again[0]).any() for d in range(4, 9))


def test_seen_alone_is_what_no_other_sees():
    views = [w.method_views(name, 64, 8, 4, chosen=w.Chosen(30, 10, False)) for name in ("simclr", "tclr", "tcgl")]
    for method, frames in w.seen_alone(views).items():
        others = set().union(*(set(v.seen.tolist()) for v in views if v.method != method))
        assert set(frames.tolist()) == set(next(v for v in views if v.method == method).seen.tolist()) - others


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(4)), st.floats(0.01, 1.0), st.one_of(st.none(), st.floats(0.5, 20)), st.integers(0, 99))
def test_the_pieces_of_shuffle_rank_add_up(perm, theta, cap, seed):
    rng = np.random.default_rng(seed)
    q, p = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    found = w.anatomy(q, p, perm, theta, cap)
    restored = unshuffle_segments(torch.from_numpy(p)[None], torch.tensor([perm]))
    assert found.loss == pytest.approx(shuffle_rank(torch.from_numpy(q)[None], restored, theta, cap).item(), rel=1e-6)
    assert found.right.mean() == pytest.approx(rank_accuracy(torch.from_numpy(q)[None], restored).item())
    if cap is not None:
        assert (found.contributions[found.dead] == pytest.approx(np.logaddexp(0, cap))) if found.dead.any() else True


def test_recall_of_clips_is_retrieval_where_no_video_is_left_out():
    query, gallery = features(5, 2), features(7, 3, name="g")
    space = w.clip_space(query, gallery, "gallery")
    ranks = w.clip_ranks(space)
    rows = [x.clips.reshape(-1, 8) - gallery.clips.reshape(-1, 8).mean(0) for x in (query, gallery)]
    expected = retrieval(rows[0], np.repeat(query.labels, 2), rows[1], np.repeat(gallery.labels, 3), ks=(1, 2, 5))
    assert {k: float((ranks < k).mean()) for k in expected} == pytest.approx(expected)


def test_nobody_finds_itself_and_own_videos_can_be_left_out():
    both = features()
    space = w.clip_space(both, both)
    for query in range(18):
        order, cosines, relations = w.rank_clips(space, query, 17)
        assert query not in order and (np.diff(cosines) <= 0).all() and relations.count("video") == 2
        order, _, relations = w.rank_clips(space, query, 17, own_video=False)
        assert len(order) == 15 and "video" not in relations and relations.count("action") == 6


def test_chance_is_what_random_features_reach():
    many = features(120, 2, 6, ("a", "b", "c"))
    space = w.clip_space(many, many)
    assert w.chance_at(space, 3) == pytest.approx(float((w.clip_ranks(space) < 3).mean()), abs=0.12)


def test_models_of_different_clips_are_refused():
    with pytest.raises(ValueError, match="other clips"):
        w.check_same_clips([w.ClipModel("a", features()), w.ClipModel("b", features(5))])
    with pytest.raises(ValueError, match="at least one"):
        w.check_same_clips([])


def test_controls_reach_the_clip_sampler_without_a_kernel():
    sampler = w.ClipSamplerWidget(methods=["simclr", "tclr"])
    before = [np.array(trace.x) for trace in sampler.figure.data]
    sampler.controls.stride.value = 2
    assert any(len(a) != len(trace.x) or (a != trace.x).any() for a, trace in zip(before, sampler.figure.data))
    sampler.controls.methods["tclr"].value = False
    assert [len(trace.x) for trace in sampler.figure.data] == [16, 0, 0, 0, 0, 0]
    sampler.controls.backwards.value = True
    assert "backwards" in sampler.table.value
    for toggle in sampler.controls.methods.values():
        toggle.value = False
    assert sampler.player.films == []
    with pytest.raises(ValueError, match="nonsense"):
        w.ClipSamplerWidget(methods=["nonsense"])


def test_a_single_file_can_be_sampled():
    path = w.sample_manifest().files[3]
    assert w.ClipSamplerWidget(path).reel.total == 64


def test_every_order_can_be_chosen_and_the_cap_removed():
    shuffler = w.ShuffleRankWidget()
    shuffler.controls.segments.value = 4
    for perm in [(3, 2, 1, 0), (0, 1, 2, 3)]:
        shuffler.controls.order.value = perm
        assert shuffler.player.films[1]["note"] == "segments " + " ".join(str(k + 1) for k in perm)
    shuffler.controls.uncapped.value = True
    assert not shuffler.found.dead.any()


def test_maps_are_linked():
    explorer = w.EmbeddingExplorer()
    for m, figure in enumerate(explorer.figures):
        points = w.explorer_points(explorer, m)
        low, high = points.min(0) - 0.01, np.median(points, axis=0)
        outline = f"M{low[0]},{low[1]}L{high[0]},{low[1]}L{high[0]},{high[1]}L{low[0]},{high[1]}Z"
        drawn = {"selections": [{"type": "path", "xref": "x", "yref": "y", "path": outline}]}
        figure._handler_js2py_relayout({"new": {"relayout_data": drawn, "source_view_id": "browser"}})  # what the browser sends
        expected = np.flatnonzero(((points > low) & (points < high)).all(1)).tolist()
        assert [list(f.data[0].selectedpoints) for f in explorer.figures] == [expected] * len(explorer.figures)
    assert w.lassos(explorer.figures[1]) and not w.lassos(explorer.figures[0])
    explorer.controls.forget.click()
    assert all(f.data[0].selectedpoints is None for f in explorer.figures)


@pytest.mark.parametrize("widget", [w.ClipSamplerWidget, w.ShuffleRankWidget, w.ClipRankingWidget, w.EmbeddingExplorer])
def test_every_widget_leaves_a_still_picture(widget, monkeypatch):
    shown = widget()
    bundle, metadata = shown._repr_mimebundle_()
    assert bundle["image/png"][:4] == b"\x89PNG" and metadata["image/png"]["alt"] and "application/vnd.jupyter.widget-view+json" in bundle
    monkeypatch.setenv("IVDR_WIDGETS", "static")
    assert set(shown._repr_mimebundle_()[0]) == {"text/plain", "image/png"}
    json.dumps([film for part in (getattr(shown, name, None) for name in ("player", "found", "near")) if hasattr(part, "films") for film in part.films])


def test_an_installed_package_renders_its_own_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(w, "__file__", str(tmp_path / "site-packages" / "ivdr" / "widgets.py"))
    monkeypatch.setattr(w.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(w, "render_dataset", lambda out, n, **options: real(out, 3, actions=["walk", "run", "throw"], workers=0, **options))
    from ivdr.synthetic import render_dataset as real

    assert len(w.sample_manifest()) == 3 and len(w.sample_manifest()) == 3


# the mix of losses

def mix(name, clip, sr, tc):
    model = w.ClipModel(name, features(videos=4, clips=2))
    return w.Mix(model, {"clip": clip, "sr": sr, "tc": tc}, {title: 0.5 for title in w.SCORES}, (0.5, 0.1 * (1 + sr)))


def test_the_dial_goes_to_the_nearest_trained_mix_and_says_when_it_had_to() -> None:
    mixes = [mix("contrast", 1.0, 0.0, 0.0), mix("all", 1.0, 1.0, 1.0), mix("less contrast", 0.1, 1.0, 0.1), mix("sr", 0.0, 1.0, 0.0)]
    assert w.knob_values(mixes) == {"clip": [0.0, 0.1, 1.0], "sr": [0.0, 1.0], "tc": [0.0, 0.1, 1.0]}
    dial = w.VarianceDial(mixes)
    for wanted in itertools.product(*w.knob_values(mixes).values()):
        for term, weight in zip(("clip", "sr", "tc"), wanted):
            dial.controls.knobs[term].value = weight
        own = [m.model.name for m in mixes if tuple(m.weights.values()) == wanted]
        shown = mixes[dial.chosen].model.name
        assert (shown in own) == bool(own) and ("was not trained" in dial.controls.said.value) == (not own) and shown in dial.controls.said.value
        steps = {m.model.name: sum(abs(w.knob_values(mixes)[t].index(m.weights[t]) - w.knob_values(mixes)[t].index(x)) for t, x in zip(("clip", "sr", "tc"), wanted)) for m in mixes}
        assert steps[shown] == min(steps.values())
        assert dial.scale.data[1].x[0] == mixes[dial.chosen].split[1] / mixes[dial.chosen].split[0] and dial.map.layout.title.text == shown


@pytest.mark.parametrize("method, options, weights", [
    ("simclr", {}, (1, 0, 0)), ("iivdr", {}, (1, 1, 1)), ("iivdr", {"terms": ["sr"]}, (0, 1, 0)),
    ("iivdr", {"weights": {"clip": 0.1, "tc": 0.1}}, (0.1, 1, 0.1)), ("iivdr", {"terms": ["clip", "tc"], "weights": {"tc": 2, "sr": 3}}, (1, 0, 2)),
])
def test_the_weights_of_a_run_are_those_that_its_method_uses(method, options, weights) -> None:
    config = read_config(None, data="d", out="o", method=method, **{f"method_options.{key}": value for key, value in options.items()})
    assert tuple(w.loss_weights(config).values()) == weights
    used = create_method(method, create_backbone("small"), **config.method_options)
    if method == "iivdr":
        assert {term: weight for term, weight in w.loss_weights(config).items() if weight} == used.term_weights.final
    with pytest.raises(ValueError, match="moco.*simclr and iivdr"):
        w.loss_weights(read_config(None, data="d", out="o", method="moco"))


# watching a run

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 6.3), st.booleans())
def test_a_map_is_turned_back_onto_itself(seed, angle, mirrored) -> None:
    points = np.random.default_rng(seed).normal(size=(20, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, -1 if mirrored else 1])
    np.testing.assert_allclose(w.turned(points @ turn, points), points, atol=1e-9)


def live(videos, out, **changes):
    keys = {"backbone_options.width": 4, "clips.length": 4, "clips.stride": 3, "clips.size": 16, "batch_size": 8, "tensorboard": False, "epochs": 3, "workers": 0}
    return w.LiveTraining(read_config("laptop", data=str(videos), out=str(out), **keys | changes), per_class=2, n_clips=3)


def test_a_watched_run_can_be_stopped_and_goes_on_to_what_it_would_have_been(tmp_path) -> None:
    videos = render_dataset(tmp_path / "videos", 24, seed=1, n_frames=20, size=(32, 40), actions=("walk", "run", "sit_down"), workers=0, progress=False).parent
    watched = live(videos, tmp_path / "watched")
    watched.train()
    watched.ask_to_stop()
    watched.thread.join()
    assert "stopped after step 1" in watched.status.value and watched.button.description == "train" and len(watched.rows) == 1
    watched.train()
    watched.thread.join()
    assert "finished" in watched.status.value and [row["step"] for row in watched.rows] == list(range(1, len(watched.rows) + 1))
    plain = pretrain(replace(watched.config, out=str(tmp_path / "plain")), progress=False)
    weights = [(run / "checkpoints" / "last" / "model.safetensors").read_bytes() for run in (tmp_path / "watched", plain)]
    assert weights[0] == weights[1], "looking on must not change the run"
    assert [look.epoch for look in watched.looks] == [1, 2, 3] == pd.read_csv(tmp_path / "watched" / "held_out.csv")["epoch"].add(1).tolist()
    for epoch in (2, 1):
        watched.epoch.value = epoch
        np.testing.assert_array_equal(watched.map.data[0].x, watched.looks[epoch - 1].points[:, 0])
    assert watched.scores.data[0].y[-1] == watched.looks[-1].recall and len(watched.pictures()) == 2


def test_a_run_that_cannot_go_on_says_so_on_the_page(tmp_path) -> None:
    videos = render_dataset(tmp_path / "videos", 24, seed=1, n_frames=20, size=(32, 40), actions=("walk", "run", "sit_down"), workers=0, progress=False).parent
    watched = live(videos, tmp_path / "run", batch_size=500)
    watched.train()
    watched.thread.join()
    assert 'role="alert"' in watched.status.value and "500" in watched.status.value and not watched.thread.is_alive()


# one model at several epochs

def grown(name="growing", epochs=(0, 2, 5), shift=0.3):
    base, noise = features(videos=20, clips=3), RNG.normal(size=(20, 3, 8)).astype(np.float32)
    return w.model_over_epochs(name, {e: replace(base, clips=base.clips + shift * e * noise) for e in epochs})


def test_maps_of_epochs_share_one_layout() -> None:
    model = grown()
    maps = dict(w.epoch_maps(model.epochs))
    rows = {e: f.clips.reshape(60, -1).astype(float) for e, f in model.epochs.items()}
    units = {e: x / np.linalg.norm(x, axis=1, keepdims=True) for e, x in rows.items()}
    centred = {e: x - x.mean(0) for e, x in units.items()}
    solved = [np.linalg.lstsq(centred[e], maps[e], rcond=None)[0] for e in maps]
    for e, projection in zip(maps, solved):
        np.testing.assert_allclose(projection, solved[0], atol=1e-6, err_msg=f"epoch {e} has axes or a scale of its own")
    assert max(np.abs(points).max() for points in maps.values()) == pytest.approx(1.0)
    u, s, vt = np.linalg.svd(np.concatenate(list(centred.values())), full_matrices=False)
    assert np.abs(vt[:2] @ solved[0] / np.linalg.norm(solved[0], axis=0)).max(0) == pytest.approx([1, 1], abs=1e-6)
    for how in w.layouts():
        twice = dict(w.epoch_maps({3: model.test, 7: model.test}, how))
        assert np.corrcoef(twice[3].ravel(), twice[7].ravel())[0, 1] > 0.95, f"{how}: what does not change must not move"


def test_the_slider_over_epochs_moves_every_model_that_knows_the_epoch() -> None:
    models = [grown("a", (0, 2, 5)), grown("b", (1, 5)), w.ClipModel("c", grown().test)]
    models[1:] = [replace(m, test=replace(m.test, paths=models[0].test.paths)) if not m.epochs else m for m in models[1:]]
    explorer = w.EmbeddingExplorer(models)
    assert [e for _, e in explorer.controls.epoch.options] == [0, 1, 2, 5] and explorer.controls.epoch.value == 5
    titles = {}
    for _, epoch in explorer.controls.epoch.options:
        explorer.controls.epoch.value = epoch
        titles[epoch] = [f.layout.title.text for f in explorer.figures]
        for m, model in enumerate(models):
            points = w.explorer_points(explorer, m)
            np.testing.assert_array_equal(explorer.figures[m].data[0].x, points[:, 0])
            near = w.neighbours(w.clip_space(model.at(epoch)[1], model.at(epoch)[1]), [explorer.controls.video.value * 3 + explorer.controls.clip.value])
            assert explorer.rows[6 * m : 6 * m + 6] == near.tolist(), "neighbours are those of the epoch that is shown"
    assert titles == {0: ["a, epoch 0", "b, epoch 1", "c"], 1: ["a, epoch 0", "b, epoch 1", "c"], 2: ["a, epoch 2", "b, epoch 1", "c"], 5: ["a, epoch 5", "b, epoch 5", "c"]}
    assert len(explorer.pictures()) == 3
    assert w.EmbeddingExplorer(models[2:]).controls.time.layout.display == "none"


def test_epochs_of_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' looked at other clips after epoch 3"):
        w.model_over_epochs("a", {3: features(5), 4: features(6)})
    with pytest.raises(ValueError, match="no epochs"):
        w.model_over_epochs("a", {})


def test_a_run_folder_brings_its_epochs_unless_other_clips_were_evaluated(tmp_path) -> None:
    model = grown()
    (tmp_path / "config.yaml").write_text("data: d\nout: o\nmethod: iivdr\n")
    with pytest.raises(ValueError, match="no results/features_test.npz"):
        w.run_models([tmp_path])
    for epoch, seen in model.epochs.items():
        seen.save(tmp_path / "results" / "epochs" / f"{epoch:04d}.npz")
    [read] = w.run_models([tmp_path])
    assert list(read.epochs) == [0, 2, 5] and (read.test.clips == model.test.clips).all()
    features(4).save(tmp_path / "results" / "features_test.npz")
    [read] = w.run_models([tmp_path])
    assert not read.epochs and len(read.test) == 4


def test_what_lies_where_it_lay_is_not_sent_again() -> None:
    figure, x, sent = w.go.FigureWidget(), np.arange(5.0), []
    trace = {"type": "scatter", "x": x, "y": x, "marker": {"color": x, "size": 3.0}, "name": "a"}
    w.fill_figure(figure, [trace], {})
    figure._send_update_msg = lambda restyle_data=None, **others: sent.append(restyle_data)
    w.fill_figure(figure, [{**trace, "x": x[:], "marker": {"color": x, "size": 3.0}}], {})
    w.fill_figure(figure, [{**trace, "x": x[::-1]}], {})
    assert [sorted(data) for data in sent if data] == [["x"]] and figure.data[0].x[0] == 4.0


# which clips one model confuses and the other keeps apart

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_clips_that_only_one_model_confuses(seed) -> None:
    rng = np.random.default_rng(seed)
    labels, first, other = rng.integers(0, 3, size=(3, 30))
    found = w.only_confused_by(labels, first, other)
    assert sorted(row for rows in found.values() for row in rows) == [i for i in range(30) if first[i] != labels[i] and other[i] == labels[i]]
    assert all((labels[rows] == a).all() and (first[rows] == b).all() for (a, b), rows in found.items())
    sizes = [len(rows) for rows in found.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_a_clip_is_taken_for_its_nearest_of_another_video() -> None:
    query, gallery = features(5, 2), features(7, 3, name="g")
    space = w.clip_space(query, gallery)
    assert w.taken_for(space).tolist() == [space.gallery_label[w.rank_clips(space, row, 1, own_video=False)[0][0]] for row in range(10)]
    both = w.clip_space(query, query)
    assert w.taken_for(both).tolist() == [both.gallery_label[w.rank_clips(both, row, 1, own_video=False)[0][0]] for row in range(10)]


def test_the_ranking_shows_the_clips_that_only_its_first_model_confuses() -> None:
    one, two = features(8, 2), features(8, 2)
    ranking = w.ClipRankingWidget([w.ClipModel("one", one), w.ClipModel("two", two)])
    ranking.controls.own_video.value = False
    rows = [row for found in w.kept_apart(ranking).values() for row in found]
    assert f"<b>{len(rows)}</b> of 16 clips are confused by one and kept apart by two" in ranking.controls.said.value
    for row in [*rows, *rows[:1]]:
        ranking.controls.apart.click()
        assert ranking.query == row and [found[2][0] for found in ranking.rankings] == ["other", "action"]
    same = w.ClipRankingWidget([w.ClipModel("one", one), w.ClipModel("again", one)])
    assert same.controls.apart.layout.display == "none" and "<b>0</b> of 16" in same.controls.said.value


def test_a_page_that_is_opened_later_gets_the_figures_as_they_are() -> None:
    explorer = w.EmbeddingExplorer([grown()])
    explorer.controls.epoch.value = 0
    explorer._repr_mimebundle_()
    [figure] = w.figures_in(explorer)
    np.testing.assert_array_equal(figure._widget_data[0]["x"], w.explorer_points(explorer, 0)[:, 0])
    assert figure._widget_layout["title"]["text"] == "growing, epoch 0"
    assert len(explorer.describer.words) == 1 and "epoch 0" in explorer.describer.words[0]

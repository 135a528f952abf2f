"""Figures: what they draw of their data, and that they leave nothing behind."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ivdr import plots
from ivdr.shuffle_rank import shuffle_rank_floor

RNG = np.random.default_rng(0)


def video(n=8, height=12, width=16):
    return RNG.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def every_figure():
    gram = np.corrcoef(RNG.normal(size=(4, 9)))
    log = pd.DataFrame({"step": range(50), "loss": 1.0, "sr": 0.65, "clip": 2.0, "weight_sr": 1.0, "weight_clip": 0.0, "step_ms": 3.0})
    return {
        "film_strip": plots.film_strip(video(), marks=range(8), colours=["#ff0000"] * 8, columns=4, title="a"),
        "contact_sheet": plots.contact_sheet([video(), video(3)], ["one", "two"]),
        "clip_timeline": plots.clip_timeline(np.array([[0, 4, 8], [8, 4, 0]]), 9),
        "similarity_matrix": plots.similarity_matrix(gram, borders=[2]),
        "shuffle_rank_matrices": plots.shuffle_rank_matrices(gram, gram),
        "loss_curves": plots.loss_curves(log),
        "embedding_map": plots.embedding_map(RNG.normal(size=(6, 2)), list("aabbcc")),
        "embedding_map by number": plots.embedding_map(RNG.normal(size=(6, 2)), np.linspace(0, 1, 6)),
        "variance_bars": plots.variance_bars({"simclr": (0.4, 0.1)}),
        "metric_bars": plots.metric_bars({"R@1": {"simclr": [0.2, 0.3]}}, {"R@1": 0.1}),
        "ranking_strip": plots.ranking_strip(video(1)[0], video(2), ["action", "other"]),
        "confusion_matrix": plots.confusion_matrix([[3, 1], [0, 4]], ["sit_down", "walk"]),
        "label_curve": plots.label_curve({"simclr": {1: [0.1, 0.2], 10: [0.3]}}, chance=0.1),
    }


@pytest.fixture(scope="module")
def figures():
    return every_figure()


def test_every_figure_can_be_stored_in_every_form(figures, tmp_path):
    for name, figure in figures.items():
        picture = Image.open(io.BytesIO(plots.png(figure, dpi=50)))
        assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 1, f"{name} is blank"
        drawing = plots.svg(figure, "x-")
        assert drawing.startswith("<svg") and drawing.rstrip().endswith("</svg>") and "http" not in drawing
        assert plots.save(figure, tmp_path / "new" / f"{name}.pdf").stat().st_size > 1000


def test_drawings_in_one_page_do_not_share_identifiers(figures):
    figure = figures["embedding_map"]
    drawings = [plots.svg(figure, prefix) for prefix in ("a-", "b-")]
    defined = [set(re.findall(r'\bid="([^"]+)"', drawing)) for drawing in drawings]
    used = [set(re.findall(r'(?:url\(#|href="#)([^")]+)', drawing)) for drawing in drawings]
    assert defined[0] and not defined[0] & defined[1]
    assert used[0] <= defined[0] and used[1] <= defined[1]


def test_drawings_take_the_colours_of_the_page_and_keep_those_of_the_data(figures):
    drawing = plots.svg(figures["variance_bars"])
    assert "var(--ink" in drawing and "var(--grid" in drawing
    assert plots.method_colour("simclr") in drawing
    assert not re.search(rf": {plots.INK}\b", drawing)


def test_pyplot_is_neither_imported_nor_filled():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_plots; test_plots.every_figure();"
        "p = sys.modules.get('matplotlib.pyplot'); assert p is None or not p.get_fignums()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_settings_of_matplotlib_are_left_alone(figures):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for figure in every_figure().values():
        plots.svg(figure)
    assert dict(matplotlib.rcParams) == before


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 13), st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_tile_keeps_every_pixel_in_its_place(n, columns, gap, below):
    frames = video(n, 3, 4)
    canvas = plots.tile(frames, columns, gap, below)
    assert (canvas[..., 3] > 0).sum() == n * 12
    for i, frame in enumerate(frames):
        y, x = (i // columns) * (3 + below + gap), (i % columns) * (4 + gap)
        assert (canvas[y : y + 3, x : x + 4, :3] == frame).all()


def test_loss_curves_show_the_floor_of_the_term_they_draw():
    log = pd.DataFrame({"step": range(30), "sr": np.linspace(0.9, 0.1, 30)})

    def floors(**options):
        axes = next(a for a in plots.loss_curves(log, **options).axes if a.get_title(loc="left") == "shuffle-rank")
        return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() != "-"]

    assert floors() == [pytest.approx(shuffle_rank_floor(2))]
    assert floors(segments=4) == [pytest.approx(shuffle_rank_floor(4))]
    assert floors(floor=0.5) == [0.5]


def test_loss_curves_of_a_log_that_was_read_every_tenth_step():
    values = np.full(200, np.nan)
    values[::10] = 2.0
    figure = plots.loss_curves(pd.DataFrame({"step": range(200), "loss": values, "clip": values}))
    thick = figure.axes[0].lines[-1]
    assert len(thick.get_xdata()) == 20 and np.allclose(thick.get_ydata(), 2.0)


def test_weights_appear_only_where_there_is_something_to_weigh():
    log = pd.DataFrame({"step": range(9), "loss": 1.0, "clip": 1.0, "weight_clip": 1.0})
    titles = [a.get_title(loc="left") for a in plots.loss_curves(log).axes]
    assert titles == ["clip contrast"]
    constant = log.assign(sr=0.6, weight_sr=40.0)
    assert not any(a.get_title(loc="left").startswith("weight") for a in plots.loss_curves(constant).axes), "weights that never change say nothing over time"
    titles = [a.get_title(loc="left") for a in plots.loss_curves(constant.assign(weight_clip=np.linspace(0, 1, 9))).axes]
    assert titles[-1].startswith("weight")


def test_levels_of_a_network_that_tells_nothing_apart_are_drawn_where_they_belong():
    log = pd.DataFrame({"step": range(9), "loss": 1.0, "ll": 2.0, "gl": 20.0})
    panels = {a.get_title(loc="left"): a for a in plots.loss_curves(log, levels={"ll": 1.95}).axes}
    dashed = {title: [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] for title, axes in panels.items()}
    assert dashed == {"total loss": [], "local-local": [1.95], "global-local": []}


def test_smooth_equals_its_slow_form():
    values = RNG.normal(size=40)
    keep = 1 - 1 / 7
    slow = [np.average(values[: t + 1], weights=keep ** np.arange(t, -1, -1)) for t in range(40)]
    assert np.allclose(plots.smooth(values, 7), slow)


def test_metric_bars_show_means_every_seed_and_chance():
    figure = plots.metric_bars({"R@1": {"untrained": [0.1], "iivdr": [0.2, 0.4, 0.3]}}, {"R@1": 0.07})
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.1, 0.3])
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 4
    assert [line.get_ydata()[0] for line in axes.lines] == [0.07]


def test_long_names_move_from_the_axis_to_a_legend():
    names = {"IIVDR (epochs 20, lr 0.1)": [0.3], "simclr": [0.2]}
    figure = plots.metric_bars({"R@1": names, "R@5": {"simclr": [0.5]}})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["IIVDR (epochs 20, lr 0.1)", "SimCLR"]
    assert not any(axes.get_xticklabels() for axes in figure.axes) and not plots.metric_bars({"R@1": {"simclr": [0.2]}}).legends


def test_confusion_matrix_colours_shares_and_writes_counts():
    counts = [[30, 10, 0], [1, 3, 0], [0, 0, 0]]
    axes = plots.confusion_matrix(counts, ["sit_down", "stand_up", "walk"], colour="#0072b2").axes[0]
    assert {(text.get_position()[::-1], text.get_text()) for text in axes.texts} == {((0, 0), "30"), ((0, 1), "10"), ((1, 0), "1"), ((1, 1), "3")}
    assert np.allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 0]]), "a class without videos divides by nothing"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sit down", "stand up", "walk"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_label_curve_draws_means_spread_and_every_draw():
    figure = plots.label_curve({"simclr": {10: [0.3, 0.5], 1: [0.1, 0.2, 0.3]}, "iivdr": {1: [0.4]}}, chance=0.25)
    axes = figure.axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [pytest.approx([20, 40]), pytest.approx([40]), [25, 25]]
    assert [line.get_color() for line in axes.lines[:2]] == [plots.method_colour("simclr"), plots.method_colour("iivdr")]
    assert sum(len(dots.get_offsets()) for dots in axes.collections if hasattr(dots, "get_sizes") and len(dots.get_sizes())) == 6
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(40 + 100 * np.std([0.3, 0.5], ddof=1)) and band.min() == pytest.approx(10)
    assert axes.get_xscale() == "log" and [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]


def test_variance_bars_are_stacked_in_order():
    axes = plots.variance_bars({"untrained": (0.1, 0.2), "iivdr": (0.3, 0.4)}).axes[0]
    assert [round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches] == pytest.approx([0.1, 0.3, 0.3, 0.7])


def test_maps_are_the_same_every_time_and_ignore_the_length_of_features():
    features = RNG.normal(size=(30, 8))
    for how in ("pca", "tsne"):
        one = plots.embed(features, how)
        assert one.shape == (30, 2) and np.abs(one).max() == pytest.approx(1)
        assert np.array_equal(one, plots.embed(features, how))
    assert np.allclose(plots.embed(features), plots.embed(features * RNG.uniform(1, 9, (30, 1))))
    assert plots.embed(np.ones((4, 3))).shape == (4, 2)


def test_numbers_and_names_are_told_apart():
    assert plots.is_categorical(["1", "2"]) and plots.is_categorical([True, False])
    assert not plots.is_categorical([1, 2]) and not plots.is_categorical(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.tile(np.zeros((0, 3, 3, 3), np.uint8), 2),
        lambda: plots.film_strip(video(3), marks=[1, 2]),
        lambda: plots.contact_sheet([video()], ["a", "b"]),
        lambda: plots.clip_timeline(np.array([[0, 9]]), 9),
        lambda: plots.similarity_matrix(np.zeros((2, 3))),
        lambda: plots.shuffle_rank_matrices(np.eye(4), np.eye(6)),
        lambda: plots.loss_curves(pd.DataFrame({"loss": [1.0]})),
        lambda: plots.embedding_map(np.zeros((3, 2)), [1, 2]),
        lambda: plots.embed(np.zeros((5, 3)), "umap"),
        lambda: plots.variance_bars({}),
        lambda: plots.metric_bars({}),
        lambda: plots.confusion_matrix([[1, 2]], ["a", "b"]),
        lambda: plots.confusion_matrix([[1, -2], [0, 1]], ["a", "b"]),
        lambda: plots.label_curve({}),
        lambda: plots.label_curve({"simclr": {0: [0.1]}}),
        lambda: plots.label_curve({"simclr": {120: [0.1]}}),
        lambda: plots.ranking_strip(video(1)[0], video(2), ["action", "friend"]),
    ],
)
def test_wrong_input_is_refused_with_what_was_given(call):
    with pytest.raises(ValueError, match=r"\S"):
        call()

"""Every widget in a real JupyterLab: its controls move its figure, its clips play, and nothing complains."""


def test_clip_sampler(notebook):
    shown = notebook("from ivdr.widgets import ClipSamplerWidget\nsampler = ClipSamplerWidget()\nsampler")
    page = shown.page
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert shown.plays()
    for name in ("place", "stride", "clip length", "centre of clip 2"):
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            shown.slider(name).focus()
            shown.changes(lambda: page.keyboard.press(key))
    shown.changes(lambda: page.get_by_role("button", name="draw another").press("Enter"))
    shown.changes(lambda: page.get_by_role("button", name="TCLR").press("Space"))
    shown.changes(lambda: page.get_by_label("time runs backwards").press("Space"))
    page.get_by_role("cell", name="backwards").first.wait_for()
    assert shown.plays()
    page.get_by_role("button", name="pause the clips").press("Enter")
    page.get_by_role("button", name="play the clips").wait_for()
    frames = shown.frames()
    page.wait_for_timeout(500)
    assert shown.frames() == frames
    page.get_by_role("button", name="play the clips").press("Enter")
    assert shown.plays()


def test_shuffle_rank(notebook):
    shown = notebook("from ivdr.widgets import ShuffleRankWidget\nshuffler = ShuffleRankWidget()\nshuffler")
    page = shown.page
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert shown.plays() and page.locator(".js-plotly-plot").count() == 2
    page.get_by_text("4 of 4").wait_for()
    for name in ("θ", "cap"):
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            shown.slider(name).focus()
            shown.changes(lambda: page.keyboard.press(key))
    shown.changes(lambda: shown.choice("who reads").select_option(label="blind: the same slots for every clip"))
    page.get_by_text("0 of 4").wait_for()
    shown.changes(lambda: shown.choice("order").select_option(label="1 2"))
    shown.changes(lambda: shown.choice("who reads").select_option(label="untrained network"))
    shown.changes(lambda: page.get_by_role("button", name="4", exact=True).press("Enter"))
    for order in ("4 3 2 1", "2 1 4 3"):
        shown.changes(lambda: shown.choice("order").select_option(label=order))
    shown.changes(lambda: shown.choice("who reads").select_option(label="ideal: reads each segment by itself"))
    shown.changes(lambda: page.get_by_label("make all segments equal").press("Space"))
    page.get_by_text("+0.000", exact=True).wait_for()  # what the order costs
    page.get_by_text("the shuffled clip is the clip").wait_for()
    assert shown.plays()


def test_figures_are_as_wide_as_their_boxes(notebook):
    shown = notebook("from ivdr.widgets import ShuffleRankWidget\nshuffler = ShuffleRankWidget()\nshuffler")
    page, seen = shown.page, set[int]()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2")
    for width, reader in ((1280, 2), (560, 0), (1000, 1)):
        page.set_viewport_size({"width": width, "height": 1400})
        page.wait_for_function("""seen => { const all = [...document.querySelectorAll('.js-plotly-plot')].map(p => [p._fullLayout.width, p.parentElement.clientWidth]);
            return all.length === 2 && all.every(([drawn, room]) => Math.abs(drawn - room) < 2) && !seen.includes(all[0][1]); }""", arg=list(seen), timeout=10_000)  # fmt: skip
        seen.add(page.evaluate("document.querySelector('.js-plotly-plot').parentElement.clientWidth"))
        # a figure that was given a height again must still follow
        shown.changes(lambda reader=reader: shown.choice("who reads").select_option(index=reader))


def test_clip_ranking(notebook):
    shown = notebook("from ivdr.widgets import ClipRankingWidget\nranking = ClipRankingWidget()\nranking")
    page = shown.page
    page.wait_for_function("[...document.querySelectorAll('button.ivdr-film canvas')].filter(c => c.dataset.frame).length === 10", timeout=60_000)
    assert shown.plays()
    for name in ("clip", "k"):
        for key in ("ArrowLeft", "ArrowRight", "ArrowRight"):
            shown.slider(name).focus()
            shown.changes(lambda: page.keyboard.press(key), "filmprint")
    shown.changes(lambda: page.get_by_label("may find its own video").press("Space"), "filmprint")
    assert page.get_by_text("= same video").count() == 0
    shown.changes(lambda: page.get_by_label("minus the gallery's mean").press("Space"), "filmprint")
    for _ in range(3):
        shown.changes(lambda: page.get_by_role("button", name="another query").press("Enter"), "filmprint")
    found = page.locator("button.ivdr-film").nth(2)
    action = found.locator("b").inner_text()[2:]
    shown.changes(found.click, "filmprint")
    assert page.locator("figure.ivdr-film b").inner_text() == action
    page.get_by_text("confused by SimCLR and kept apart by").wait_for()
    shown.changes(lambda: page.get_by_role("button", name="show one of these").press("Enter"), "filmprint")
    assert page.locator("button.ivdr-film b").first.inner_text().startswith("✗") and page.locator("button.ivdr-film b").nth(6).inner_text().startswith("✓")
    shown.changes(lambda: page.locator("button.ivdr-film").nth(7).press("Enter"), "filmprint")
    assert shown.plays()


def test_embedding_explorer(notebook):
    shown = notebook("from ivdr.widgets import EmbeddingExplorer, sample_models\nexplorer = EmbeddingExplorer(sample_models())\nexplorer")
    page = shown.page
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2", timeout=60_000)
    page.wait_for_function("[...document.querySelectorAll('button.ivdr-film canvas')].filter(c => c.dataset.frame).length === 12", timeout=60_000)
    assert shown.plays()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        shown.slider("clip").focus()
        shown.changes(lambda: page.keyboard.press(key))
    for name in ("scene", "time in the video", "person"):
        shown.changes(lambda: shown.choice("colour").select_option(label=name))
    where = page.evaluate("""() => { const g = document.querySelector('.js-plotly-plot'), t = g.data[0], l = g._fullLayout, b = g.getBoundingClientRect();
        const at = i => [b.left + l.margin.l + l.xaxis.l2p(t.x[i]) , b.top + l._size.t + l.yaxis.l2p(t.y[i])]; return [at(3), at(60)]; }""")
    page.mouse.move(*where[0])
    page.wait_for_timeout(600)
    shown.changes(lambda: page.mouse.click(*where[1]))
    left = page.locator(".js-plotly-plot").first.bounding_box()

    def lasso():
        x, y, w, h = left["x"], left["y"], left["width"], left["height"]
        corners = [(x + 0.3 * w, y + 0.3 * h), (x + 0.7 * w, y + 0.3 * h), (x + 0.7 * w, y + 0.7 * h), (x + 0.3 * w, y + 0.7 * h), (x + 0.3 * w, y + 0.32 * h)]
        page.mouse.move(*corners[0])
        page.mouse.down()
        for corner in corners[1:]:
            page.mouse.move(*corner, steps=4)
        page.mouse.up()

    lasso()
    page.get_by_text("selected clips").first.wait_for()
    chosen = page.evaluate("[...document.querySelectorAll('.js-plotly-plot')].map(g => g.data[0].selectedpoints.length)")
    assert chosen[0] > 0 and chosen[0] == chosen[1], "what is selected in one map is selected in the other"
    page.get_by_role("button", name="select nothing").press("Enter")
    page.get_by_text("nearest to this clip").first.wait_for()
    shown.changes(lambda: page.locator("button.ivdr-film").first.press("Enter"))
    shown.changes(lambda: shown.choice("map").select_option(label="t-SNE"))
    assert shown.plays()


def test_variance_dial(notebook):
    shown = notebook("from ivdr.widgets import VarianceDial\ndial = VarianceDial()\ndial")
    page = shown.page
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3", timeout=60_000)
    for name in ("contrast between videos", "shuffle-rank"):
        for key in ("ArrowRight", "ArrowLeft"):
            shown.slider(name).focus()
            page.keyboard.press(key)
            page.wait_for_timeout(200)
    shown.slider("shuffle-rank").focus()
    shown.changes(lambda: page.keyboard.press("ArrowRight"))
    shown.slider("contrast between videos").focus()
    shown.changes(lambda: page.keyboard.press("ArrowLeft"))
    page.get_by_text("SR alone").first.wait_for()
    for name in ("scene", "time in the video"):
        shown.changes(lambda: shown.choice("colour").select_option(label=name))


def test_live_training(notebook):
    shown = notebook("from ivdr.widgets import LiveTraining\nlive = LiveTraining(per_class=1)\nlive")
    page = shown.page
    page.get_by_role("button", name="train").press("Enter")
    page.get_by_role("button", name="stop").wait_for()
    page.get_by_text("iteration").wait_for(timeout=60_000)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3", timeout=60_000)
    before = page.get_by_text("iteration").inner_text()
    page.wait_for_function("text => ![...document.querySelectorAll('*')].some(e => e.innerText === text)", arg=before, timeout=30_000)
    page.get_by_role("button", name="stop").press("Enter")
    page.get_by_text("goes on from there").wait_for(timeout=30_000)
    page.get_by_role("button", name="train").wait_for()


def test_maps_over_epochs(notebook):
    shown = notebook("""from ivdr.widgets import *
import numpy as np
from dataclasses import replace
known = sample_models()[0].test
noise = np.random.default_rng(0).normal(size=known.clips.shape).astype("float32") * known.clips.std()
EmbeddingExplorer([model_over_epochs("growing", {e: replace(known, clips=known.clips + (5 - e) * noise) for e in (1, 3, 5)})])""")
    page = shown.page
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
    page.get_by_text("growing, epoch 5").wait_for()
    for key, epoch in (("ArrowLeft", 3), ("ArrowLeft", 1), ("ArrowRight", 3)):
        shown.slider("epoch of training").focus()
        shown.changes(lambda: page.keyboard.press(key))
        page.get_by_text(f"growing, epoch {epoch}").wait_for()
    page.locator(".jupyter-widget-play button, .widget-play button").first.press("Enter")
    page.get_by_text("growing, epoch 5").wait_for(timeout=10_000)


def test_everything_is_reached_by_the_tab_key_and_has_words(notebook):
    shown = notebook("""from ivdr.widgets import *
from IPython.display import display
display(ClipSamplerWidget(), ShuffleRankWidget(), ClipRankingWidget(), EmbeddingExplorer())""")
    page = shown.page
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5", timeout=90_000)
    page.wait_for_function("[...document.querySelectorAll('button.ivdr-film')].length >= 22", timeout=60_000)
    page.wait_for_function("[...document.querySelectorAll('.js-plotly-plot')].every(p => p.getAttribute('role') === 'img' && p.getAttribute('aria-label').length > 20)")
    assert page.evaluate("[...document.querySelectorAll('.ivdr-film canvas')].every(c => c.getAttribute('aria-label').trim().length > 3)")
    wanted = page.evaluate("""() => { const all = [...document.querySelectorAll('.ivdr :is(button, select, input, .noUi-handle)')].filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0);
        all.forEach((e, i) => { e.dataset.stop = i; }); all[0].focus(); window.unseen = [];
        document.addEventListener('focusin', e => { const s = getComputedStyle(e.target); if (e.target.dataset.stop && s.outlineStyle === 'none' && s.boxShadow === 'none') window.unseen.push(e.target.outerHTML.slice(0, 90)); });
        return all.length; }""")
    controls = page.evaluate("document.querySelectorAll('.ivdr :is(.widget-slider, .widget-dropdown, .widget-checkbox)').length")
    reached = {page.evaluate("document.activeElement.dataset.stop")}
    for _ in range(wanted + 40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement?.dataset?.stop ?? null"))
    lost = page.evaluate("reached => [...document.querySelectorAll('[data-stop]')].filter(e => !reached.includes(e.dataset.stop)).map(e => e.outerHTML.slice(0, 90))", [r for r in reached if r])
    assert wanted > controls > 20 and not lost, lost
    assert page.evaluate("window.unseen") == [], "focus must be seen"
    player = page.get_by_role("button", name="pause the clips").first
    player.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="play the clips").first.wait_for()

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
    assert page.locator("text=backwards").count() and shown.plays()
    page.get_by_role("button", name="pause the clips").press("Enter")
    page.get_by_role("button", name="play the clips").wait_for()
    frames = shown.frames()
    page.wait_for_timeout(500)
    assert shown.frames() == frames
    page.get_by_role("button", name="play the clips").press("Enter")
    assert shown.plays()

"""The page for the class, served by voila: no code, its controls move what they should, and nobody gets in without the token."""

import urllib.request


def test_the_class_page_is_shown_and_answers(classroom, class_page):
    with urllib.request.urlopen(classroom.address, timeout=20) as answer:
        assert "/login" in answer.url, "without the token there is only the way to log in"
    page = class_page.page
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3", timeout=120_000)
    page.wait_for_function("[...document.querySelectorAll('button.ivdr-film canvas')].filter(c => c.dataset.sheet).length >= 15", timeout=60_000)
    assert page.get_by_text("study_models()").count() == 0, "a class sees no code"
    for key in ("ArrowLeft", "ArrowRight", "ArrowRight"):
        class_page.slider("k").focus()
        class_page.changes(lambda: page.keyboard.press(key), "filmprint")
    class_page.changes(lambda: page.get_by_role("button", name="another query").press("Enter"), "filmprint")
    for name in ("scene", "person"):
        class_page.changes(lambda: class_page.choice("colour").select_option(label=name))
    class_page.changes(lambda: class_page.choice("video").select_option(index=20))
    assert class_page.plays()

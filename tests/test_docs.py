"""The documentation site holds every lesson and every name, leads nowhere wrong, and needs nothing from elsewhere."""

import ast
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from documentation import ROOT, shared_site

sys.path.insert(0, str(ROOT / "docs"))
ROOMS = {path.stem[3:]: path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))}
LOADING = {"script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"), "video": ("src", "poster"), "object": ("data",)}


class Page(HTMLParser):
    "What a page says and where it leads."

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.ids, self.links, self.loads, self.pictures, self.words = path, set[str](), list[str](), list[str](), list[dict[str, str]](), list[str]()
        self.source = path.read_text(encoding="utf-8")
        self.mute = False
        self.feed(self.source)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.mute = tag in ("script", "style")
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.pictures += [given] if tag == "img" else []
        self.loads += [given[name] for name in LOADING.get(tag, ()) if name in given]

    def handle_endtag(self, tag: str) -> None:
        self.mute = self.mute and tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.words += [] if self.mute else [data]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    "Every page of the site by its address."
    site = shared_site(tmp_path_factory).resolve()
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_nothing_comes_from_elsewhere(pages: dict[str, Page]) -> None:
    outside = {name: [place for place in page.loads if re.match(r"(https?:)?//", place)] for name, page in pages.items()}
    assert not {name: places for name, places in outside.items() if places}
    for style in next(iter(pages.values())).path.parent.rglob("*.css"):
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", style.read_text(encoding="utf-8")), style
    for page in pages.values():
        missing = [place for place in page.loads if not place.startswith("data:") and not (page.path.parent / unquote(place.split("?")[0].split("#")[0])).exists()]
        assert not missing, (page.path, missing)


def test_links_lead_somewhere(pages: dict[str, Page]) -> None:
    site, wrong = pages["index.html"].path.parent, []
    for name, page in pages.items():
        for link in page.links:
            place, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", link):
                continue
            target = (page.path.parent / place).resolve() if place else page.path
            known = pages.get(target.relative_to(site).as_posix()) if target.is_relative_to(site) else None
            if not target.exists() or anchor and known and anchor not in known.ids:
                wrong.append((name, link))
    assert not wrong, wrong[:20]


def test_every_lesson_is_listed_beside_every_page(pages: dict[str, Page]) -> None:
    lists = {name for name in pages if not name.startswith(("search", "genindex", "py-modindex"))}
    assert {"index.html", "CONTRIBUTING.html", "api/index.html", "walkthroughs/99_specimen.html", *(f"{path.stem}.html" for path in ROOMS.values()), *(f"api/{room}.html" for room in ROOMS)} <= lists
    listed = re.sub(r"\s+", " ", pages["index.html"].text)
    for room, path in ROOMS.items():
        assert f"{path.stem}.html" in pages["index.html"].links and f"{path.stem[:2]} {room}" in listed
    assert "walkthroughs/99_specimen.html" in pages["index.html"].links and "api/index.html" in pages["index.html"].links


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_explained(pages: dict[str, Page], room: str) -> None:
    tree = ast.parse((ROOT / "ivdr" / f"{room}.py").read_text())
    public = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    page = pages[f"api/{room}.html"]
    assert public and not [name for name in public if f"ivdr.{room}.{name}" not in page.ids]
    squeezed = re.sub(r"\s", "", page.text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public and (said := ast.get_docstring(node)):
            assert re.sub(r"[\s`]", "", said.split("\n")[0]) in squeezed.replace("`", ""), f"the docstring of {node.name}"


def rows(page: Page, name: str) -> list[list[str]]:
    "The table of arguments below a name, as words."
    body = page.source[page.source.index(f'id="{name}"') :]
    table = body[body.index("<table") : body.index("</table>")]
    return [[" ".join(re.sub(r"<[^>]+>", "", cell).split()) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.S)] for row in re.findall(r"<tr.*?</tr>", table, re.S)]


def test_arguments_stand_in_one_table(pages: dict[str, Page]) -> None:
    assert rows(pages["api/shuffle_rank.html"], "ivdr.shuffle_rank.shuffle_rank") == [
        ["", "type", "meaning, shape, unit", "default"],
        ["reference", "Tensor", "(B, S, d) raw segment features of a clip in true order", ""],
        ["shuffled", "Tensor", "(B, S, d) raw segment features of the shuffled clip, already unshuffled", ""],
        ["theta", "float", "θ, the softness of the comparison", "0.05"],
        ["max_logit", "float | None", "cap on difference / θ, above which the gradient is zero; None: no cap", "5.0"],
        ["returns", "Tensor", "scalar, unweighted: the mean over all comparisons", ""],
    ]
    fields = {row[0]: row[1:] for row in rows(pages["api/training.html"], "ivdr.training.ClipConfig")}
    assert fields["length"] == ["int", "frames", "16"] and fields["frame_size"][0] == "tuple[int, int] | None"
    assert {row[0]: row[-1] for row in rows(pages["api/training.html"], "ivdr.training.TrainConfig")}["clips"] == "ClipConfig()"


def cells_of(pages: dict[str, Page]) -> Iterator[tuple[str, str]]:
    "Each notebook's page, and its words."
    for name in pages:
        if re.search(r"\d\d_\w+\.html$", name):
            yield name, pages[name].text


def test_directives_and_hidden_cells_are_gone(pages: dict[str, Page]) -> None:
    for name, words in cells_of(pages):
        assert not re.search(r"#\s?\|\s?(export|hide|default_exp|slow|echo|fig-alt)", words), name
    words = pages["walkthroughs/99_specimen.html"].text
    assert "HIDDEN" not in words and "UNSEEN" not in words and "a result" in words


def test_pictures_have_words_of_their_own(pages: dict[str, Page]) -> None:
    shown = {name: [picture["alt"] for picture in page.pictures] for name, page in pages.items()}
    assert sum(map(len, shown.values())) > 100
    for name, words in shown.items():
        assert not [alt for alt in words if not alt.strip() or re.search(r"\.(png|jpe?g|svg)$|[`*$\\]", alt)], name
        assert len(words) == len(set(words)), f"two pictures of {name} are called the same"
    assert shown["walkthroughs/99_specimen.html"] == ["a panel in <teal>", "a first of two", "A specimen. It ends.", "A specimen. It ends. (2)"]


@pytest.mark.parametrize(("source", "prose", "words"), [
    ("#| fig-alt: 'a ring'\nshow(x, 'other')", "Seen here:", "a ring"),
    ("show(x, 'a ring')", "Seen here:", "a ring"),
    ("Image(stacked(x), alt='a ring')", "", "a ring"),
    ("axis.set_title('Loss of $x_1$'); axis.set(xlabel='step')", "## Head\n\nA first sentence of the text. A second one follows, with `code` and [a link](x.md):", "Head. Loss of x_1; step. A second one follows, with code and a link."),
    ("strips(rows, ['one', 'two'], 'three')", "$$ a = b $$\n\n* a list", "Head. one; two; three."),
    ("%matplotlib inline", "Why?", "Head. Why?"),
])  # fmt: skip
def test_what_is_said_of_a_picture(source: str, prose: str, words: str) -> None:
    lessons = pytest.importorskip("lessons")
    said, source = lessons.directives(source)
    picture = nbformat.v4.new_output("display_data", {"image/png": "", "text/plain": "<Figure size 1x1>"})
    assert lessons.spoken(nbformat.v4.new_code_cell(source, outputs=[picture]), said, "Head", prose) == words


def test_a_page_without_a_kernel_keeps_its_figures(pages: dict[str, Page]) -> None:
    specimen = pages["walkthroughs/99_specimen.html"]
    assert 'aria-label="a line that a slider lifts"' in specimen.source and "WIDGET WITHOUT" not in specimen.text and "widget-view" not in specimen.source
    drawing = {name for name, page in pages.items() if any("plotly" in place for place in page.loads)}
    assert "walkthroughs/99_specimen.html" in drawing
    assert all('class="plotly-figure"' in pages[name].source for name in drawing), "only pages with such a figure load plotly"


def test_names_are_links_and_words_are_not(pages: dict[str, Page]) -> None:
    specimen = pages["walkthroughs/99_specimen.html"]
    assert "../api/shuffle_rank.html#ivdr.shuffle_rank.shuffle_rank" in specimen.links
    assert {"../07_shuffle_rank.html", "../CONTRIBUTING.html"} <= {urldefrag(link).url for link in specimen.links}
    assert not [link for link in specimen.links if "manifest" in link or link.endswith(".train")] and "the samples" in specimen.text
    lesson = pages["07_shuffle_rank.html"]
    assert any(link.startswith("../07_shuffle_rank.html#lesson-shuffle-rank") for link in pages["api/shuffle_rank.html"].links)
    assert "api/shuffle_rank.html" in {urldefrag(link).url for link in lesson.links}


def test_directives_are_parted_from_the_source() -> None:
    pytest.importorskip("fastcore")
    lessons = pytest.importorskip("lessons")
    assert lessons.directives("#| export\n#|slow\nx = 1\n#| not one") == ({"export": "", "slow": ""}, "x = 1\n#| not one")
    assert lessons.directives('#| fig-alt: "a: b"\n\ny')[0] == {"fig-alt": '"a: b"'}
    assert lessons.directives("#| default_exp video") == ({"default_exp": "video"}, "")
    assert lessons.directives("") == ({}, "")


def test_links_out_of_the_notebooks_become_words(tmp_path: Path) -> None:
    lessons = pytest.importorskip("lessons")
    nbs = tmp_path / "nbs"
    walks = nbs / "walkthroughs"
    walks.mkdir(parents=True)
    assert lessons.relinked("[r](../../README.md) [a](../../RULES.md#x) [b](../00_video.ipynb) [c](https://x.org/a) [d](../../ivdr/video.py) ![e](../i.png)", walks, nbs) == "[r](../index.ipynb) [a](../RULES.md#x) [b](../00_video.ipynb) [c](https://x.org/a) d ![e](../i.png)"

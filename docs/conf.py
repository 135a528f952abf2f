"""How Sphinx shows the pages that `make.py` lays out. Nothing that a page needs comes from elsewhere."""

import re
import sys
from configparser import ConfigParser
from importlib.metadata import files
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference import public_names  # noqa: E402

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(HERE.parent / "settings.ini", encoding="utf-8")
facts = parser["DEFAULT"]

project = facts["name"]
release = version = facts["version"]
author = copyright = facts["author"]
extensions = ["myst_nb", "sphinx.ext.mathjax"]
smartquotes = False  # "none" is a value, not a quotation

nb_execution_mode = "off"  # the committed outputs are shown
nb_ipywidgets_js: dict[str, Any] = {}
nb_merge_streams = True
nb_render_markdown_format = "myst"  # outputs of Markdown may hold tables and formulas, as in a notebook
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block"]
myst_heading_anchors = 4

# formulas: MathJax in one file, drawn as SVG, so that no fonts are needed; its menu would fetch more
mathjax_file = next(Path(str(file.locate())) for file in files("sphinx-mathjax-offline") or [] if file.name == "tex-svg-full.js")
mathjax_path = mathjax_file.name
mathjax3_config = {"options": {"enableMenu": False}}

html_theme = "furo"
html_title = project
html_short_title = project
html_static_path = ["static", str(mathjax_file), str(resources("plotly") / "package_data" / "plotly.min.js")]
html_css_files = ["style.css"]
html_js_files = ["page.js"]
html_copy_source = html_show_sphinx = html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00507f", "color-brand-content": "#00609a", "color-brand-visited": "#00609a"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ee", "color-brand-content": "#7cc4ee", "color-brand-visited": "#7cc4ee"},
}
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "github-dark"
add_module_names = False
toc_object_entries_show_parents = "hide"

PUBLIC = public_names()


def within(node: nodes.Node | None, kinds: Any) -> bool:
    "Whether a node lies in one of these kinds."
    return node is not None and (isinstance(node, kinds) or within(node.parent, kinds))


class NamesAreLinks(SphinxTransform):
    "A public name in backticks leads to its page of the reference."

    default_priority = 400

    def apply(self, **options: Any) -> None:
        room = self.env.docname.split("/")[-1]
        room = room[3:] if re.match(r"\d\d_", room) else room
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().strip()
            meant = PUBLIC.get(name.removesuffix("()"), [])
            own = [full for full in meant if full.startswith(f"ivdr.{room}.")]
            word = name.islower() and name.isalpha()  # `train` may be a split, a folder or the function: one writes train()
            if len(own or meant) != 1 or word or within(literal, nodes.reference | nodes.title | addnodes.pending_xref):
                continue
            full = (own or meant)[0]
            link = addnodes.pending_xref("", refdomain="py", reftype="mod" if full.count(".") == 1 else "obj", reftarget=full, refdoc=self.env.docname, refexplicit=True, refwarn=True)
            literal.replace_self(link)
            link += literal


def draw_figures(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    "Pages with an interactive figure, and only they, load plotly."
    if 'class="plotly-figure"' in context.get("body", ""):
        app.add_js_file("plotly.min.js", priority=400)


def setup(app: Sphinx) -> None:
    app.add_transform(NamesAreLinks)
    app.connect("html-page-context", draw_figures)

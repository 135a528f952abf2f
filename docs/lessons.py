"""Notebooks as pages: directives taken off, hidden cells left out, figures given words and their interactive form."""

import ast
import json
import os
import re
from html import escape
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from reference import names_of

DIRECTIVE = re.compile(r"#\s*\|\s*([\w-]+):?\s*(.*)")
LINK = re.compile(r"(?<!\!)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def directives(
    source: str,  # a code cell's
) -> tuple[dict[str, str], str]:  # nbdev's directives with their values; the rest of the source
    "Part what is said to nbdev from what is said to Python."
    said: dict[str, str] = {}
    lines = source.splitlines()
    while lines and (not lines[0].strip() or DIRECTIVE.match(lines[0])):
        if match := DIRECTIVE.match(lines.pop(0)):
            said[match[1]] = match[2]
    return said, "\n".join(lines)


def spoken(
    cell: NotebookNode,  # with its outputs
    said: dict[str, str],  # its directives
    section: str,  # the heading it stands under
) -> str:  # what a screen reader says of the cell's pictures
    "Alternative text: the notebook's own where it gives one, else the name of the section."
    own = [said.get("fig-alt", "").strip("\"'"), *(output.get("metadata", {}).get(kind, {}).get("alt", "") for output in cell.outputs for kind in PICTURES)]
    return "; ".join(dict.fromkeys(filter(None, own))) or f"Figure to “{section}”"


def shown(
    outputs: list[NotebookNode],  # of a cell
    words: str,  # what a screen reader says of its figures
) -> list[NotebookNode]:
    "Outputs as a page without a kernel can show them; `static/page.js` draws plotly's figures."
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if PLOTLY in data:
            figure = json.dumps(data[PLOTLY]).replace("</", r"<\/")
            output.data = NotebookNode({"text/html": f'<div class="plotly-figure" role="group" aria-label="{escape(words)}"><script type="application/json">{figure}</script></div>'})
        elif WIDGET in data:
            del data[WIDGET]
            if not set(data) - {"text/plain"}:
                continue
        kept.append(output)
    return kept


def relinked(
    text: str,  # Markdown
    folder: Path,  # where it stands
    nbs: Path,  # the folder that becomes the site
) -> str:
    "Links to pages of the checkout lead to the site's; links to what the site does not hold become words."

    def follow(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if target.is_relative_to(nbs.resolve()):
            return match[0]
        if target.suffix != ".md" or target.parent != nbs.resolve().parent:
            return match[1]
        page = nbs / ("index.ipynb" if target.stem == "README" else target.name)  # the pages beside the notebooks' folder lie in it on the site
        return f"[{match[1]}]({os.path.relpath(page, folder)}{match[3] or ''})"

    return LINK.sub(follow, text)


def names_in(source: str) -> list[str]:
    "What a cell defines."
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line for IPython
        return []
    return [name for node in body for name in names_of(node)]


def page(
    path: Path,  # a notebook
    nbs: Path,  # the folder of all notebooks
    room: str = "",  # the module it exports, if it does
) -> tuple[NotebookNode, dict[str, tuple[str, str]]]:  # the notebook to show; what it defines: the label of the cell and the section's title
    "A notebook as the site shows it."
    notebook, section = nbformat.read(path, 4), path.stem
    cells: list[NotebookNode] = []
    defined: dict[str, tuple[str, str]] = {}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, path.parent, nbs)
            section = next(reversed(re.findall(r"^#+ (.*)", cell.source, re.M)), section)
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        said, cell.source = directives(cell.source)
        words = spoken(cell, said, section)
        cell.outputs = [] if said.get("output") == "false" or "hide_output" in said else shown(cell.outputs, words)
        if "hide" in said or not (cell.source.strip() or cell.outputs):
            continue
        if said.get("echo") == "false" or "hide_input" in said:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
        cell.metadata["mystnb"] = {"image": {"alt": words}}
        if room and {"export", "exports", "exporti"} & set(said):
            label = f"lesson-{room}-{number}".replace("_", "-")
            defined |= dict.fromkeys(names_in(cell.source), (label, section))
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "library"]
            cells.append(nbformat.v4.new_markdown_cell(f"({label})=", id=f"label-{number}"))
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata.pop("widgets", None)
    if room:
        first = cells[0]
        first.source += f"\n\n:::{{container}} room\nLibrary: [ivdr.{room}](api/{room}.md), made of the cells with a coloured edge · Notebook: `nbs/{path.name}`\n:::"
    return notebook, defined


def toctree(
    caption: str,  # above the list
    entries: list[str],  # pages, as MyST's toctree wants them
) -> str:
    "A list for the side of the page."
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""])

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


def said_in_code(
    source: str,  # a cell's, without directives
) -> tuple[list[str], list[str]]:  # descriptions given to its figures: `alt="..."`, or the words of `show(figure, "...")`; what is written in them
    "What the cell itself says of its pictures."
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line for IPython
        return [], []
    words, written = [], []
    for call in (node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
        given = [(word.arg or "", word.value) for word in call.keywords]
        given += [("alt" if name == "show" else name, argument) for argument in call.args[name == "show" :]]
        texts = [(kind, value.value) for kind, value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        words += [text for kind, text in texts if kind == "alt"]
        written += [text for kind, text in texts if kind.removeprefix("set_") in ("title", "suptitle", "label", "xlabel", "ylabel")]
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    if isinstance(last, ast.Call):  # of the notebook's own drawing functions: rows' names and a caption
        for argument in last.args:
            parts = argument.elts if isinstance(argument, ast.List) else [argument]
            written += [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return words, list(dict.fromkeys(plain_words(text) for text in written))


def plain_words(
    markdown: str,  # a paragraph, or a label of a figure
) -> str:
    "A text as one would say it."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(markdown.split()))
    text = re.sub(r"\$([^$]*)\$", lambda formula: re.sub(r"\\(cal|bf|rm|text|hat|bar|tilde|math\w*|big|Big|left|right|,|;|!)|[{}\\]", "", formula[1]), text)
    return re.sub(r"[`*]|(?<!\w)_|_(?!\w)", "", text).strip()


def introduced(
    prose: str,  # the Markdown above a cell
) -> str:  # "" where nothing but headings, formulas, lists and tables stand there
    "The sentence that leads to a picture: the last one of the prose above it."
    kept = re.sub(r"\$\$.*?\$\$|^```.*?^```|<[^>]+>", "", prose, flags=re.S | re.M)
    paragraphs = [part for part in re.split(r"\n\s*\n", kept) if re.match(r"\s*(?![#|>]|[*-] |\d+\. )\S", part)]
    sentences = re.split(r"(?<=[.?!:])\s+(?=[A-Z*`(])", plain_words(paragraphs[-1])) if paragraphs else [""]
    return next((said for n in range(1, len(sentences)) if len(said := " ".join(sentences[-n:])) >= 30), " ".join(sentences))


def spoken(
    cell: NotebookNode,  # with its outputs
    said: dict[str, str],  # its directives
    section: str,  # the heading it stands under
    prose: str = "",  # the Markdown above it
) -> str:  # what a screen reader says of the cell's pictures
    "Alternative text: the notebook's own (`#| fig-alt:`, or words in the code), else the section, a panel's name or what is written in the picture, and the sentence that leads to it."
    own = [said.get("fig-alt", "").strip("\"'"), *(output.get("metadata", {}).get(kind, {}).get("alt", "") for output in cell.outputs for kind in PICTURES)]
    words, written = said_in_code(cell.source)
    if found := list(dict.fromkeys(filter(None, own))) or words:
        return "; ".join(found)
    panels = [match[1] for output in cell.outputs if (match := re.match(r"[A-Z]\w+: (.+)", output.get("data", {}).get("text/plain", "")))]
    drawn = "; ".join([panel[0].upper() + panel[1:] for panel in panels] or written)
    parts = [plain_words(re.sub(r"\s*\{.*\}$", "", section)), drawn, introduced(prose)]
    return " ".join(part if part[-1] in ".?!" else f"{part.rstrip(':,')}." for part in parts if part)


def told_apart(
    words: str,  # of a picture
    before: set[str],  # what was said of the pictures before it on the page; the words are added
) -> str:
    "No two pictures of a page are called the same."
    number, told = 2, words
    while told in before:
        told, number = f"{words} ({number})", number + 1
    before.add(told)
    return told


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
    notebook, section, prose = nbformat.read(path, 4), path.stem, ""
    cells: list[NotebookNode] = []
    defined: dict[str, tuple[str, str]] = {}
    before: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, path.parent, nbs)
            section = next(reversed(re.findall(r"^#+ (.*)", cell.source, re.M)), section)
            prose = cell.source
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        said, cell.source = directives(cell.source)
        if "hide" in said:
            continue
        if said.get("output") == "false" or "hide_output" in said:
            cell.outputs = []
        words = spoken(cell, said, section, prose)
        if said.get("echo") == "false" or "hide_input" in said:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
        if room and {"export", "exports", "exporti"} & set(said):
            label = f"lesson-{room}-{number}".replace("_", "-")
            defined |= dict.fromkeys(names_in(cell.source), (label, section))
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "library"]
            cells.append(nbformat.v4.new_markdown_cell(f"({label})=", id=f"label-{number}"))
        for part in one_picture_each(cell):
            if any(is_picture(output) for output in part.outputs):
                part.metadata["mystnb"] = {"image": {"alt": (told := told_apart(words, before))}}
                part.outputs = shown(part.outputs, told)
            else:
                part.outputs = shown(part.outputs, "")
            if part.source.strip() or part.outputs:
                cells.append(part)
    notebook.cells = cells
    notebook.metadata.pop("widgets", None)
    if room:
        first = cells[0]
        first.source += f"\n\n:::{{container}} room\nLibrary: [ivdr.{room}](api/{room}.md), made of the cells with a coloured edge · Notebook: `nbs/{path.name}`\n:::"
    return notebook, defined


def one_picture_each(
    cell: NotebookNode,  # with its outputs
) -> list[NotebookNode]:  # the cell, and one whose source is not shown for each picture after the first
    "A cell of the page shows one picture at most, so that each has words of its own (a cell without any source would be dropped)."
    parts: list[list[NotebookNode]] = [] if cell.outputs else [[]]
    for output in cell.outputs:
        if not parts or is_picture(output) and any(is_picture(other) for other in parts[-1]):
            parts.append([])
        parts[-1].append(output)
    cell.outputs = parts[0]
    more = [nbformat.v4.new_code_cell("...", outputs=part, metadata={"tags": ["remove-input"]}, id=f"{cell.id}-{number}") for number, part in enumerate(parts[1:], 2)]
    return [cell, *more]


def is_picture(output: NotebookNode) -> bool:
    "Whether a reader looks at an output."
    return any(kind in output.get("data", {}) for kind in (*PICTURES, PLOTLY))


def doors(
    walks: list[str],  # the walkthroughs' pages
    rooms: dict[str, Path],  # the rooms' notebooks by the name of their modules
) -> str:
    "Three ways in, for the site's first page."
    ways = [("Begin here", walks[0], "walkthroughs: look, move, train; with exercises")] if walks else []
    ways += [("Understand it", next(iter(rooms.values())).stem, "lessons: one notebook a room, idea, formula and code"), ("Look it up", "api/index.md", "reference: every name, its arguments, shapes and units")]
    boxes = [f":::{{container}}\n[{head}]({place if place.endswith('.md') else place + '.ipynb'})\n\n{words[0].upper()}{words[1:]}.\n:::" for head, place, words in ways]
    return "\n".join(["::::{container} doors", *boxes, "::::"])


def toctree(
    caption: str,  # above the list
    entries: list[str],  # pages, as MyST's toctree wants them
) -> str:
    "A list for the side of the page."
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""])

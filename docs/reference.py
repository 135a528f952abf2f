"""The reference: a page a room, every public name with one table of its arguments, read from the library's own source."""

import ast
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from fastcore.docments import docments

ROOT = Path(__file__).parents[1]
SPOKEN = {"__call__", "__len__", "__getitem__", "__iter__"}  # the methods with underscores that a user meets
Row = tuple[str, str, str, str]  # of the table of arguments: name, type, meaning, default
HEADS: Row = ("", "type", "meaning, shape, unit", "default")


def rooms(
    nbs: Path = ROOT / "nbs",  # the folder of the lessons
) -> dict[str, Path]:  # module's name to its notebook, in reading order
    "The rooms of the house."
    return {path.stem[3:]: path for path in sorted(nbs.glob("[0-9][0-9]_*.ipynb"))}


def public_names() -> dict[str, list[str]]:  # a name, with or without its module, to the full names it may mean
    "Every public name of the library, read without importing it."
    found: dict[str, list[str]] = {}
    for room in rooms():
        found[f"ivdr.{room}"] = [f"ivdr.{room}"]
        for name in exported(ast.parse((ROOT / "ivdr" / f"{room}.py").read_text(encoding="utf-8"))):
            full = f"ivdr.{room}.{name}"
            for spelling in (name, f"{room}.{name}", full):
                found.setdefault(spelling, []).append(full)
    return found


def exported(tree: ast.Module) -> list[str]:
    "What a module lists in `__all__`, in the order of the lesson."
    return next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")


def names_of(node: ast.stmt) -> list[str]:
    "What a statement at the top of a module gives a name to."
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def plain(text: str | None) -> str:
    "Words of a comment or docstring as Markdown that shows them as they are; what stands in backticks stays code."
    parts = re.split(r"(`[^`]+`)", " ".join((text or "").split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_\[\]<>$|{}~#])", r"\\\1", part) for part in parts)


def code(text: str) -> str:
    "Source as code within a line of Markdown, in a table too."
    return f"`` {text} ``".replace("|", r"\|") if text else ""


def shortened(text: str, most: int) -> str:
    "The head of a long value."
    return text if len(text) <= most else f"{text[:most]} …"


def documented(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    "Docstring as paragraphs."
    return [plain(part) + "\n" for part in re.split(r"\n\s*\n", ast.get_docstring(node) or "") if part]


def default_of(value: ast.expr | None) -> str:
    "A default as one would write it in a call."
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field":
        given = {word.arg: ast.unparse(word.value) for word in value.keywords}
        made = given.get("default_factory", "")
        fresh = {"": "", "list": "[]", "dict": "{}", "tuple": "()"}.get(made) or made.removeprefix("lambda: ") + "()" * (not made.startswith("lambda"))
        return given.get("default", fresh if made else "")
    return shortened(ast.unparse(value), 60) if value is not None else ""


def arguments(
    node: ast.FunctionDef,  # a function's source
    bound: bool,  # leave out `self` or `cls`
) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:  # name with its stars, type, default
    "The arguments of a function in their order."
    given = node.args
    plain_ones = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(plain_ones) - len(given.defaults))
    for one, default in list(zip(plain_ones, [*defaults, *given.defaults], strict=True))[bound:]:
        yield one.arg, one.annotation, default
    if given.vararg:
        yield f"*{given.vararg.arg}", given.vararg.annotation, None
    yield from ((one.arg, one.annotation, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True))
    if given.kwarg:
        yield f"**{given.kwarg.arg}", given.kwarg.annotation, None


def words_of(live: Any) -> dict[str, str | None]:
    "The comments beside arguments or fields."
    with warnings.catch_warnings(action="ignore"):  # the parser also reads docstrings inherited from other libraries, and stumbles over some
        return {name: one.docment for name, one in (docments(live, full=True, args_kwargs=True) or {}).items()}


def row(name: str, kind: ast.expr | None, words: str | None, default: ast.expr | None) -> Row:
    "An argument or a field."
    return code(name), code(ast.unparse(kind) if kind else ""), plain(words), code(default_of(default))


def table(rows: list[Row]) -> list[str]:
    "The one table of arguments; a column that nothing fills is left out."
    kept = [column for column in range(4) if column == 0 or any(row[column] for row in rows)]
    if not rows or len(kept) == 1:
        return []
    lines = ["| " + " | ".join(row[column] for column in kept) + " |" for row in (HEADS, *rows)]
    lines.insert(1, "|" + " --- |" * len(kept))
    return [":::{table}", f":class: arguments {' '.join('has-' + HEADS[column].split(',')[0] for column in kept[1:])}", "", *lines, ":::", ""]


def called(node: ast.FunctionDef, live: Any, bound: bool) -> tuple[str, list[Row]]:
    "How a function is called, and what its arguments are."
    words, asked = words_of(live), list(arguments(node, bound))
    call = ", ".join(name + (f"={shortened(ast.unparse(default), 40)}" if default is not None else "") for name, _, default in asked)
    rows = [row(name, kind, words.get(name.lstrip("*")), default) for name, kind, default in asked]
    if node.returns and (ast.unparse(node.returns) != "None" or words.get("return")):
        rows.append(("*returns*", *row("", node.returns, words.get("return"), None)[1:]))
    return f"({call})", rows


def fenced(kind: str, signature: str, room: str, body: list[str], marks: Set[str] = frozenset(), inner: bool = False) -> list[str]:
    "A directive around a description."
    fence = ":" * (5 if inner else 6)
    return [f"{fence}{{py:{kind}}} {signature}", f":module: ivdr.{room}", *(f":{mark}:" for mark in sorted(marks & {"classmethod", "staticmethod"})), "", *body, fence, ""]


def function(node: ast.FunctionDef, live: Any, room: str, owner: str = "", where: str = "") -> list[str]:
    "A function, or a method of its owner."
    marks = {ast.unparse(mark).split("(")[0].split(".")[-1] for mark in node.decorator_list}
    target = inspect.unwrap(getattr(live, "fget", None) or getattr(live, "func", None) or getattr(live, "__func__", None) or live)
    call, rows = called(node, target, bound=bool(owner) and "staticmethod" not in marks)
    kind = "property" if marks & {"property", "cached_property"} else "method" if owner else "function"
    signature = (f"{owner}." if owner else "") + node.name + ("" if kind == "property" else call)
    return fenced(kind, signature, room, [*documented(node), *table(rows), where], marks, bool(owner))


def described_class(node: ast.ClassDef, live: type, room: str, where: str) -> list[str]:
    "A class: what makes one, its fields, its methods."
    methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef) and not any(ast.unparse(mark).endswith(".setter") for mark in part.decorator_list)}
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not part.target.id.startswith("_")]
    words = words_of(live) if "__dataclass_fields__" in vars(live) else {}
    body, call = documented(node), ""
    if node.bases:
        body += [f"Extends {', '.join(code(ast.unparse(base)) for base in node.bases)}." + "\n"]
    if "__init__" in methods:
        call, rows = called(methods["__init__"], vars(live)["__init__"], bound=True)
        body += table(rows)
    body += table([row(name := ast.unparse(part.target), part.annotation, words.get(name), part.value) for part in fields]) + [where, ""]
    for name, method in methods.items():
        if not name.startswith("_") or name in SPOKEN:
            body += function(method, vars(live)[name], room, node.name)
    return fenced("class", node.name + call, room, body)


def page(
    room: str,  # a module's name
    lesson: str,  # address of its lesson, as seen from the page
    defining: dict[str, tuple[str, str]],  # a name to the cell of the lesson that defines it: its label, and the title of its section
) -> str:  # Markdown
    "The reference of a room."
    module: ModuleType = importlib.import_module(f"ivdr.{room}")
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    tree = ast.parse(source)
    nodes: dict[str, ast.stmt] = {}
    for node in tree.body:
        nodes = dict.fromkeys(names_of(node), node) | nodes
    lines = [f"# ivdr.{room}", "", f"> {plain(module.__doc__)}", "", f"Every public name of the room, in the order of its lesson, [{lesson.split('/')[-1].removesuffix('.ipynb')}]({lesson}).", "",
             f":::{{py:module}} ivdr.{room}", ":no-index-entry:", ":::", ""]
    for name in exported(tree):
        definition, live = nodes[name], getattr(module, name)
        label, title = defining.get(name, ("", ""))
        where = f"{{.taught}}\nLesson: [{plain(title)}](#{label})\n" if label else ""
        if isinstance(definition, ast.FunctionDef):
            lines += function(definition, live, room, where=where)
        elif isinstance(definition, ast.ClassDef):
            lines += described_class(definition, live, room, where)
        else:
            written = (ast.get_source_segment(source, definition) or "").splitlines()
            body = ["```python", *written[:8], *["..."] * (len(written) > 8), "```", "", where]
            lines += fenced("data", name, room, body)
    return "\n".join(lines) + "\n"


def contents(nbs: Path) -> str:
    "The reference's first page."
    rows = []
    for room in rooms(nbs):
        sentence = ast.get_docstring(ast.parse((ROOT / "ivdr" / f"{room}.py").read_text(encoding="utf-8"))) or ""
        rows.append(f"| [ivdr.{room}]({room}.md) | {plain(sentence)} |")
    entries = "\n".join(rooms(nbs))
    return f"# Reference\n\nWhat every name means: arguments with their shapes and units, what comes back, and the source of each formula. The lessons say why.\n\n| room | what it is for |\n| --- | --- |\n{chr(10).join(rows)}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"

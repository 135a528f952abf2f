"""Build the documentation: `python docs/make.py` writes `_docs/index.html` from the notebooks and the library, and runs nothing."""

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).parents[1]
BESIDE = [path for path in sorted(ROOT.glob("*.md")) if path.stem != "README"]  # the index is the README
sys.path[:0] = [str(ROOT / "docs"), str(ROOT)]

import lessons  # noqa: E402
import reference  # noqa: E402

CLASS_PAGE = "walkthroughs/class_page.ipynb"  # to be served with a kernel, by `make class`


def stage(
    nbs: Path,  # the notebooks
    stage: Path,  # a folder that becomes the site's source
) -> None:
    "Lay out all pages: notebooks as they lie in their folder, the reference, and what stands beside them."
    rooms = reference.rooms(nbs)

    def page(name: str, text: str) -> None:
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text(text, encoding="utf-8")

    for path in sorted(nbs.rglob("*")):
        name = path.relative_to(nbs)
        if path.is_dir() or any(part.startswith(".") for part in name.parts) or name.as_posix() == CLASS_PAGE:
            continue
        if path.suffix != ".ipynb":
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, stage / name)
            continue
        room = path.stem[3:] if path.stem[3:] in rooms and path.parent == nbs else ""
        notebook, defined = lessons.page(path, nbs, room)
        if name.as_posix() == "index.ipynb":
            walks = [f"walkthroughs/{walk.stem}" for walk in sorted((nbs / "walkthroughs").glob("[0-9]*.ipynb"))]
            trees = [lessons.toctree("Walkthroughs", walks)] if walks else []
            trees += [lessons.toctree("Lessons", [f"{lesson.stem[:2]} {named} <{lesson.stem}>" for named, lesson in rooms.items()]),
                      lessons.toctree("Look up", ["api/index", *(path.stem for path in BESIDE)])]  # fmt: skip
            notebook.cells.append(nbformat.v4.new_markdown_cell("\n".join(trees), id="contents"))
            first = notebook.cells[0]
            first.source = first.source.replace("\n## ", f"\n{lessons.doors(walks, rooms)}\n\n## ", 1)
        page(str(name), nbformat.writes(notebook))
        if room:
            page(f"api/{room}.md", reference.page(room, f"../{path.name}", defined))
    page("api/index.md", reference.contents(nbs))
    for path in BESIDE:
        page(path.name, path.read_text(encoding="utf-8"))


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nbs", type=Path, default=ROOT / "nbs", help="the notebooks")
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="the site")
    asked = parser.parse_args()
    if asked.out.exists() and any(asked.out.iterdir()) and not (asked.out / ".buildinfo").exists():
        parser.error(f"{asked.out} holds something else than a site; give a new or an empty folder")
    with TemporaryDirectory(prefix="ivdr-docs-") as work:
        source, site = Path(work) / "source", Path(work) / "site"
        stage(asked.nbs.resolve(), source)
        failed = sphinx(["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", f"{work}/doctrees", str(source), str(site)])
        if not failed:
            shutil.rmtree(asked.out, ignore_errors=True)
            shutil.move(site, asked.out)
            print(asked.out.resolve() / "index.html")
    return failed


if __name__ == "__main__":
    sys.exit(main())

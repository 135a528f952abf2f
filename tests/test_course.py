"""The course: marks are as they should be, wrong answers lose their own points, strangers' code gets nothing, nothing leaks or is overwritten."""

import ast
import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ivdr import cli
from ivdr import course as room
from ivdr.course import Course, IsolationError, Limits, Sandboxes, build, check, execute, find_submissions, grade, leaks, open_course, repaired, status

ROOT = Path(__file__).parents[1]
ASSIGNMENTS = open_course(ROOT / "course").names
QUICK = Limits(cell=3, total=60, memory=1)


@pytest.fixture(scope="module")
def boxes() -> Iterator[Sandboxes]:
    "Sandboxes, where this machine lets them be made."
    if not shutil.which("unshare") or subprocess.run(["unshare", "--user", "--net", "--mount", "true"]).returncode:
        pytest.skip("this machine lets no user namespaces be made: nothing can be graded in isolation")
    with Sandboxes(Limits(cell=60, memory=1)) as opened:
        yield opened


def tag(cell: Any) -> dict[str, Any]:
    return dict(cell.metadata.get("nbgrader", {}))


def checks(notebook: Any) -> dict[str, str]:
    "The checks of an assignment by name."
    return {tag(cell)["grade_id"]: cell.source for cell in notebook.cells if tag(cell).get("grade") and not tag(cell).get("solution")}


def answered(notebook: Any, **answers: str) -> Any:
    "A notebook with some of its cells replaced."
    changed = deepcopy(notebook)
    for cell in changed.cells:
        cell.source = answers.get(tag(cell).get("grade_id", ""), cell.source)
    return changed


def without_pictures(notebook: Any) -> Any:
    "An assignment without the cells that only draw: no check may need them, and they take most of the time."
    bare = deepcopy(notebook)
    bare.cells = [cell for cell in bare.cells if cell.cell_type != "code" or tag(cell).get("grade") or tag(cell).get("solution") or tag(cell).get("grade_id") == "setup"]
    return bare


# ---------------------------------------------------------------- the assignments


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return open_course(ROOT / "course", tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def students(desk: Course, tmp_path_factory: pytest.TempPathFactory) -> Path:
    "What students get, of all assignments."
    out = tmp_path_factory.mktemp("built") / "students"
    assert build(out, desk) == ASSIGNMENTS
    return out


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_form_of_an_assignment(desk: Course, name: str) -> None:
    source = desk.source(name)
    head = source.cells[0].source
    assert all(word in head for word in ("difficulty", "minutes", "importance", "walkthrough")), "its head says what it asks of a student"
    assert sum("<details>" in cell.source for cell in source.cells) >= 1, "hints unfold"
    exercises: dict[str, set[str]] = {}
    for cell in source.cells:
        mine = tag(cell)
        if mine.get("grade") or mine.get("solution"):
            exercise = re.sub("-(visible|hidden)$", "", mine["grade_id"])
            exercises.setdefault(exercise, set()).add("manual" if mine["grade"] and mine["solution"] else "answer" if mine["solution"] else mine["grade_id"].removeprefix(exercise))
    parts = list(exercises.values())
    assert 2 <= len(parts) <= 6 and {"manual"} in parts, "exercises, one of them a picture or question for a person"
    assert all(part in ({"manual"}, {"answer", "-visible", "-hidden"}) for part in parts), exercises
    for check_name, text in checks(source).items():
        asserts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
        assert asserts and all(node.msg is not None for node in asserts), f"{check_name}: every check says what is wrong"
        assert not check_name.endswith("-hidden") or room._split_source(text)[0].startswith("# "), f"{check_name}: students find an empty cell and are not told what it is for"
    points = f"{sum(tag(cell).get('points', 0) for cell in source.cells):g}"
    assert re.search(rf"\b{points}\b", head), f"the head says that there are {points} points"


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_solution_has_full_marks_and_the_blank_none(desk: Course, students: Path, boxes: Sandboxes, name: str) -> None:
    source = desk.source(name)
    ran = execute(source, lambda: boxes.open(desk.folder / "source" / name), boxes.limits)
    assert ran.verdicts.keys() == checks(source).keys() and not any(ran.verdicts.values()), ran.verdicts
    assert not ran.words
    errors = [output for cell in ran.notebook.cells if cell.cell_type == "code" for output in cell.outputs if output.output_type == "error"]
    assert not errors
    blank = nbformat.read(students / name / f"{name}.ipynb", 4)
    mended, words = repaired(blank, desk.released(name))
    assert not words and [cell.source for cell in mended.cells] == [cell.source for cell in blank.cells], "what is handed out needs no repair"
    filled = room._with_checks(without_pictures(blank), source)
    assert all(execute(filled, lambda: boxes.open(desk.folder / "source" / name), boxes.limits).verdicts.values()), "no check passes on an empty page"


# The mutants of an assignment are graded by swapping cells: a sandbox runs the whole solution once, as `grade` does; then each mutant is a check of
# its own, in a fork of that state as all checks are, that puts its answer over the right one and runs every check there.
SWAP = """
import json as _json
exec(compile({answer!r}, "<answer>", "exec"), globals())
_lost = dict()
for _name, _check in {checks!r}.items():
    try: exec(compile(_check, "<check>", "exec"), globals())
    except BaseException as _error: _lost[_name] = f"{{type(_error).__name__}}: {{_error}}"
print("\\n" + _json.dumps(_lost))
"""


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_mutants_lose_the_points_of_their_exercise_and_only_those(desk: Course, boxes: Sandboxes, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = desk.source(name)
    mutants = yaml.safe_load((ROOT / "course/mutants" / f"{name}.yaml").read_text())
    answers = {tag(cell)["grade_id"] for cell in source.cells if tag(cell).get("solution") and not tag(cell).get("grade")}
    assert mutants.keys() == answers, "every exercise has its wrong answers"
    box = boxes.open(desk.folder / "source" / name)
    for cell in without_pictures(source).cells:
        if cell.cell_type == "code" and not tag(cell).get("grade"):
            box.run(cell.source, False, 60)
    table = []
    for exercise, wrong in mutants.items():
        assert len(wrong.keys() - {"hard-coded"}) >= 5 and "hard-coded" in wrong, f"{exercise}: five typical mistakes and a copy of the visible values"
        for title, answer in wrong.items():
            ran = box.run(SWAP.format(answer=answer, checks=checks(source)), True, 60)
            assert "shown" in ran and "text" in ran["shown"][-1], f"{exercise}, {title}: {ran}"
            lost = json.loads(ran["shown"][-1]["text"].splitlines()[-1])
            table.append(f"{name:16s} {exercise:20s} {title[:44]:44s} {' '.join(sorted(name.removeprefix(exercise + '-') for name in lost))}")
            assert lost, f"{exercise}: '{title}' passes every check"
            assert all(re.sub("-(visible|hidden)$", "", check) == exercise for check in lost), f"{exercise}: '{title}' loses points elsewhere: {lost}"
            if title == "hard-coded":
                assert f"{exercise}-hidden" in lost, f"{exercise}: the visible values are enough for the hidden checks"
    box.close()
    with capsys.disabled():
        print("", *table, sep="\n")


def test_grading_the_shipped_assignments_by_command(desk: Course, students: Path, boxes: Sandboxes, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    "The whole way, on the first assignment: `ivdr course grade`, nbgrader's gradebook, tables, pages."
    name = ASSIGNMENTS[0]
    source, blank = desk.source(name), desk.released(name)
    mutants = yaml.safe_load((ROOT / "course/mutants" / f"{name}.yaml").read_text())
    hard = answered(source, **{exercise: wrong["hard-coded"] for exercise, wrong in mutants.items()})
    one = answered(source, **{(first := next(iter(mutants))): next(iter(mutants[first].values()))})
    for student, notebook in {"knows": source, "blank": blank, "copies": hard, "one-mistake": one}.items():
        (tmp_path / student / name).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / student / name / f"{name}.ipynb")
    assert cli.main(["course", "grade", str(tmp_path), "--course", str(desk.folder), "--desk", str(desk.desk), "--cell-seconds", "60", "--seconds", "600"]) == 0
    said = capsys.readouterr().out
    assert "namespaces" in said and "s a submission" in said and all(exercise in said for exercise in mutants)
    assert not caplog.records, "nbgrader's log is no business of an instructor's"
    rows = list(csv.DictReader((desk.desk / "grades.csv").open()))
    auto = {student: {(row["exercise"], row["part"]): float(row["points"]) for row in rows if row["student"] == student and row["part"] != "manual"}
            for student in ("knows", "blank", "copies", "one-mistake")}
    full = {(row["exercise"], row["part"]): float(row["of"]) for row in rows if row["student"] == "knows" and row["part"] != "manual"}
    assert auto["knows"] == full and not any(auto["blank"].values())
    assert not any(points for (_, part), points in auto["copies"].items() if part == "hidden")
    assert {key for key in full if auto["one-mistake"][key] < full[key]} <= {(first, "visible"), (first, "hidden")} and auto["one-mistake"] != full
    assert name in status(desk) and cli.main(["course", "status", "--course", str(desk.folder), "--desk", str(desk.desk)]) == 0


def test_nothing_of_solutions_or_hidden_checks_is_handed_out(desk: Course, students: Path) -> None:
    "By another way than `build` itself looks: names, strings and lines of the closed parts, against everything in the tree."
    assert not leaks(students, desk)
    tree = {path: path.read_text("utf-8", "replace") for path in students.rglob("*") if path.is_file()}
    assert not [path for path in tree if "mutant" in path.name or path.suffix in (".yaml", ".db")]
    for name in ASSIGNMENTS:
        parts = [room._split_source(cell.source) for cell in desk.source(name).cells if cell.cell_type == "code"]
        opened, closed = "\n".join(part[0] for part in parts), "\n".join(part[1] for part in parts)
        assert closed.strip(), "there is something to look for"
        handed = "\n".join(cell.source for cell in nbformat.read(students / name / f"{name}.ipynb", 4).cells)
        tokens = {word for word in re.findall(r"[A-Za-z_]\w+", closed) if word not in set(re.findall(r"[A-Za-z_]\w+", opened))}
        prose = {word for cell in desk.source(name).cells if cell.cell_type != "code" for word in re.findall(r"[A-Za-z_]\w+", room._split_source(cell.source)[0])}
        assert not (tokens - prose) & set(re.findall(r"[A-Za-z_]\w+", handed)), name
        for text in tree.values():
            assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text
            assert not [line for line in closed.splitlines() if len(line.strip()) > 24 and line.strip() in text and line.strip() not in opened]


def test_a_leak_is_found_and_nothing_is_handed_out(small: Course, tmp_path: Path) -> None:
    source = tmp_path / "course/source/01_tiny"
    source.mkdir(parents=True)
    nbformat.write(tiny(), source / "01_tiny.ipynb")
    (source / "hints.txt").write_text("perhaps twofold = x + x?")
    (tmp_path / "desk").mkdir()
    shutil.copy(small.desk / "gradebook.db", tmp_path / "desk")  # making one takes seconds
    with pytest.raises(ValueError, match="twofold"):
        build(tmp_path / "out", open_course(tmp_path / "course", tmp_path / "desk"))
    assert not (tmp_path / "out").exists()


def test_build_changes_no_file_that_is_there(small: Course, tmp_path: Path) -> None:
    build(tmp_path, small)
    mine = tmp_path / "01_tiny/01_tiny.ipynb"
    build(tmp_path, small)
    mine.write_text(mine.read_text().replace("YOUR CODE HERE", "my work"))
    (tmp_path / "README.md").unlink()
    before = mine.read_bytes()
    with pytest.raises(ValueError, match="nothing was written"):
        build(tmp_path, small)
    assert mine.read_bytes() == before and not (tmp_path / "README.md").exists()


def test_versions_are_pinned(students: Path) -> None:
    lines = (students / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("ivdr[lab]==") for line in lines) and any(line.startswith("torch==") for line in lines)
    assert all("==" in line for line in lines)


def test_students_get_the_package_or_are_told_where_it_comes_from(small: Course, tmp_path: Path) -> None:
    (wheel := tmp_path / "ivdr-9.9-py3-none-any.whl").write_bytes(b"a package")
    build(tmp_path / "with", small, wheel=wheel)
    assert (tmp_path / "with" / wheel.name).read_bytes() == b"a package"
    lines = (tmp_path / "with/requirements.txt").read_text().splitlines()
    assert f"./{wheel.name}[lab]" in lines and not [line for line in lines if line.startswith("ivdr")]
    build(tmp_path / "without", small)
    asks = [".whl" in (tmp_path / tree / "README.md").read_text() for tree in ("with", "without")]
    assert asks == [False, True]
    with pytest.raises(ValueError, match="must be a wheel of this package"):
        build(tmp_path / "other", small, wheel=tmp_path / "numpy-2.0.whl")


# ---------------------------------------------------------------- hostile submissions, on an assignment small enough to run often


def graded_cell(name: str, source: str, points: float = 0, solution: bool = False, locked: bool = True, kind: Any = new_code_cell) -> Any:
    mine = {"grade": points > 0, "grade_id": name, "locked": locked and not solution, "schema_version": 3, "solution": solution, "task": False}
    return kind(source, metadata={"nbgrader": mine | ({"points": points} if points else {})})


def tiny() -> Any:
    "An assignment of two exercises and a question."
    hidden = "### BEGIN HIDDEN TESTS\n{}\n### END HIDDEN TESTS"
    answer = "def {}(x):\n    ### BEGIN SOLUTION\n    {}\n    ### END SOLUTION"
    return new_notebook(metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}, cells=[
        graded_cell("setup", "import numpy as np"),
        graded_cell("double", answer.format("double", "twofold = x + x\n    return twofold"), solution=True),
        graded_cell("double-visible", "assert double(2) == 4, f'double(2) is {double(2)}, not 4'", 1),
        graded_cell("double-hidden", hidden.format("assert np.allclose(double(31337), 62674), 'larger numbers are doubled too'"), 2),
        graded_cell("half", answer.format("half", "return x / 2"), solution=True),
        graded_cell("half-visible", "assert half(2) == 1, f'half(2) is {half(2)}, not 1'", 1),
        graded_cell("half-hidden", hidden.format("assert half(3) == 1.5, 'half of an odd number is not whole'"), 2),
        graded_cell("why", "### BEGIN SOLUTION\nBecause.\n### END SOLUTION", 1, solution=True, kind=new_markdown_cell)])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Course:
    folder = tmp_path_factory.mktemp("small")
    (folder / "course/source/01_tiny").mkdir(parents=True)
    nbformat.write(tiny(), folder / "course/source/01_tiny/01_tiny.ipynb")
    course = open_course(folder / "course", folder / "desk")
    build(folder / "students", course)
    return course


def solved(**answers: str) -> Any:
    "A student's notebook with right answers but where others are given."
    right = {"double": "def double(x):\n    return 2 * x", "half": "def half(x):\n    return x / 2", "why": "Why not?"}
    blank = tiny()
    for cell in blank.cells:
        cell.source = room._split_source(cell.source)[0]
    return answered(blank, **{**right, **answers})


def with_cell(source: str, at: int = 1) -> Any:
    notebook = solved()
    notebook.cells.insert(at, new_code_cell(source))
    return notebook


def without(*names: str) -> Any:
    notebook = solved()
    notebook.cells = [cell for cell in notebook.cells if tag(cell)["grade_id"] not in names]
    return notebook


def doubled(name: str) -> Any:
    notebook = solved()
    notebook.cells.append(deepcopy(next(cell for cell in notebook.cells if tag(cell)["grade_id"] == name)))
    return notebook


def kernel(name: str, language: str) -> Any:
    notebook = solved()
    notebook.metadata = {"kernelspec": {"name": name, "language": language, "display_name": name}, "language_info": {"name": language}}
    return notebook


def garbled() -> Any:
    notebook = solved()
    for cell, mine in zip(notebook.cells, ("text", {"grade_id": 7}, {"grade_id": "double", "points": "many", "grade": "perhaps"})):
        cell.metadata["nbgrader"] = mine
    return notebook


BOMB = "def double(x):\n    held = []\n    while True: held.append(bytearray(2**26))"
MANY = "def double(x):\n    import os, time\n    while os.fork(): pass\n    time.sleep(60)"
FORKED = "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n        held = bytearray(os.urandom(2**20)) * 400\n        time.sleep(60)\ntime.sleep(60)"
# what is handed in; points of double and of half; what the notes must say
HOSTILE: dict[str, tuple[Any, float, float, str]] = {
    "fine": (solved(), 3, 3, ""),
    "loop in a function": (solved(double="def double(x):\n    while True:\n        try: pass\n        except BaseException: pass"), 0, 3, "'double-visible' was stopped: it took longer"),
    "loop in a cell": (with_cell("while True: pass"), 3, 3, "'number 1' was stopped: it took longer"),
    "memory in a function": (solved(double=BOMB), 0, 3, ""),
    "memory of many": (with_cell(FORKED), 3, 3, "'number 1' was stopped: it took"),  # more memory, or on a busy machine too long before it has that much
    "many processes": (solved(double=MANY), 0, 3, ""),
    "check deleted": (without("double-visible"), 3, 3, "'double-visible' was missing: put back"),
    "hidden check deleted": (without("half-hidden"), 3, 3, "'half-hidden' was missing: put back"),
    "answer deleted": (without("double"), 0, 3, "'double' was missing"),
    "everything deleted": (without(*(tag(cell)["grade_id"] for cell in tiny().cells if tag(cell)["grade_id"] != "half")), 0, 3, "'double-hidden' was missing"),
    "check twice": (doubled("double-visible"), 3, 3, "'double-visible' is there more than once"),
    "answer twice": (doubled("half"), 3, 3, "'half' is there more than once"),
    "check changed": (solved(**{"double": "def double(x):\n    return 5", "double-visible": "assert True"}), 0, 3, "'double-visible' was changed: put back"),
    "crash": (with_cell("import ctypes; ctypes.string_at(0)", 3), 3, 3, "was stopped: it ended the process"),
    "exit": (solved(double="import os, sys\ndef double(x):\n    os._exit(0)"), 0, 3, "'double-visible' was stopped: it ended the process"),
    "error in a cell": (with_cell("1 / 0"), 3, 3, ""),
    "syntax": (solved(double="def double(x) return"), 0, 3, ""),
    "R": (kernel("ir", "R"), 3, 3, "kernel for R"),
    "garbled tags": (garbled(), 3, 3, "was missing"),
    "replaced": (solved(double="np.allclose = lambda *a: True\ndef double(x):\n    return 4"), 1, 3, "replaced numpy.allclose"),
    "prints": (solved(double="def double(x):\n    print('x' * 10**7)\n    return 2 * x"), 3, 3, ""),
    "warns": (solved(double="def double(x):\n    import warnings\n    warnings.warn('careful')\n    return 2 * x"), 3, 3, ""),
    "kills its parents": (solved(double="def double(x):\n    import os\n    os.kill(os.getppid(), 9)\n    os.kill(-1, 9)\n    return 4"), 0, 3, ""),
}
SPY = """
import glob, os, socket
found = []
for place in PLACES:
    try: found.append(open(place).read())
    except OSError: pass
found += [path for path in glob.glob("/tmp/**", recursive=True) + glob.glob("/home/**", recursive=True) if "/student" not in path and path not in ("/tmp/", "/home/")]
for place in PLACES:
    try: open(place, "w").write("gone")
    except OSError: pass
for address in (("127.0.0.1", PORT), ("10.0.0.1", 80)):
    try:
        socket.create_connection(address, 1)
        found.append("network")
    except OSError: pass
for number in range(3, 64):
    try: found.append(os.readlink(f"/proc/self/fd/{number}"))
    except OSError: pass
print("FOUND", found)
"""
LEARNS = """
SEEN = []
def double(x):
    import sys
    if x == 31337:
        SEEN.append(sys._getframe(1).f_code.co_consts)
        open("/home/student/work/seen.txt", "a").write(repr(SEEN))
        raise ValueError(f"SEEN {x}")
    return 2 * x
"""


@pytest.fixture(scope="module")
def class_of_strangers(small: Course, boxes: Sandboxes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path, list[str]]]:
    "All of them graded at once; results by student, their folder, and connections that somebody opened."
    folder, calls, server = tmp_path_factory.mktemp("class"), list[str](), socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                calls.append(str(server.accept()[1]))
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    for student, (notebook, *_) in HOSTILE.items():
        (folder / student / "01_tiny").mkdir(parents=True)
        nbformat.write(notebook, folder / student / "01_tiny/01_tiny.ipynb")
    for student, data in {"broken": b'{"cells": [', "binary": bytes(range(256)), "empty": b"", "a list": b"[]"}.items():
        (folder / student).mkdir()
        (folder / student / "01_tiny.ipynb").write_bytes(data)
    (folder / "renamed").mkdir()
    nbformat.write(solved(), folder / "renamed/Untitled (3).ipynb")
    (folder / "linked/01_tiny").mkdir(parents=True)
    (folder / "linked/01_tiny/01_tiny.ipynb").symlink_to(folder / "fine/01_tiny/01_tiny.ipynb")
    secret = small.folder / "source/01_tiny/01_tiny.ipynb"
    places = [str(path) for path in (secret, small.desk / "gradebook.db", folder / "fine/01_tiny/01_tiny.ipynb", Path(__file__), "/etc/passwd")]
    spy = f"PLACES, PORT = {places}, {server.getsockname()[1]}\n{SPY}"
    for student, notebook in {"spy": solved(double=f"{spy}\ndef double(x): return 2 * x"), "learns": solved(double=LEARNS)}.items():
        notebook.cells.append(new_code_cell("import os\nprint('LATER', globals().get('SEEN'), os.path.exists('seen.txt'))"))
        (folder / student / "01_tiny").mkdir(parents=True)
        nbformat.write(notebook, folder / student / "01_tiny/01_tiny.ipynb")
    (folder / "spy/01_tiny/link.txt").symlink_to(secret)
    before = fingerprint(folder) | fingerprint(small.folder)
    results = {one.submission.student: one for one in grade(folder, small, limits=QUICK, jobs=2, boxes=boxes)}
    server.close()
    assert fingerprint(folder) | fingerprint(small.folder) == before, "a submission, a source or a solution was changed"
    yield results, folder, calls


def fingerprint(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file() and "desk" not in path.parts}


@pytest.mark.parametrize("student", HOSTILE)
def test_a_hostile_submission_is_graded_to_its_end(class_of_strangers: Any, student: str) -> None:
    result, (_, double, half, words) = class_of_strangers[0][student], HOSTILE[student]
    assert result.exercises["double"] == (double, 3) and result.exercises["half"] == (half, 3), (result.scores, result.words)
    assert any(words in line for line in result.words) or not words, result.words


@pytest.mark.parametrize("student", ["broken", "binary", "empty", "a list"])
def test_what_is_no_notebook_has_no_points_and_a_word(class_of_strangers: Any, student: str) -> None:
    result = class_of_strangers[0][student]
    assert not any(points for points, _ in result.exercises.values()) and "not a notebook" in result.words[0]


def test_a_wrong_file_name_is_seen_through_and_a_link_is_not_followed(class_of_strangers: Any) -> None:
    results = class_of_strangers[0]
    assert results["renamed"].exercises["half"] == (3, 3) and "wrong file name" in results["renamed"].words[0]
    assert "linked" not in results


def test_a_submission_gets_nothing_of_the_machine(class_of_strangers: Any, small: Course) -> None:
    results, _, calls = class_of_strangers
    text = (small.desk / "autograded/spy/01_tiny/01_tiny.ipynb").read_text()
    assert "FOUND []" in text and not calls
    assert results["spy"].exercises["double"] == (3, 3) and any("link.txt" in words for words in results["spy"].words)
    assert not (small.desk / "submitted/spy/01_tiny/link.txt").exists()


def test_hidden_checks_are_not_carried_out(class_of_strangers: Any, small: Course) -> None:
    graded_notebook = nbformat.read(small.desk / "autograded/learns/01_tiny/01_tiny.ipynb", 4)
    assert "LATER [] False" in graded_notebook.cells[-1].outputs[0].text, "what a submission picked up in a check is gone with the check"
    page = (small.desk / "feedback/learns/01_tiny/01_tiny.html").read_text()
    assert "stopped by a ValueError" in page and "SEEN 31337" not in page and "62674" not in page
    assert not [path for path in (small.desk / "feedback").rglob("*.html") if "62674" in path.read_text()]


def test_pages_show_what_a_student_wrote_as_text(small: Course, boxes: Sandboxes, tmp_path: Path) -> None:
    (tmp_path / "eve").mkdir()
    wrong = "class Odd(Exception): pass\ndef double(x):\n    raise Odd('<script>alert(1)</script>')"
    notebook = solved(double=wrong, why="<img src=x onerror=alert(2)>")
    notebook.cells.append(new_code_cell("from IPython.display import HTML\nHTML('<script>alert(3)</script>')"))
    nbformat.write(notebook, tmp_path / "eve/01_tiny.ipynb")
    list(grade(tmp_path, small, limits=QUICK, boxes=boxes))
    page = (small.desk / "feedback/eve/01_tiny/01_tiny.html").read_text()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    outputs = nbformat.read(small.desk / "autograded/eve/01_tiny/01_tiny.ipynb", 4).cells[-1].outputs
    assert outputs and all("text/html" not in output.get("data", {}) for output in outputs)


def test_handed_in_again_marked_by_a_person_and_graded_by_nbgrader_itself(small: Course, boxes: Sandboxes, tmp_path: Path) -> None:
    file = tmp_path / "zoe/01_tiny.ipynb"
    file.parent.mkdir()
    nbformat.write(solved(half="def half(x):\n    return x // 2"), file)
    (first,) = grade(tmp_path, small, limits=QUICK, boxes=boxes)
    assert first.exercises == {"double": (3, 3), "half": (1, 3), "why": (0, 1)}
    with room._gradebook(small) as book:
        mark = book.find_grade("why", "01_tiny", "01_tiny", "zoe")
        mark.manual_score, mark.needs_manual_grade = 1, False
        book.db.commit()
    (again,) = grade(tmp_path, small, limits=QUICK, boxes=boxes)
    assert again.exercises["why"] == (1, 1) and "1 of 1" in (small.desk / "feedback/zoe/01_tiny/01_tiny.html").read_text()
    with room._gradebook(small) as book:
        assert not book.find_grade("why", "01_tiny", "01_tiny", "zoe").needs_manual_grade, "nothing has changed: no need to mark again"
    nbformat.write(solved(), file)
    (second,) = grade(tmp_path, small, limits=QUICK, boxes=boxes)
    assert second.exercises["half"] == (3, 3)
    with room._gradebook(small) as book:
        assert book.find_grade("why", "01_tiny", "01_tiny", "zoe").manual_score == 1, "a person's mark stays"
    kept = nbformat.read(small.desk / "earlier/zoe/01_tiny/1/01_tiny.ipynb", 4)
    assert "x // 2" in str(kept), "the earlier submission is kept"
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([sys.executable, "-m", "nbgrader", "autograde", "01_tiny", "--student", "zoe", "--force"], cwd=small.desk, capture_output=True, text=True,
                          env={**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    with room._gradebook(small) as book:
        assert book.find_submission_notebook("01_tiny", "01_tiny", "zoe").score == 7, "formgrader's own button grades through the same sandbox"


def test_a_student_checks_the_own_notebook(small: Course, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "01_tiny").mkdir()
    file = tmp_path / "01_tiny/01_tiny.ipynb"
    nbformat.write(answered(small.released("01_tiny"), double="def double(x):\n    return x + 3"), file)
    before = file.read_bytes()
    ((scores, words),) = check(tmp_path).values()
    assert {(score.exercise, score.points, score.words) for score in scores} == {
        ("double", 0, "double(2) is 5, not 4"), ("half", 0, "not answered yet"), ("why", None, "marked by a person")} and not words
    assert file.read_bytes() == before
    with pytest.raises(ValueError, match="holds no assignment"):
        check(tmp_path / "01_tiny" / "nowhere")


# ---------------------------------------------------------------- what is refused


def test_grading_needs_walls_or_a_word(small: Course, tmp_path: Path) -> None:
    if not shutil.which("unshare"):
        pytest.skip("no `unshare` to take namespaces away with")
    (tmp_path / "ada").mkdir()
    nbformat.write(solved(), tmp_path / "ada/01_tiny.ipynb")
    command = f"{sys.executable} -m ivdr.cli course grade {tmp_path} --course {small.folder} --desk {small.desk}"
    run = [["unshare", "--user", "--map-root-user", "sh", "-c", f"echo 0 > /proc/sys/user/max_user_namespaces && {command} {more}"] for more in ("", "--no-isolation")]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}) for words in run]
    (_, refused), (said, warned) = (process.communicate() for process in both)
    if "Operation not permitted" in refused and "sh:" in refused:
        pytest.skip("this machine makes no user namespaces")
    assert both[0].returncode == 2 and "--no-isolation" in refused and "with your rights" in refused, refused
    assert both[1].returncode == 0 and "NONE" in said, warned


def test_secrets_that_a_sandbox_would_show_are_refused() -> None:
    with pytest.raises(IsolationError, match="shows to submissions"):
        room._refuse_visible([Path("/usr/share/course")])


def test_bad_input_gets_one_clear_error(small: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd/a[b]").mkdir(parents=True)
    for words, message in ((["build", "--out", "x", "--only", "99_none"], "there is no assignment '99_none'; there are 01_tiny"),
                           (["build", "--out", "x", "--course", str(tmp_path)], "no assignments in"),
                           (["grade", "nowhere"], "is not a folder"), (["grade", str(tmp_path / "empty")], "holds no submissions"),
                           (["grade", str(tmp_path / "odd")], "cannot be a student's name"), (["grade", str(small.desk / "submitted")], "the desk's own"),
                           (["grade", str(tmp_path), "--memory", "0"], "must be more than 0"), (["check", "nowhere"], "holds no assignment")):
        options = [] if words[0] == "check" or "--course" in words else ["--course", str(small.folder)]
        assert cli.main(["course", *words, *options, *([] if words[0] == "check" else ["--desk", str(small.desk)])]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    with pytest.raises(ValueError, match=r"pip install 'ivdr\[course\]'"):
        build(tmp_path / "out", small)


def test_the_module_needs_no_nbgrader() -> None:
    code = "import sys, ivdr.course; print([name for name in ('nbgrader', 'IPython', 'nbformat', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout.strip() == "[]"


def test_a_submission_that_the_grader_fails_on_stops_nobody(small: Course, boxes: Sandboxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for student in ("ada", "bob"):
        (tmp_path / student).mkdir()
        nbformat.write(solved(), tmp_path / student / "01_tiny.ipynb")
    whole = room.repaired
    calls = iter([RuntimeError("a fault of ours"), None])

    def sometimes(*arguments: Any) -> Any:
        if (error := next(calls)) is not None:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(room, "repaired", sometimes)
    first, second = grade(tmp_path, small, limits=QUICK, jobs=1, boxes=boxes)
    assert not first.scores and "NOT GRADED, RuntimeError: a fault of ours" in first.words[0] and second.exercises["half"] == (3, 3)
    assert [one.student for one in find_submissions(tmp_path, small)] == ["ada", "bob"]


@pytest.mark.slow
@pytest.mark.skipif("IVDR_CLASS" not in os.environ, reason="`make course-class` grades a class of 200: some minutes")
def test_a_whole_class(desk: Course, students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    "Right answers, blanks, typical mistakes and a few endless loops, by the command."
    name, n = ASSIGNMENTS[0], int(os.environ["IVDR_CLASS"])
    source = desk.source(name)
    wrong = [{exercise: answer} for exercise, answers in yaml.safe_load((ROOT / "course/mutants" / f"{name}.yaml").read_text()).items() for answer in answers.values()]
    stuck = [{exercise: re.sub(r"\n    .*", "\n    while True: pass", next(iter(answer.values())), flags=re.DOTALL)} for answer in wrong[::9] for exercise in answer]
    handed = [source, desk.released(name), *(answered(source, **answer) for answer in [*wrong, *stuck])]
    for number in range(n):
        (tmp_path / f"student-{number:03d}").mkdir()
        nbformat.write(handed[number % len(handed)], tmp_path / f"student-{number:03d}/{name}.ipynb")
    assert cli.main(["course", "grade", str(tmp_path), "--course", str(desk.folder), "--desk", str(desk.desk), "--jobs", "2", "--cell-seconds", "10"]) == 0
    said = capsys.readouterr().out
    totals = [float(row["points"]) for row in csv.DictReader((desk.desk / "totals.csv").open())]
    assert len(totals) == n and f"{n} submissions" in said and " 0 not graded" in said
    full = max(totals)
    assert [points == full for points in totals] == [number % len(handed) == 0 for number in range(n)] and totals[1] == 0
    with capsys.disabled():
        print("", *said.splitlines()[-4:], sep="\n")

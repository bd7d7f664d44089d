"""Every file is in the room of its concern, and every test is where its file is."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "v05ray"
UNIT = ROOT / "tests" / "unit"
BESIDE_THE_PACKAGE = {"repository": None, "clusters": "clusters", "benchmarks": "benchmarks", "examples": "examples"}
"""Folders of tests/unit that test no room, each with the folder it mirrors; `repository` is about the whole tree."""
TESTS = sorted(path.relative_to(UNIT).as_posix() for path in UNIT.rglob("test_*.py"))


def test_the_top_level_holds_only_what_everyone_uses():
    files = sorted(path.name for path in PACKAGE.iterdir() if path.is_file())
    assert len(files) <= 10, f"give each its room: {files}"


def test_every_room_says_what_it_is_for():
    for room in sorted(path for path in PACKAGE.iterdir() if any(path.glob("*.py"))):
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))), room


def test_no_files_import_each_other_in_a_circle():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    faces = {name for name, path in files.items() if path.name == "__init__.py"}
    known: dict[str, set[str]] = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                found |= {full if full in files else str(node.module) for full in names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        known[name] = found & (files.keys() - faces)  # a room's face gathers files that may know it in part
    assert list(TopologicalSorter(known).static_order())  # raises CycleError, which names the circle


def mirrored(test: str) -> bool:
    """`ROOM/test_FILE.py` or `ROOM/test_FILE_ASPECT.py` of `ROOM/FILE.py`; a room as a whole has `test_ROOM.py`."""
    room, _, name = test.rpartition("/")
    folder = PACKAGE / room
    top = room.partition("/")[0]
    if top in BESIDE_THE_PACKAGE:
        if BESIDE_THE_PACKAGE[top] is None or top == "clusters":
            return True
        folder = ROOT / room
    words = name.removeprefix("test_").removesuffix(".py").split("_")
    names = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
    of_the_room = bool(room) and folder.name in names and folder.is_dir()
    return of_the_room or any((folder / f"{n}.py").is_file() or (room and (folder / n).is_dir()) for n in names)


@pytest.mark.parametrize("test", TESTS)
def test_a_test_is_where_its_file_is(test: str):
    assert mirrored(test), f"tests/unit/{test} is named after no file of v05ray/{test.rpartition('/')[0]}"


@pytest.mark.parametrize(
    ("test", "found"),
    [
        ("stats/test_osla.py", True),
        ("job/test_preflight_output_dir.py", True),
        ("replay/test_replay.py", True),
        ("budget/test_rules.py", True),
        ("test_recipes.py", True),
        ("test_stats.py", False),
        ("stats/test_unheard_of.py", False),
        ("unheard_of/test_osla.py", False),
        ("benchmarks/test_unheard_of.py", False),
    ],
)
def test_a_test_of_no_file_is_found(test: str, found: bool):
    assert mirrored(test) is found

"""The locks hold all that their packages require, and say so where they do not."""

import json
from pathlib import Path

import pytest

from requirements import closure
from requirements.closure import KINDS, PYTHONS, Needs, Pin, installed_needs, problems, read_lock, read_store, relevant
from requirements.freeze import frozen

LOCKS = Path(closure.__file__).parent


def lock(folder: Path, text: str) -> list[Pin]:
    path = folder / "some.txt"
    path.write_text(text)
    return read_lock(path)


@pytest.fixture
def no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """What v05ray itself requires is no part of the small locks below."""
    monkeypatch.setattr(closure, "project_needs", lambda kind: Needs(">=3.11", ()))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_lock_holds_what_its_packages_require(kind: str, python: str) -> None:
    assert list(problems(kind, python, read_lock(LOCKS / f"{kind}.txt"), read_store())) == []


def test_what_is_stored_is_what_the_installed_packages_say() -> None:
    """So a requirement cannot be edited away in the stored file."""
    store = read_store()
    compared = 0
    for pin in read_lock(LOCKS / "cpu.txt") + read_lock(LOCKS / "gpu.txt"):
        found = installed_needs(pin)
        if found is not None:
            stored = store[f"{pin.name}=={pin.version}"]
            assert stored.python == found.python
            assert set(relevant(found, ()).requires) <= set(stored.requires), pin.name
            assert set(stored.requires) <= {str(closure.Requirement(one)) for one in found.requires}, pin.name
            compared += 1
    assert compared > 200


def test_the_two_halves_of_cuda_python_are_of_one_version() -> None:
    versions = {pin.name: pin.version for pin in read_lock(LOCKS / "gpu.txt")}
    assert versions["cuda-python"] == versions["cuda-bindings"]


def test_setuptools_is_pinned_as_vllm_wants_it_above_python_3_11() -> None:
    for kind in KINDS:
        [setuptools] = [pin for pin in read_lock(LOCKS / f"{kind}.txt") if pin.name == "setuptools"]
        assert setuptools.version in closure.SpecifierSet("<81,>=78.1.1")


@pytest.mark.usefixtures("no_project")
def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    pins = lock(tmp_path, "# a comment\na==1.0\nb==2.0\n")
    store = {"a==1.0": Needs(">=3.11", ("b<2", "c>=1")), "b==2.0": Needs("<3.12", ())}
    assert list(problems("gpu", "3.12", pins, store)) == [
        "gpu.txt, Python 3.12: a==1.0 requires b<2, pinned is 2.0",
        "gpu.txt, Python 3.12: a==1.0 requires c>=1, which is not pinned",
        "gpu.txt, Python 3.12: b==2.0 requires Python <3.12",
    ]


@pytest.mark.usefixtures("no_project")
def test_a_release_of_unknown_needs_is_a_problem(tmp_path: Path) -> None:
    [line] = problems("cpu", "3.11", lock(tmp_path, "a==1.0\n"), {})
    assert "a==1.0" in line
    assert "make lock" in line


@pytest.mark.usefixtures("no_project")
def test_markers_and_extras_count_as_pip_would_count_them(tmp_path: Path) -> None:
    pins = lock(tmp_path, 'a==1.0\nb==2.0\nold==1.0; python_version < "3.12"\n')
    store = {
        "a==1.0": Needs("", ("b[fast]", 'old; python_version < "3.12"', 'dll; sys_platform == "win32"')),
        "b==2.0": Needs("", ('speed; extra == "fast"', 'colour; extra == "pretty"')),
        "old==1.0": Needs("", ()),
    }
    for python in ("3.11", "3.12"):
        [line] = problems("gpu", python, pins, store)
        assert "b==2.0 requires speed" in line


@pytest.mark.usefixtures("no_project")
def test_a_lock_pins_one_version_a_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a>=1"):
        lock(tmp_path, "a>=1\n")
    twice = lock(tmp_path, "a==1.0\nA==1.1\n")
    assert any("twice" in line for line in problems("cpu", "3.11", twice, {}))


def test_requirements_left_out_on_purpose_are_required_by_something() -> None:
    """An entry that nothing requires any more would hide a real hole later."""
    asked = {
        closure.canonicalize_name(closure.Requirement(one).name)
        for pin in read_lock(LOCKS / "cpu.txt")
        for one in read_store()[f"{pin.name}=={pin.version}"].requires
    }
    assert set(closure.LEFT_OUT["cpu"]) <= asked


def test_stored_requirements_have_one_release_a_line() -> None:
    lines = closure.STORE.read_text().splitlines()
    assert len(lines) == len(json.loads(closure.STORE.read_text())) + 2


def test_freezing_keeps_comment_and_markers_and_leaves_out_what_was_left_out() -> None:
    old = '# head\n# of the lock\nc==1.0; python_version < "3.0"\nb-x==1.0; python_version >= "3.0"\n'
    installed = "B_x==2.0\nA==1.0\npip==26.0\nsetuptools==80.0\ntorchvision==1.0\n"
    assert frozen(old, installed, frozenset({"torchvision"})) == (
        '# head\n# of the lock\nA==1.0\nB_x==2.0; python_version >= "3.0"\nc==1.0; python_version < "3.0"\n'
        "setuptools==80.0\n"
    )

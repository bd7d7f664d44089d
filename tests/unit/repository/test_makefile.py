"""`make help` is true, and the Python that `make` sets up with fits or is refused in one line."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from requirements.closure import PYTHONS

ROOT = Path(__file__).parents[3]


def test_make_help_lists_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    listed = re.findall(r"^# make (\S+) ", makefile, re.MULTILINE)
    assert {"train", "test", "setup", "bench-env"} <= set(listed)
    assert len(set(listed)) == len(listed)
    for target in listed:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_targets_of_the_makefile_are_listed_by_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = {name for line in re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE) for name in line.split()}
    assert phony - set(re.findall(r"^# make (\S+) ", makefile, re.MULTILINE)) == {"help"}


def test_the_project_supports_the_versions_that_the_locks_are_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first, last = PYTHONS[0], int(PYTHONS[-1].partition(".")[2])
    assert project["requires-python"] == f">={first},<3.{last + 1}"
    script = (ROOT / "requirements" / "python.sh").read_text()
    assert f"({first.replace('.', ', ')}) <= sys.version_info[:2] <= (3, {last})" in script


def fake_python(folder: Path, name: str, version: str, *, fits: bool) -> Path:
    """A command that answers the two questions put to a Python: whether it fits, and its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit {0 if fits else 1};; *) echo {version};; esac\n')
    path.chmod(0o755)
    return path


def choose(path: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "HOME": str(home)}
    command = ["/bin/sh", str(ROOT / "requirements" / "python.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_python3_is_taken_where_it_fits(tmp_path: Path) -> None:
    python3 = fake_python(tmp_path / "bin", "python3", "3.12.1", fits=True)
    fake_python(tmp_path / "bin", "python3.11", "3.11.9", fits=True)
    assert choose(tmp_path / "bin", tmp_path).stdout.strip() == str(python3)


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13"])
def test_another_python_on_the_path_is_taken_where_python3_does_not_fit(tmp_path: Path, name: str) -> None:
    fake_python(tmp_path / "bin", "python3", "3.9.2", fits=False)
    other = fake_python(tmp_path / "bin", name, "3.1x", fits=True)
    assert choose(tmp_path / "bin", tmp_path).stdout.strip() == str(other)


def test_a_version_that_pyenv_has_is_taken(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3", "3.14.0", fits=False)
    other = fake_python(tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin", "python", "3.12.1", fits=True)
    assert choose(tmp_path / "bin", tmp_path).stdout.strip() == str(other)


def test_a_python_that_uv_knows_is_taken(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3", "3.9.2", fits=False)
    other = fake_python(tmp_path / "uv", "python", "3.13.0", fits=True)
    uv = tmp_path / "bin" / "uv"
    uv.write_text(f"#!/bin/sh\necho {other}\n")
    uv.chmod(0o755)
    assert choose(tmp_path / "bin", tmp_path).stdout.strip() == str(other)


def test_no_fitting_python_is_one_line(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3", "3.9.2", fits=False)
    refused = choose(tmp_path / "bin", tmp_path)
    assert refused.returncode == 1
    assert refused.stdout == ""
    [line] = refused.stderr.splitlines()
    assert "3.11, 3.12 or 3.13" in line
    assert "python3 is 3.9.2" in line
    assert "PYTHON=" in line


@pytest.mark.parametrize(
    ("version", "said"), [("3.10.13", "is 3.10.13:"), ("3.11.2", "python3.11-venv"), (None, "is not found")]
)
def test_the_python_that_was_asked_for_is_taken_or_refused_never_replaced(
    tmp_path: Path, version: str | None, said: str
) -> None:
    fake_python(tmp_path / "bin", "python3", "3.11.9", fits=True)
    if version:
        fake_python(tmp_path / "bin", "mine", version, fits=False)
    refused = choose(tmp_path / "bin", tmp_path, "mine")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert said in line
    fake_python(tmp_path / "bin", "mine", "3.13.0", fits=True)
    assert choose(tmp_path / "bin", tmp_path, "mine").stdout.strip() == str(tmp_path / "bin" / "mine")


def test_a_real_python_fits() -> None:
    """The one that runs the tests: fakes cannot show that the question put to a Python is right."""
    chosen = choose(Path(os.environ["PATH"].split(os.pathsep)[0]), Path.home(), sys.executable)
    assert chosen.stdout.strip() == sys.executable


def test_make_starts_nothing_with_a_python_that_does_not_fit(tmp_path: Path) -> None:
    mine = fake_python(tmp_path / "bin", "mine", "3.10.13", fits=False)
    command = ["make", "--no-print-directory", "setup", f"PYTHON={mine}", f"VENV={tmp_path / 'venv'}"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode != 0
    assert refused.stdout == ""
    first, *rest = refused.stderr.splitlines()
    assert first.startswith("v05ray needs Python 3.11, 3.12 or 3.13;")
    assert all(re.match(r"make(\[\d+\])?: \*\*\*", line) for line in rest)
    assert not (tmp_path / "venv").exists()


def test_make_test_runs_each_test_once_and_names_the_groups_that_failed(tmp_path: Path) -> None:
    python, log = tmp_path / "venv" / "bin" / "python", tmp_path / "log"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >> {log}\ncase "$*" in *e2e/learning|*test_stops.py) exit 1; esac\n')
    python.chmod(0o755)
    for kind in ("cpu", "gpu"):
        (tmp_path / "venv" / f".installed-{kind}").touch()
    command = ["make", "--no-print-directory", "test", f"VENV={tmp_path / 'venv'}"]
    # What a make that runs these tests was asked for is not for this one.
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=plain)
    assert done.returncode != 0
    (failed,) = re.findall(r"^== failed: (.*)$", done.stdout, re.MULTILINE)
    assert sorted(failed.split()) == ["tests/chaos/test_stops.py", "tests/e2e/learning"]  # in the order of their ends
    asked = [Path(word) for line in log.read_text().splitlines() for word in line.split() if word.startswith("tests/")]
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    times = {file: sum(file.is_relative_to(path) for path in asked) for file in files}
    # Autoscaling has a command of its own; GPUs are not everywhere.
    assert {file for file, count in times.items() if count != 1} == {
        file for file in files if file.parts[1:3] in [("e2e", "autoscaling")] or file.parts[1] == "gpu"
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_make_test_lets_its_groups_end_what_they_have_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    python, log = tmp_path / "venv" / "bin" / "python", tmp_path / "log"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\nimport signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def note(what):\n    with open({str(log)!r}, 'a') as log: print(what, sys.argv[-1], file=log, flush=True)\n"
        "if 'tests/unit' in sys.argv: sys.exit()\n"
        "try:\n    note('begun')\n    time.sleep(60)\nfinally:\n    note('ended')\n"
    )
    python.chmod(0o755)
    for kind in ("cpu", "gpu"):
        (tmp_path / "venv" / f".installed-{kind}").touch()
    command = ["make", "--no-print-directory", "test", f"VENV={tmp_path / 'venv'}"]
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES")}
    log.touch()

    def until(what: str) -> list[str]:
        deadline = time.monotonic() + 30
        while (text := log.read_text()).count(what) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return sorted(line.partition(" ")[2] for line in text.splitlines() if line.startswith(what))

    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=plain, start_new_session=True
    ) as make:
        begun = until("begun")
        os.killpg(make.pid, number)
    assert make.returncode != 0
    assert len(begun) == 2
    assert until("ended") == begun

"""What a killed driver leaves behind is put away by the next one, and no other user's folder is."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from v05ray.launch.temp_folder import owned, sweep

OWNER = """
import os, sys
from pathlib import Path
from v05ray.launch.temp_folder import owned

with owned(Path(sys.argv[1]), Path(sys.argv[2])) as folder:
    (folder / "session" / "logs").mkdir(parents=True)
    (folder / "session" / "sockets").mkdir()
    (folder / "session" / "logs" / "raylet.out").write_text("last words")
    (folder / "session" / "logs").chmod(0o777)
    Path(sys.argv[1]).symlink_to(folder / "session" / "logs")
    folder.chmod(0o777)  # as Ray does
    print(folder.parent, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """(where the logs belong, the folder for temporary files)"""
    for name in ("run", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path / "run" / "logs", tmp_path / "tmp"


def start(logs: Path, parent: Path) -> tuple["subprocess.Popen[str]", Path]:
    command = [sys.executable, "-c", OWNER, str(logs), str(parent)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_at_its_end_the_logs_are_in_the_runs_folder_and_the_rest_is_gone(places: tuple[Path, Path]):
    logs, parent = places
    process, folder = start(logs, parent)
    assert logs.is_symlink()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (logs / "raylet.out").read_text() == "last words"
    process.communicate("")
    assert process.returncode == 0
    assert not logs.is_symlink()
    assert (logs / "raylet.out").read_text() == "last words"
    assert stat.S_IMODE(logs.stat().st_mode) == stat.S_IMODE(logs.parent.stat().st_mode)
    assert not folder.exists()


def test_the_next_start_puts_away_what_a_killed_one_left_and_saves_its_logs(places: tuple[Path, Path]):
    logs, parent = places
    process, folder = start(logs, parent)
    kill(process)
    assert folder.exists()
    with owned(logs.with_name("others"), parent) as mine:
        assert list(parent.iterdir()) == [mine.parent]
        assert not logs.is_symlink()
        assert (logs / "raylet.out").read_text() == "last words"
    assert [path.name for path in logs.parent.iterdir()] == ["logs"]


def test_a_folder_whose_owner_lives_is_left_alone(places: tuple[Path, Path]):
    logs, parent = places
    process, folder = start(logs, parent)
    try:
        process.send_signal(signal.SIGSTOP)  # even if it does not move
        assert sweep(parent) == []
        assert (folder / "ray" / "session" / "sockets").is_dir()
        assert logs.is_symlink()
    finally:
        process.send_signal(signal.SIGCONT)
        kill(process)
    assert sweep(parent) == [folder]


def test_nothing_but_dead_owners_folders_is_touched(places: tuple[Path, Path]):
    logs, parent = places
    process, folder = start(logs, parent)
    kill(process)
    assert sweep(parent, uid=os.getuid() + 1) == []  # another user's
    (parent / "v05ray-no-owner").mkdir()
    (parent / "v05ray-file").write_text("")
    elsewhere = parent.parent / "elsewhere"
    elsewhere.mkdir()
    folder.rename(elsewhere / "moved")
    (parent / "v05ray-link").symlink_to(elsewhere / "moved")  # an attacker's lure
    assert sweep(parent) == []
    assert (elsewhere / "moved" / "ray" / "session").is_dir()
    assert len(list(parent.iterdir())) == 3


def test_where_the_run_was_deleted_or_has_other_logs_the_folder_goes_without_them(places: tuple[Path, Path]):
    logs, parent = places
    for other in (None, parent.parent):
        process, folder = start(logs, parent)
        kill(process)
        logs.unlink()
        if other is not None:
            logs.symlink_to(other)
        assert sweep(parent) == [folder]
        assert logs.is_symlink() is (other is not None)


def test_where_the_logs_cannot_be_written_they_stay_where_they_are(
    places: tuple[Path, Path], caplog: pytest.LogCaptureFixture
):
    logs, parent = places
    process, folder = start(logs, parent)
    kill(process)
    (logs.parent / "logs.copying").write_text("in the way")
    assert sweep(parent) == []
    assert "the logs stay in" in caplog.text
    assert (logs / "raylet.out").read_text() == "last words"
    (logs.parent / "logs.copying").unlink()
    assert sweep(parent) == [folder]
    assert (logs / "raylet.out").read_text() == "last words"

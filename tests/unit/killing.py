"""Kill a process before each of its file operations in turn, as `kill -9` or a power cut might.

`kill_at_every_point("tests.unit.ledger.test_ledger:prepare", "tests.unit.ledger.test_ledger:act", tmp_path)` runs
`prepare(folder)` whole, then `act(copy of folder)` in a process that kills itself with SIGKILL before its first file
operation there; again with a fresh copy and before the second; and so on until `act` runs to its end. A file that is
opened for writing has a second such moment: it is there and empty. The caller then looks at what each of the copies
holds.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.scandir", "os.listdir"}
MOST_POINTS = 300


def kill_at_every_point(prepare: str, act: str, root: Path) -> list[Path]:
    """The folders left behind, by kill point; the last one is of the run that was not killed."""
    command = [sys.executable, "-m", "tests.unit.killing", prepare, act, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(root.glob("point-*"))


def killed_at_work(code: str, *arguments: str) -> int:
    """Kills a program after the fifth step or a little later; it prints their numbers, of which this is the last."""
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(5)]
    time.sleep(0.0137)
    child.kill()
    acknowledged += [int(line) for line in child.stdout.read().split()]
    child.wait()
    return acknowledged[-1]


def _resolve(name: str):
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _die_before(point: int, folder: Path) -> None:
    count = 0
    dying = False

    def hook(event: str, args: tuple) -> None:
        nonlocal count, dying
        if dying or event not in _EVENTS:
            return
        if any(isinstance(a, str | os.PathLike) and str(folder) in str(a) for a in args):
            count += 1
            if count > point:
                os.kill(os.getpid(), signal.SIGKILL)
            if event == "open" and args[2] & (os.O_CREAT | os.O_TRUNC):
                count += 1
                if count > point:
                    dying = True  # this open, too, is an event
                    os.open(args[0], args[2], 0o666)
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _in_a_child(run: Callable[[], object]) -> int:
    """Its exit status. A fork each, of a process that itself has done nothing: no thread of a library is lost in it."""
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main() -> None:
    prepare, act, root = _resolve(sys.argv[1]), _resolve(sys.argv[2]), Path(sys.argv[3])
    prepared = root / "prepared"
    prepared.mkdir()
    if _in_a_child(lambda: prepare(prepared)) != 0:
        raise SystemExit(f"{sys.argv[1]} failed")
    for point in range(MOST_POINTS):
        folder = root / f"point-{point:03d}"
        shutil.copytree(prepared, folder, symlinks=True)

        def die_or_end(point: int = point, folder: Path = folder) -> None:
            _die_before(point, folder)
            act(folder)

        status = _in_a_child(die_or_end)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                raise SystemExit(f"{sys.argv[2]} failed by itself at point {point}")
            return
    raise SystemExit(f"still killed at point {MOST_POINTS}")


if __name__ == "__main__":
    main()

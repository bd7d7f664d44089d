"""Kill a process before each of its file operations in turn, as `kill -9` or a power cut might.

`kill_at_every_point("tests.unit.test_ledger:prepare", "tests.unit.test_ledger:act", tmp_path)` runs `prepare(folder)`
whole, then `act(folder)` in a process that kills itself with SIGKILL before its first file operation under `folder`;
again with a fresh folder and before the second; and so on until `act` runs to its end. The caller then looks at what
each of the folders holds.
"""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.scandir", "os.listdir"}
MOST_POINTS = 300


def kill_at_every_point(prepare: str, act: str, root: Path) -> list[Path]:
    """The folders left behind, by kill point; the last one is of the run that nobody killed."""
    command = [sys.executable, "-m", "tests.unit.killing", prepare, act, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(root.glob("point-*"))


def _resolve(name: str):
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _die_before(point: int, folder: Path) -> None:
    count = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal count
        if event in _EVENTS and any(isinstance(a, str | os.PathLike) and str(folder) in str(a) for a in args):
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)


def main() -> None:
    prepare, act, root = _resolve(sys.argv[1]), _resolve(sys.argv[2]), Path(sys.argv[3])
    for point in range(MOST_POINTS):
        folder = root / f"point-{point:03d}"
        folder.mkdir()
        child = os.fork()
        if child == 0:
            prepare(folder)
            _die_before(point, folder)
            act(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                raise SystemExit(f"{sys.argv[2]} failed by itself at point {point}")
            return
    raise SystemExit(f"still killed at point {MOST_POINTS}")


if __name__ == "__main__":
    main()

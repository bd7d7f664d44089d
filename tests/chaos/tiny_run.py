"""A real run of the tiny model in a process of its own, with what is needed to disturb it and to look at it after."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from v05ray.ledger import LedgerReader

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "tiny_cpu.yaml"
LEAVE_S = 20.0
"""How long a process may outlive the driver."""
STEP = re.compile(r"step (\d+)/")


class TinyRun:
    """Use as a context manager: whatever is left of the run is ended on leaving."""

    def __init__(
        self,
        model: Path,
        output: Path,
        *overrides: str,
        ancestor: int | None = None,
        logs: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`output` is where run folders go; arguments such as `--resume` count as overrides.

        `ancestor` is the process that all of the run descend from, where that is not the driver, and `logs` where
        their logs are, where that is not the run's folder. `env` adds variables to this process's.
        """
        self.known: set[int] = set()
        """Processes that there were before the last fault."""
        self.num_seen: dict[str, int] = {}
        """Of patterns in the logs: how many lines are known."""
        self.folder = output / "tiny"
        self.logs = logs or self.folder / "logs"
        self.lines: list[tuple[float, str]] = []
        """What was printed, with the time (`time.monotonic`) at which it came."""
        self._news = threading.Condition()
        self._ended = False
        program = [sys.executable, "-m", "v05ray.cli", "train", str(JOB), f"model.path={model}"]
        self.process = subprocess.Popen(
            [*program, f"run.output_dir={output}", *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # a process group of its own, as a shell's or a scheduler's job has
        )
        self._ancestor = ancestor or self.process.pid
        self._family: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "TinyRun":
        return self

    def __exit__(self, *_: object) -> None:
        left = self.children() if self._ancestor == self.process.pid else []
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in left:
            if process.is_running():
                process.kill()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def printed(self) -> str:
        """All of it."""
        return "\n".join(text for _, text in self.lines)

    def wait_for(self, pattern: str, *, timeout_s: float = 150.0, after: float = 0.0) -> float:
        """The time at which a line with `pattern` came that is not older than `after`; fails when none comes."""
        found = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                for at, text in self.lines:
                    if at >= after and found.search(text):
                        self.children()  # those that are there now are known when the driver is gone
                        return at
                if self._ended or not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no line with {pattern!r} within {timeout_s:g} s:\n{self.printed}")

    def wait_for_step(self, step: int, *, timeout_s: float = 150.0, after: float = 0.0) -> float:
        """The time at which this step was reported done."""
        return self.wait_for(rf"^step {step}/", timeout_s=timeout_s, after=after)

    def last_step(self) -> int:
        """The furthest step that was reported done; 0 before the first."""
        return max((int(found[1]) for _, text in self.lines if (found := STEP.match(text))), default=0)

    def end(self, *, timeout_s: float = 200.0) -> int:
        """Waits for the end; the exit code."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {timeout_s:g} s:\n{self.printed}") from None
        self._reader.join(timeout=10)
        return code

    def children(self) -> list[psutil.Process]:
        """Every process of the run but the driver, those included whose parents have died since the last look."""
        if self._ancestor != self.process.pid or self.process.poll() is None:
            for child in psutil.Process(self._ancestor).children(recursive=True):
                self._family.setdefault(child.pid, child)
        return [child for child in self._family.values() if _lives(child)]

    def find(self, *names: str) -> list[psutil.Process]:
        """Its processes whose command line holds one of the names, oldest first."""
        found = []
        for child in self.children():
            try:
                line = " ".join(child.cmdline())
            except psutil.NoSuchProcess:
                continue
            if any(name in line for name in names):
                found.append(child)
        return sorted(found, key=lambda process: process.create_time())

    def assert_gone(self) -> None:
        """Fails when a process of the run outlives its driver by 20 s."""
        assert self._family, "the processes were not looked at while the driver lived"
        started = time.monotonic()
        while left := self.find(""):
            if time.monotonic() - started > LEAVE_S:
                raise AssertionError(f"outlived their driver: {[' '.join(one.cmdline())[:80].strip() for one in left]}")
            time.sleep(0.5)

    def signal(self, name: str, number: signal.Signals = signal.SIGKILL, index: int = -1) -> float:
        """Sends a signal to the process of this name (the newest); returns the time."""
        found = self.find(name)
        assert found, f"no process {name!r} among {[p.name() for p in self.children()]}:\n{self.printed}"
        found[index].send_signal(number)
        return time.monotonic()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_whole(folder: Path, steps: Sequence[int]) -> LedgerReader:
    """The ledger has exactly these steps, each rollout once, each drawn from the weights of its step."""
    ledger = LedgerReader(folder / "ledger")
    assert list(ledger.steps) == list(steps)
    conservation = ledger.check_conservation()
    assert conservation.ok, conservation.problems
    rows = ledger.rollouts(columns=["step", "prompt_id", "sample_index", "policy_version"]).to_pylist()
    names = [(row["step"], row["prompt_id"], row["sample_index"]) for row in rows]
    assert len(set(names)) == len(names)
    assert {(row["step"], row["policy_version"]) for row in rows} == {(step, step - 1) for step in steps}
    return ledger

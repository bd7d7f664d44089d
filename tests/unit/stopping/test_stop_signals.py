"""What the three signals do while a run starts, takes steps and ends; sent to this process for real."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from v05ray.stopping.stop_signals import ONE_REQUEST_S, SIGNALS, Stop, StopSignals


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # the interpreter runs handlers between two instructions


def send_later(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request: as if the first one were `ONE_REQUEST_S` ago."""
    now = time.monotonic() + 2 * ONE_REQUEST_S
    with monkeypatch.context() as patched:
        patched.setattr("v05ray.stopping.stop_signals.time.monotonic", lambda: now)
        send(number)


class Trainer:
    """Only what a stop asks of it."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []

    def leave_by(self, deadline: float) -> None:
        self.deadlines.append(deadline)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_steps_each_signal_ends_the_command_at_once(number: signal.Signals):
    before = signal.getsignal(number)
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        send(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_ray_starts_waits_until_ray_is_up(number: signal.Signals):
    reached = []
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt), signals.held():  # noqa: PT012
            send(number)
            reached.append("up")
        with signals.held():  # it has been answered
            pass
    assert reached == ["up"]


def test_a_second_signal_while_ray_starts_does_not_wait(monkeypatch: pytest.MonkeyPatch):
    with StopSignals() as signals, contextlib.suppress(KeyboardInterrupt), signals.held():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send_later(signal.SIGTERM, monkeypatch)


def test_a_signal_at_the_end_changes_nothing_and_a_second_one_ends_at_once(monkeypatch: pytest.MonkeyPatch):
    with StopSignals() as signals:
        signals.ending()
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send_later(signal.SIGINT, monkeypatch)


async def stopped_in_a_step(*numbers: signal.Signals) -> tuple[Trainer, Stop, list[str], bool]:
    """(trainer, stop, notes, whether the work was cancelled) after signals in the middle of a step, at one moment."""
    notes: list[str] = []
    trainer = Trainer()

    async def work() -> Stop:
        stop = Stop(notes.append)
        with signals.delivered(stop.request), stop.waits_for_the_step(trainer, grace_s=240):
            for number in numbers:
                send(number)
            await asyncio.sleep(0.01)
        made.append(stop)
        return stop

    made: list[Stop] = []
    with StopSignals() as signals:
        await asyncio.wait([task := asyncio.ensure_future(work())])
    return trainer, made[0] if made else Stop(notes.append), notes, task.cancelled()


@pytest.mark.parametrize("number", SIGNALS)
async def test_in_a_step_each_signal_stops_after_it_and_only_ctrl_c_waits_for_as_long_as_it_takes(
    number: signal.Signals,
):
    trainer, stop, notes, cancelled = await stopped_in_a_step(number)
    assert stop.is_set()
    assert not cancelled
    within = "" if number == signal.SIGINT else ", within 240 s"
    assert notes == [f"stopping after this step, with a checkpoint{within}; once more to stop at once"]
    assert len(trainer.deadlines) == (number != signal.SIGINT)


async def test_one_request_that_arrives_several_times_is_one_request():
    # `timeout` signals its child and then the group; systemd may send SIGHUP after SIGTERM.
    _, stop, notes, cancelled = await stopped_in_a_step(signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
    assert (len(notes), stop.is_set(), cancelled) == (1, True, False)


@pytest.mark.parametrize("steps_begun", [True, False])
async def test_a_second_request_and_one_before_the_steps_end_the_work_at_once(steps_begun: bool):
    async def work() -> None:
        stop = Stop(lambda note: None)
        if steps_begun:
            with stop.waits_for_the_step(Trainer(), grace_s=1):
                stop.request(signal.SIGTERM)
                stop.request(signal.SIGTERM)
                await asyncio.sleep(10)
        stop.request(signal.SIGTERM)
        await asyncio.sleep(10)

    (task,), _ = await asyncio.wait([asyncio.ensure_future(work())])
    assert task.cancelled()


async def test_after_the_last_step_the_first_request_leaves_the_export_alone():
    notes: list[str] = []
    stop = Stop(notes.append)
    with stop.waits_for_the_step(Trainer(), grace_s=1):
        pass
    stop.request(signal.SIGTERM)
    await asyncio.sleep(0)  # a cancelled task would not get here
    assert notes == ["the run is ending already; once more to stop at once"]


def test_nohup_is_obeyed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


CLOSED_TERMINAL = """
import os, signal, sys, time
from v05ray.stopping.stop_signals import StopSignals
with StopSignals():
    try:
        print("ready", flush=True)
        time.sleep(20)
    except KeyboardInterrupt:
        print("stopped", flush=True)  # would raise EIO
        os.write(int(sys.argv[1]), b"continued")
"""


def test_a_closed_terminal_does_not_break_what_is_printed_after_it():
    terminal, theirs = os.openpty()
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED_TERMINAL, str(writing)],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        pass_fds=[writing],
    )
    os.close(writing)
    os.close(theirs)
    said = b""
    while not said.endswith(b"\n"):  # closed in the middle of the line, the terminal would fail this print
        said += os.read(terminal, 100)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert os.read(reading, 100) == b"continued"
    assert process.wait(20) == 0
    os.close(reading)

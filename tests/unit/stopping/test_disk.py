"""Disks that hang: here a FIFO without reader or writer, which blocks the process that opens it like a dead mount."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from v05ray.stopping.disk import Disk, DiskStalled, LastResort, in_daemon_thread


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_results_and_errors_come_back():
    assert await in_daemon_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(divmod, 7, 0)


async def test_work_on_a_disk_that_hangs_is_known_and_can_be_given_up(fifo: Path):
    disk = Disk()
    writing = asyncio.create_task(disk.do(fifo, fifo.write_text, "x"))
    await asyncio.sleep(0.05)
    (call,) = await disk.waiting()
    assert (call.actor, call.what) == ("the disk", f"work at {fifo}")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await disk.waiting() == []
    await asyncio.to_thread(fifo.read_text)  # lets the thread go


async def test_a_disk_that_takes_or_refuses_responds(tmp_path: Path):
    disk = Disk()
    assert await disk.responds(tmp_path)
    assert os.listdir(tmp_path) == []
    assert await disk.responds(tmp_path / "absent")


SCRIPT = """
import asyncio, sys
from pathlib import Path
from v05ray.stopping.disk import Disk, DiskStalled, LastResort

async def run(last_resort):
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, Path(sys.argv[1]).write_text, "x")  # what `asyncio.run` waits for at its end
    with last_resort.after_a_hang(print):
        raise DiskStalled("the disk of /mnt hangs")

with LastResort(after_s=0.5) as last_resort:
    asyncio.run(run(last_resort))
"""


def test_a_process_whose_end_waits_for_the_disk_ends_all_the_same(fifo: Path):
    started = time.monotonic()
    # Its stdout is buffered here, as in a user's shell pipe: what was reported must be written before it leaves.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", SCRIPT, str(fifo)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert time.monotonic() - started < 20
    assert done.returncode == 1
    assert done.stdout == "the disk of /mnt hangs\n"
    assert "the end of the run waits for the disk too" in done.stderr


def test_a_process_whose_stderr_hangs_too_ends_all_the_same(fifo: Path):
    script = SCRIPT.replace(
        "with LastResort", "import os, v05ray.stopping.disk\nv05ray.stopping.disk.LAST_WORDS_S = 0.5\nwith LastResort"
    )
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb", buffering=0) as full:
        os.set_blocking(writing, False)
        while full.write(b"x" * 4096):  # no reader: the next write blocks indefinitely
            pass
        os.set_blocking(writing, True)
        command = [sys.executable, "-c", script, str(fifo)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=full, timeout=30)
    assert done.returncode == 1


def test_a_block_that_is_left_in_time_is_no_concern_of_the_last_resort():
    notes: list[str] = []
    with pytest.raises(DiskStalled), LastResort(after_s=3600) as last_resort, last_resort.after_a_hang(notes.append):
        raise DiskStalled("it hangs")
    assert notes == ["it hangs"]
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(timeout=20)  # a cancelled one ends at once
            assert not thread.is_alive()

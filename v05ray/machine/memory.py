"""Peak memory of a whole run: this process and everything it started."""

import threading

import psutil


class PeakMemory:
    """Samples the proportional set size of the process tree (shared pages counted once) in a thread of its own."""

    def __init__(self, *, interval_s: float = 5.0) -> None:
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peak-memory")
        self.peak_bytes = 0

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
            if self._stop.wait(self._interval_s):
                return


def tree_bytes() -> int:
    """Bytes of memory that this process and its descendants hold now."""
    me = psutil.Process()
    held = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            held += getattr(process.memory_full_info(), "pss", 0)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it ended between the listing and the look
    return held

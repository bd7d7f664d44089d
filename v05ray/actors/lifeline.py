"""An actor's process ends with its raylet, also when its own exit hangs.

Ray's workers notice the end of their raylet and exit by themselves; one whose exit hangs (a thread that never joins, a
device that does not answer) would stay, with all its memory. The kernel can end a process when its parent ends.
"""

import ctypes
import os
import signal
import threading

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """From here on the kernel kills this process (SIGKILL) when the one that started it ends, however that ends.

    The kernel forgets the request with the thread that made it, so that is one that never ends: it waits outside of
    the interpreter, for signals that are all blocked in it.
    """
    started, parent = threading.Event(), os.getppid()

    def wait() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the request was made
            os.kill(os.getpid(), signal.SIGKILL)
        started.set()
        while True:
            libc.pause()

    threading.Thread(target=wait, daemon=True, name="v05ray-lifeline").start()
    started.wait()

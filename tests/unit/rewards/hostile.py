"""Verifiers that do what a verifier must not, each set off by the response's text."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from v05ray.types import Prompt


def judge(prompt: Prompt, response: str) -> object:
    """Does what the response's first word says; the rest is its argument."""
    deed, _, argument = response.partition(" ")
    return getattr(sys.modules[__name__], deed)(argument)


def right(_):
    return True


def wrong(_):
    return False


def returns(argument):
    return eval(argument)


def numpy_values(argument):
    import numpy as np

    return {"true": np.bool_(True), "half": np.float32(0.5)}[argument]


def raises(argument):
    raise {"value": ValueError, "time": TimeoutError, "deep": RecursionError}[argument](f"on purpose: {argument}")


def sleeps(seconds):
    time.sleep(float(seconds))
    return True


def waits_for(path):
    while not Path(path).exists():
        time.sleep(0.005)
    return True


def ends_a_child(_):
    """As a verifier that runs code does: its child must end by SIGTERM."""
    child = subprocess.Popen(["sleep", "100"])
    child.terminate()
    return child.wait(10) == -15


def loops(_):
    while True:
        pass


def loops_in_c(_):
    """Holds the interpreter's lock, so that no Python code of this process ever runs again."""
    ctypes.PyDLL(None).sleep(1000)


def exits(status):
    os._exit(int(status))


def leaves(_):
    sys.exit(0)


def segfaults(_):
    ctypes.string_at(0)


def hogs(mib):
    return len(bytearray(int(mib) * 2**20)) > 0


def prints(_):
    print("to stdout", flush=True)
    sys.stdin.read()
    return True


def writes_pid_and_loops(path):
    """Starts a child too, which sleeps in the same process group; then neither ever ends by itself."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    partial = Path(path + ".partial")
    partial.write_text(f"{os.getpid()} {child.pid}")
    partial.rename(path)
    loops_in_c("")


def closes_everything(_):
    os.closerange(3, 100)
    return True


def says_pid(_):
    return os.getpid() % 1000 / 1000


class Strict:
    """A class with an option."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, prompt: Prompt, response: str) -> bool:
        return response == self.word


def with_option(prompt: Prompt, response: str, *, word: str) -> bool:
    return response == word


def sees_prompt(prompt: Prompt, response: str) -> bool:
    return (prompt.prompt_id, prompt.text, prompt.answer, prompt.source, prompt.token_ids, dict(prompt.metadata)) == (
        "p1",
        "a question",
        "an answer",
        "src",
        (),
        {"tests": [1, {"a": None}]},
    )


class SlowToMake:
    """Takes long to build, as one that imports much."""

    def __init__(self) -> None:
        time.sleep(0.6)

    def __call__(self, prompt: Prompt, response: str) -> bool:
        return True


class DiesWhenMade:
    """Ends the process where the verifier is built."""

    def __init__(self) -> None:
        os._exit(3)


not_callable = 5

"""`last_integer`, except that the first call after a file appears in the folder `V05RAY_SABOTAGE` names does what the
file's name says: `crash`, `hang` or `eat-memory`."""

import os
import time
from pathlib import Path

from v05ray.rewards.verifiers import verifiers
from v05ray.types import Prompt

FOLDER = Path(os.environ["V05RAY_SABOTAGE"])


class Verifier:
    """A user's own verifier, as `rewards.verifier: {name: python, path: sabotaged_verifier:Verifier}`."""

    def __init__(self) -> None:
        self._last_integer = verifiers.build("last_integer", {})

    def __call__(self, prompt: Prompt, response: str) -> float | bool:
        if _asked("crash"):
            os._exit(139)
        if _asked("hang"):
            time.sleep(3600)
        if _asked("eat-memory"):
            held = []
            while True:
                held.append(bytearray(2**24))
        return self._last_integer(prompt, response)


def _asked(name: str) -> bool:
    try:
        (FOLDER / name).unlink()
    except FileNotFoundError:
        return False
    return True

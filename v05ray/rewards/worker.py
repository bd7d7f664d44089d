"""One verifier process: reads requests from a pipe, judges them one by one, writes a reply to each into another.

Run as `python -m v05ray.rewards.worker REQUESTS_FD REPLIES_FD LIFELINE_FD`. One JSON object a line, both ways:

    <- {"verifier": SPEC, "truncated": "wrong" | "judge" | null, "memory_mib": N | null}
    -> {"ready": true}                                     or {"failed": MESSAGE}, and the end
    <- {"prompt": {...}, "response": TEXT, "finish_reason": F}
    -> {"at": LABEL}                                       as each of several verifiers begins
    -> {"reward": R, "verdict": V, "message": M, "extracted": TEXT | null, "retiring": false}

The process never outlives its parent, whatever the verifier does: the lifeline is a pipe of which the parent alone
holds the other end, and the kernel ends this process group by SIGIO the moment that end is closed. (A watching thread
would not run while C code holds the interpreter's lock; PR_SET_PDEATHSIG would fire when the parent's thread ends.)
"""

import fcntl
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

from v05ray.errors import ConfigError
from v05ray.rewards.combined import Judge, build_judge
from v05ray.rewards.extract import has_finished_answer
from v05ray.rewards.judged import Judged
from v05ray.rewards.references import UnreadableReference
from v05ray.rewards.verifiers import Truncated, Verifier, truncated_by_default, verifiers
from v05ray.types import FinishReason, Prompt, Verdict

_MESSAGE_CHARS = 500
_EXTRACTED_CHARS = 500


def main() -> None:
    """Serves until the parent hangs up."""
    requests_fd, replies_fd, lifeline_fd = map(int, sys.argv[1:])
    _hold_on_to(lifeline_fd)
    _ignore_stop_signals()
    with os.fdopen(requests_fd, encoding="utf-8", newline="\n") as requests:
        greeting = requests.readline()
        if not greeting:
            return
        hello = json.loads(greeting)
        try:
            judge_one = build_judge(
                hello["verifier"],
                lambda name, options: single(name, options, hello["truncated"]),
                lambda label: _send(replies_fd, {"at": label}),
            )
        except ConfigError as error:
            _send(replies_fd, {"failed": str(error)})
            return
        if hello["memory_mib"] is not None:
            _limit_memory(hello["memory_mib"])
        _send(replies_fd, {"ready": True})
        for line in requests:
            request = json.loads(line)
            reply = judge_one(_prompt(request["prompt"]), request["response"], request["finish_reason"])
            _send(replies_fd, reply)
            if reply["retiring"]:
                return


def single(name: str, options: Mapping[str, Any], truncated: Truncated | None = None) -> Judge:
    """The judge of one verifier of the registry; `truncated` None: as its kind has it by default."""
    verifier, rule = verifiers.build(name, options), truncated or truncated_by_default(name)
    return lambda prompt, response, finish: judge(verifier, prompt, response, finish_reason=finish, truncated=rule)


def judge(
    verifier: Verifier,
    prompt: Prompt,
    response: str,
    *,
    finish_reason: FinishReason = "stop",
    truncated: Truncated = "judge",
) -> dict[str, Any]:
    """One reply; whatever the verifier raises or returns becomes a verdict.

    With `truncated: wrong`, a response cut off at the token limit is wrong unless its answer was finished before.
    """
    try:
        judged = verifier(prompt, response)
        extracted, message = (judged.extracted, judged.message) if isinstance(judged, Judged) else (None, "")
        reward = _reward(judged.reward if isinstance(judged, Judged) else judged)
        if finish_reason == "length" and truncated == "wrong" and reward > -1 and not has_finished_answer(response):
            reward = -1.0
    except UnreadableReference as error:
        return _failure("unreadable", error)
    except TimeoutError as error:
        return _failure("timeout", error)
    except MemoryError as error:
        # What filled the memory may still be held somewhere in here: a fresh process starts empty.
        return _failure("error", error) | {"retiring": True}
    except (
        Exception
    ) as error:  # a verifier may be a user's code: its failure is a verdict, and is reported with its name
        return _failure("error", error)
    verdict: Verdict = "correct" if reward == 1 else "wrong" if reward == -1 else "partial"
    if extracted is not None:
        extracted = extracted[:_EXTRACTED_CHARS]
    said = message[:_MESSAGE_CHARS]
    return {"reward": reward, "verdict": verdict, "message": said, "extracted": extracted, "retiring": False}


def _failure(verdict: Verdict, error: BaseException) -> dict[str, Any]:
    message = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
    return {"reward": -1.0, "verdict": verdict, "message": message, "extracted": None, "retiring": False}


def _reward(value: Any) -> float:
    """A bool, or a number in [-1, 1]; numpy's count too. Raises `TypeError` or `ValueError` for anything else."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool):
        return 1.0 if plain else -1.0
    if not isinstance(plain, int | float):
        raise TypeError(f"a verifier returns a bool or a number in [-1, 1], got {value!r:.80}")
    if not -1 <= plain <= 1 or math.isnan(plain):
        raise ValueError(f"a verifier's reward lies in [-1, 1], got {value!r:.80}")
    return float(plain)


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    return Prompt(
        fields["prompt_id"], fields["text"], (), fields["answer"], fields["source"], metadata=fields["metadata"]
    )


def _send(replies_fd: int, reply: Mapping[str, Any]) -> None:
    # At once, unbuffered: a crash in the next verdict must not take this one with it.
    os.write(replies_fd, json.dumps(reply).encode() + b"\n")


def _ignore_stop_signals() -> None:
    """Unblocks the signals that Ray's processes have blocked (only the driver acts on them), and ignores them.

    What a verifier starts must end by SIGTERM as usual: it inherits a mask, and no handler.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))


def _hold_on_to(lifeline_fd: int) -> None:
    """Asks the kernel for SIGIO to this process group when the lifeline's other end is closed."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | os.O_ASYNC)


def _limit_memory(memory_mib: int) -> None:
    """Caps the address space at what the process has now plus `memory_mib`."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    limit = now + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
    # Threads that a verifier started and never ended do not keep the process.
    os._exit(0)

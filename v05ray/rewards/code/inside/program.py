"""The processes that run the program. Nothing of what is expected of it is in their memory, or in any file they see."""

import atexit
import os
import sys
import threading
import traceback
import types
from collections.abc import Mapping
from typing import Any

from v05ray.rewards.code.inside import wire
from v05ray.rewards.code.inside.peer import Program

_FILE = "solution.py"

USUAL_IMPORTS = """
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, defaultdict, deque
from functools import cache, cmp_to_key, lru_cache, reduce
from heapq import heapify, heappop, heappush, nlargest, nsmallest
from itertools import accumulate, combinations, permutations, product
from math import ceil, comb, factorial, floor, gcd, inf, isqrt, lcm, log2, sqrt
from typing import *
"""
"""What a judge's site has imported before a solution: many answers take it for granted."""


def execute(source: str, name: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a program as the module `name`; returns its global names."""
    module = types.ModuleType(name)
    module.__dict__.update(usual)
    sys.modules[name] = module
    exec(compile(source, _FILE, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def run(source: str, usual: Mapping[str, Any]) -> int:
    """A whole program between its standard input and output; returns its exit status."""
    status = 0
    try:
        execute(source, "__main__", usual)
    except SystemExit as leaving:
        status = _status(leaving.code)
    except BaseException as error:  # a program raises what it likes
        status = _told(error)
    try:
        # As the interpreter's own end would: many solutions run in a thread, for its deeper stack.
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        status = status or _told(error)
    return status


def _status(code: Any) -> int:
    if code is None or isinstance(code, int):
        return int(code or 0) & 255
    os.write(2, f"{code}\n".encode(errors="replace"))
    return 1


def _told(error: BaseException) -> int:
    os.write(2, traceback.format_exception_only(error)[-1][:500].encode(errors="replace"))
    return 1


def call(source: str, usual: Mapping[str, Any], function: str, args: Any, reply_fd: int) -> int:
    """One call of a function, or of a method of the class `Solution`; the result goes to `reply_fd`, wired."""
    try:
        found = _find(execute(source, "solution", usual), function)
        result = wire.dump(wire.encode(found(*wire.decode(args))))
    except BaseException as error:
        return _told(error)
    with os.fdopen(reply_fd, "wb") as reply:
        reply.write(result)
    return 0


def _find(namespace: Mapping[str, Any], function: str) -> Any:
    if function in namespace:
        return namespace[function]
    solution = namespace.get("Solution")
    if not hasattr(solution, function):
        raise NameError(f"the program has no function {function!r}")
    return getattr(solution(), function)  # pyright: ignore[reportOptionalCall]


def serve(source: str, usual: Mapping[str, Any], requests_fd: int, replies_fd: int, loaded_fd: int) -> int:
    """Runs the program and then answers calls of its functions until the connection closes."""
    try:
        namespace = execute(source, "solution", usual)
    except BaseException as error:
        return _told(error)
    own = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("__") and usual.get(name) is not value and not isinstance(value, types.ModuleType)
    }
    # Their other ends are closed once it is loaded, and what its functions print is looked at by nothing.
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.write(loaded_fd, b"\n")
    os.close(loaded_fd)
    with os.fdopen(requests_fd, "rb") as reads, os.fdopen(replies_fd, "wb") as writes:
        Program(reads, writes, own).serve_on()
    return 0

"""The `code` verifier: the program in a response passes the row's tests."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from v05ray.rewards.code.comparison import same_output, same_value
from v05ray.rewards.code.extraction import fenced_program, whole_program
from v05ray.rewards.code.inside import wire
from v05ray.rewards.code.references import Asserts, Call, CodeReference, Streams, read_code_reference
from v05ray.rewards.code.sandbox import Host, Isolation, Limits, Sandbox
from v05ray.rewards.judged import Judged
from v05ray.rewards.references import UnreadableReference
from v05ray.types import Prompt

Score = Literal["all_or_nothing", "share"]
Extract = Literal["fenced", "whole"]
_EXTRACTS = {"fenced": fenced_program, "whole": whole_program}


class CodeVerifier:
    """Called as verifiers are; each call has a sandbox of its own, and is over after `wall_seconds`."""

    def __init__(
        self,
        limits: Limits,
        isolation: Isolation,
        *,
        wall_seconds: float,
        score: Score,
        extract: Extract,
        max_tests: int | None,
        tolerance: float,
    ) -> None:
        self._host, self._wall_seconds = Host(limits, isolation), wall_seconds
        self._score, self._extract, self._max_tests, self._tolerance = score, extract, max_tests, tolerance
        self._host.sandbox("", lifetime_s=wall_seconds).close()  # started now, and not within the first verdict's time

    def __call__(self, prompt: Prompt, response: str) -> Judged:
        """The verdict; raises `UnreadableReference` for tests that are none, `SandboxError` where none can be run."""
        reference = read_code_reference(prompt.answer, prompt.metadata)
        program = _EXTRACTS[self._extract](response)
        if program is None:
            return Judged(False, None, "the response has no program in a fenced block that is closed")
        # A lone surrogate is no Python, and no text that could be sent.
        program = program.encode(errors="replace").decode()
        with self._host.sandbox(program, lifetime_s=self._wall_seconds) as sandbox:
            tests = _Run(sandbox, self._wall_seconds, self._tolerance, stop_at_first=self._score == "all_or_nothing")
            passed, total, why = tests.judge(reference, self._max_tests)
        share = passed / total
        message = "" if passed == total else f"{passed} of {total} tests passed: {why}"
        if self._score == "share":
            return Judged(2 * share - 1, program, message)
        return Judged(passed == total, program, message if total == 1 or passed else why)


class _Run:
    """The tests of one program, until its time is over."""

    def __init__(self, sandbox: Sandbox, wall_s: float, tolerance: float, *, stop_at_first: bool) -> None:
        self._sandbox, self._tolerance, self._stop_at_first = sandbox, tolerance, stop_at_first
        self._wall_s, self._deadline = wall_s, time.monotonic() + wall_s

    def judge(self, reference: CodeReference, max_tests: int | None) -> tuple[int, int, str]:
        """(passed, all, why the first that failed did); where one failure is enough, none are run behind it."""
        if reference.asserts is not None:
            return self._asserts(reference.asserts, max_tests)
        cases = reference.cases[:max_tests]
        passed, first = 0, ""
        for number, case in enumerate(cases, 1):
            left = self._deadline - time.monotonic()
            if left <= 0:
                first = first or f"no time left of {self._wall_s:g} s for test {number}"
                break
            why = self._case(case, reference.function, left)
            if why is None:
                passed += 1
                continue
            first = first or f"test {number}: {why}"
            if self._stop_at_first:
                break
        return passed, len(cases), first

    def _case(self, case: Streams | Call, function: str | None, left: float) -> str | None:
        """Why a case fails; None where it does not."""
        if isinstance(case, Streams):
            outcome = self._sandbox.run(case.input, left)
            if outcome.why:
                return outcome.why
            same = same_output(outcome.output, case.expected, self._tolerance)
            return None if same else f"wrong output {_shown(outcome.output)}"
        assert function is not None
        outcome = self._sandbox.call(function, wire.encode(list(case.args)), left)
        if outcome.why:
            return outcome.why
        try:
            given = wire.decode(json.loads(outcome.output))
        except wire.UNREADABLE:
            return "what the function returned is no plain data"
        expected = case.expected
        same = same_value(given, expected, self._tolerance)
        if not same and case.may_be_wrapped and isinstance(expected, list) and len(expected) == 1:
            same = same_value(given, expected[0], self._tolerance)
        return None if same else f"wrong result {_shown(repr(given))}"

    def _asserts(self, asserts: Asserts, max_tests: int | None) -> tuple[int, int, str]:
        tests: dict[str, Any] = {**asdict(asserts), "stop_at_first": self._stop_at_first, "max_units": max_tests}
        outcome = self._sandbox.judge(tests, self._wall_s)
        lines: Sequence[Mapping[str, Any]] = [json.loads(line) for line in outcome.output.splitlines()]
        total = lines[0]["units"] if lines else 1
        results = lines[1:]
        passed = sum(result["passed"] for result in results)
        failed = next((result["why"] for result in results if not result["passed"]), None)
        return passed, total, outcome.why or failed or "the tests did not end"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def check_options(
    *, cpu_seconds: int, wall_seconds: float, memory_mib: int, output_mib: int, max_tests: int | None, tolerance: float
) -> None:
    """Raises `ValueError` for limits out of their range."""
    for name, value, least in (
        ("cpu_seconds", cpu_seconds, 1),
        ("memory_mib", memory_mib, 64),
        ("output_mib", output_mib, 1),
        ("max_tests", max_tests, 1),
    ):
        if value is None and name == "max_tests":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    for name, value in (("wall_seconds", wall_seconds), ("tolerance", tolerance)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    if wall_seconds < 0.1:
        raise ValueError(f"wall_seconds must be at least 0.1, got {wall_seconds!r}")


def reference_reason(prompt: Prompt) -> str | None:
    """Why a row's tests cannot be run; None where they can. Runs none of them, for there is no program."""
    try:
        read_code_reference(prompt.answer, prompt.metadata)
    except UnreadableReference as error:
        return str(error)
    return None

"""Code tasks for tests: a row's tests and a response become a verdict, with limits that are soon reached."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from v05ray.rewards.verifiers import verifiers
from v05ray.rewards.worker import judge
from v05ray.types import Prompt

LIMITS = {"cpu_seconds": 2, "wall_seconds": 60.0, "memory_mib": 256, "output_mib": 1, "packages": "none"}


@cache
def _verifier(options: str) -> Any:
    return verifiers.build("code", LIMITS | json.loads(options))


def fenced(program: str) -> str:
    return f"Here it is:\n```python\n{program}\n```\n"


def reply(tests: object, response: str, metadata: Mapping[str, object] | None = None, **options: Any) -> dict[str, Any]:
    answer = tests if isinstance(tests, str) else json.dumps(tests)
    prompt = Prompt("p1", "a question", (), answer, "src", metadata or {})
    return judge(_verifier(json.dumps(options)), prompt, response)


def verdict(tests: object, program: str, metadata: Mapping[str, object] | None = None, **options: Any) -> str:
    return reply(tests, fenced(program), metadata, **options)["verdict"]


def ran(program: str, **options: Any) -> tuple[str, str]:
    """The verdict on a program of which `done` is expected, and why."""
    said = reply({"inputs": [""], "outputs": ["done"]}, fenced(program), **options)
    return said["verdict"], said["message"]

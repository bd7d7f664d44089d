"""Writes a lock from this environment: `python -m requirements.freeze cpu|gpu` (`make lock`).

Kept from the old lock: the comment at its head, environment markers, and packages whose marker leaves them out here.
"""

import subprocess
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements.closure import HERE, KINDS, LEFT_OUT

TOOLS = ("pip", "wheel", "uv")
"""Of the environment itself. setuptools is no such: packages require it when they run."""


def frozen(old: str, installed: str, left_out: frozenset[str]) -> str:
    """The new lock's text, from the old one's and from what `pip freeze --all` printed."""
    lines = old.splitlines()
    head = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    marked = {
        canonicalize_name(requirement.name): requirement
        for requirement in map(Requirement, lines[len(head) :])
        if requirement.marker is not None
    }
    pins: dict[str, str] = {}
    for line in installed.splitlines():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name not in left_out and name not in TOOLS:
            marker = marked[name].marker if name in marked else None
            pins[name] = f"{line}; {marker}" if marker else line
    for name, requirement in marked.items():
        if requirement.marker and not requirement.marker.evaluate():
            pins.setdefault(name, str(requirement))
    return "\n".join([*head, *(pins[name] for name in sorted(pins))]) + "\n"


def main() -> int:
    """Writes the lock of the kind that is named."""
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        print(__doc__, file=sys.stderr)
        return 2
    kind = sys.argv[1]
    command = [sys.executable, "-m", "pip", "freeze", "--all", "--exclude-editable"]
    installed = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    path = HERE / f"{kind}.txt"
    path.write_text(frozen(path.read_text(), installed, frozenset(LEFT_OUT[kind])))
    return 0


if __name__ == "__main__":
    sys.exit(main())

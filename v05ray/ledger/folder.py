"""A ledger's folder: which steps it holds, what a step's JSON file says, and what was set aside."""

import json
import re
from pathlib import Path
from typing import Any

from v05ray.errors import RunError
from v05ray.ledger.columns import FORMAT_VERSION

SUPERSEDED = "superseded"
"""Folder, inside the ledger, of what was recorded and does not count: one numbered ledger per resume."""
_MARKER = re.compile(r"step-(\d{6,})\.json")
_NUMBER = re.compile(r"\d{3,}")


class LedgerError(RunError):
    """The ledger cannot be written or read; the message names the path, the step and the way out."""


def step_markers(folder: Path) -> dict[int, Path]:
    """Step to the file that makes it exist, in order of steps."""
    try:
        found = {int(m[1]): p for p in folder.iterdir() if (m := _MARKER.fullmatch(p.name))}
    except FileNotFoundError:
        raise LedgerError(f"there is no ledger at {folder}; give the folder of a run that has made a step") from None
    return dict(sorted(found.items()))


def read_marker(path: Path) -> dict[str, Any]:
    """A step's JSON file; `LedgerError` for what is none or is newer, `FileNotFoundError` for what has gone."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        version = marker["format_version"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is not readable as a step of a ledger ({error}); restore it or delete it") from error
    if version > FORMAT_VERSION:
        raise LedgerError(
            f"{path} has ledger format {version}, this v05ray reads up to {FORMAT_VERSION}; install a newer v05ray"
        )
    return marker


def superseded_folders(folder: Path) -> dict[int, Path]:
    """Number to folder of what was set aside, in order."""
    parent = folder / SUPERSEDED
    if not parent.is_dir():
        return {}
    return {int(path.name): path for path in sorted(parent.iterdir()) if _NUMBER.fullmatch(path.name)}

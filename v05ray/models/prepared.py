"""A model folder that is either whole or absent.

A folder is built beside its target, marked last, and renamed into place, so an interrupted preparation leaves nothing
that a run could load. The marker says what is inside: a second preparation of the same thing returns at once, and one
of something else is refused instead of overwriting it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from v05ray.errors import ConfigError
from v05ray.storage.durable import permit_by_umask

MARKER = "prepared.json"
"""Written last, inside the folder: what the folder was made of."""

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""Files without which neither vLLM nor transformers can load the folder."""


def prepare_once(target: Path, made_of: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """Returns `target`, after `build(temporary_folder)` has filled it unless it already holds the same thing.

    `made_of` (JSON values) identifies what is built: equal means done. Raises `ConfigError` when `target` exists and
    is not that: it is never overwritten.
    """
    target = Path(target).absolute()
    if target.exists():
        _check_same(target, made_of)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        build(folder)
        (folder / MARKER).write_text(json.dumps(made_of, indent=2, sort_keys=True) + "\n")
        _check_same(folder, made_of)
        permit_by_umask(folder)
        try:
            folder.rename(target)
        except OSError:
            # Another process may have finished the same thing first; then its folder is as good as ours.
            if not target.exists():
                raise
            _check_same(target, made_of)
    return target


def describe(folder: Path) -> dict[str, object]:
    """What a folder was made of; raises `ConfigError` when it carries no readable marker."""
    try:
        made_of = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} exists, but was not prepared here (no readable {MARKER}); choose another folder or remove it"
        ) from error
    if not isinstance(made_of, dict):
        raise ConfigError(f"{folder / MARKER} holds {type(made_of).__name__}, not an object; remove {folder}")
    return made_of


def _check_same(folder: Path, made_of: Mapping[str, object]) -> None:
    found = describe(folder)
    if found != dict(made_of):
        raise ConfigError(
            f"{folder} holds {json.dumps(found, sort_keys=True)}, asked for"
            f" {json.dumps(dict(made_of), sort_keys=True)}; choose another folder or remove it"
        )
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; remove the folder and prepare it again")

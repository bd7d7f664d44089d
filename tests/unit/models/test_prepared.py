"""A prepared folder is whole or absent, and never overwritten."""

import json
import os
from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.models import prepared as folder
from v05ray.models.prepared import MARKER, REQUIRED, describe, prepare_once


def write_model(path: Path) -> None:
    for name in REQUIRED:
        (path / name).write_text("x")


def test_built_once_then_found(tmp_path: Path):
    calls: list[Path] = []

    def build(path: Path) -> None:
        calls.append(path)
        write_model(path)

    target = tmp_path / "deep" / "model"
    assert prepare_once(target, {"model": "a"}, build) == target
    assert prepare_once(target, {"model": "a"}, build) == target
    assert len(calls) == 1
    assert describe(target) == {"model": "a"}
    assert sorted(p.name for p in target.parent.iterdir()) == ["model"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_its_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int, mode: int):
    def build(path: Path) -> None:
        write_model(path)
        (path / "model.safetensors").chmod(0o600)  # as safetensors writes it

    before = os.umask(umask)
    try:
        target = prepare_once(tmp_path / "model", {"model": "a"}, build)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {mode}
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_interrupted_build_leaves_nothing(tmp_path: Path):
    def build(path: Path) -> None:
        write_model(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_once(tmp_path / "model", {"model": "a"}, build)
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_build_is_not_published(tmp_path: Path):
    def build(path: Path) -> None:
        write_model(path)
        (path / "model.safetensors").unlink()

    with pytest.raises(ConfigError, match=r"lacks model\.safetensors"):
        prepare_once(tmp_path / "model", {"model": "a"}, build)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_not_overwritten(tmp_path: Path):
    target = prepare_once(tmp_path / "model", {"model": "a", "seed": 1}, write_model)
    with pytest.raises(ConfigError, match=r'holds .*"seed": 1.* asked for .*"seed": 2.*choose another folder'):
        prepare_once(target, {"model": "a", "seed": 2}, write_model)
    assert describe(target) == {"model": "a", "seed": 1}


def test_a_folder_of_someone_else_is_not_touched(tmp_path: Path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=f"no readable {MARKER}"):
        prepare_once(tmp_path, {"model": "a"}, write_model)
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_a_damaged_folder_is_named(tmp_path: Path):
    target = prepare_once(tmp_path / "model", {"model": "a"}, write_model)
    (target / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks tokenizer\.json; remove the folder"):
        prepare_once(target, {"model": "a"}, write_model)


def test_a_faster_twin_wins(tmp_path: Path):
    target = tmp_path / "model"

    def build(path: Path) -> None:
        write_model(path)
        target.mkdir()
        write_model(target)
        (target / MARKER).write_text(json.dumps({"model": "a"}))
        (target / "config.json").write_text("the twin's")

    assert prepare_once(target, {"model": "a"}, build) == target
    assert (target / "config.json").read_text() == "the twin's"


def test_the_marker_must_be_an_object(tmp_path: Path):
    (tmp_path / folder.MARKER).write_text("[]")
    with pytest.raises(ConfigError, match="holds list, not an object"):
        describe(tmp_path)

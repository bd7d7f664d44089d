import os
from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.storage.run_folder import RunFolder, check_output_dir, folder_to_resume, held, new_folder


def test_a_name_taken_gets_a_number(tmp_path: Path):
    assert [new_folder(tmp_path, "v05").path.name for _ in range(3)] == ["v05", "v05-2", "v05-3"]


def test_auto_is_the_newest_run_of_the_name_or_nothing_yet(tmp_path: Path):
    assert folder_to_resume(tmp_path, "v05", "auto") is None
    for name in ("v05", "v05-2", "v05-10", "v05-mini"):
        (tmp_path / name).mkdir()
    assert folder_to_resume(tmp_path, "v05", "auto") == RunFolder(tmp_path / "v05-10")
    assert folder_to_resume(tmp_path, "v05", str(tmp_path / "v05-2")) == RunFolder(tmp_path / "v05-2")
    with pytest.raises(ConfigError, match=r"--resume .*nowhere: no such run folder"):
        folder_to_resume(tmp_path, "v05", str(tmp_path / "nowhere"))


def test_two_processes_never_work_in_one_folder(tmp_path: Path):
    folder = new_folder(tmp_path, "v05")
    with held(folder):
        child = os.fork()
        if child == 0:
            try:
                with held(folder):
                    os._exit(0)
            except ConfigError as error:
                os._exit(7 if f"is in use by process {os.getppid()}: wait for its end" in str(error) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with held(folder):  # free again
        pass


def record(folder: Path, name: str) -> RunFolder:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"run: {{name: {name}}}\n")
    return RunFolder(folder)


def test_a_run_named_like_a_numbered_one_is_kept_apart_from_it(tmp_path: Path):
    other = record(tmp_path / "pre-2", "pre-2")
    assert folder_to_resume(tmp_path, "pre", "auto") is None
    assert folder_to_resume(tmp_path, "pre-2", "auto") == other
    first = record(tmp_path / "pre", "pre")
    assert folder_to_resume(tmp_path, "pre", "auto") == first
    assert new_folder(tmp_path, "pre").path.name == "pre-3"
    assert new_folder(tmp_path, "pre-2").path.name == "pre-2-2"
    newest = record(tmp_path / "pre-7", "pre")
    assert folder_to_resume(tmp_path, "pre", "auto") == newest


def test_the_first_run_of_a_name_gets_its_folder_beside_another_runs(tmp_path: Path):
    record(tmp_path / "pre-2", "pre-2")
    assert new_folder(tmp_path, "pre").path.name == "pre"


@pytest.mark.parametrize("place", ["file/below/runs", "file", "/proc/runs", "x" * 300])
def test_an_output_dir_that_cannot_be_made_is_refused(tmp_path: Path, place: str):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run.output_dir .* cannot be made or written to \("):
        check_output_dir(tmp_path / place)
    with pytest.raises(ConfigError, match=r"run.output_dir .* cannot be made or written to \("):
        new_folder(tmp_path / place, "v05")


def test_looking_at_an_output_dir_makes_nothing(tmp_path: Path):
    check_output_dir(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []

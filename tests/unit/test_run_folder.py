import os
from pathlib import Path

import pytest

from v05ray.registry import ConfigError
from v05ray.run_folder import RunFolder, folder_to_resume, held, new_folder


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

"""Each ending has an exit code of its own, the same wherever it is written."""

import re
from pathlib import Path

import pytest

from v05ray.cli import command as cli
from v05ray.errors import ConfigError, RunError
from v05ray.stopping.exit_codes import ExitCode, StoppedAtOnce

ROOT = Path(__file__).parents[3]


def test_each_ending_has_its_own():
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "USER_ERROR": 2,
        "STOPPED": 75,
        "STOPPED_EMPTY": 130,
    }


def test_help_and_docs_list_them_all(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    listed = re.findall(r"^ +(\d+)  ", capsys.readouterr().out, re.MULTILINE)
    assert [int(code) for code in listed] == list(ExitCode)
    documented = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    assert [int(code) for code in documented] == list(ExitCode)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("x must be 1"), 2, "v05ray: x must be 1\n"),
        (RunError("the disk is full"), 1, "v05ray: the disk is full\n"),
        (KeyboardInterrupt(), 130, "v05ray: stopped at once, before there was anything to save\n"),
        (
            StoppedAtOnce(None, "runs/x"),
            130,
            "v05ray: stopped at once; there is no checkpoint yet: `--resume runs/x` would begin at the start\n",
        ),
        (
            StoppedAtOnce(7, "runs/x"),
            75,
            "v05ray: stopped at once; the checkpoint of step 7 is whole: continue with --resume runs/x\n",
        ),
    ],
)
def test_an_error_becomes_its_code_and_one_line(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_doctor", fail)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == message

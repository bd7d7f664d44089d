import argparse
import asyncio
import json
import subprocess
import sys

import pytest

from tests.unit.replay.test_replay import NUM_PROMPTS, record
from v05ray.cli.replay import add_parsers
from v05ray.errors import ConfigError


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    asyncio.run(record(folder, num_steps=2))
    return folder


def main(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers(required=True))
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return parsed.run(parsed)


def test_replay_without_changes_is_the_run(run_dir, capsys):
    assert main("replay", run_dir) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("changed: nothing\n")
    assert f"decisions equal in every number for {2 * NUM_PROMPTS} of {2 * NUM_PROMPTS} prompts" in printed
    rows = {line[:22].strip(): line[22:].split() for line in printed.splitlines() if "  " in line}
    assert rows["prompts"] == [str(2 * NUM_PROMPTS)] * 2
    assert rows["rollouts"][0] == rows["rollouts"][1]


def test_replay_with_changes_says_them(run_dir, capsys):
    assert main("replay", run_dir, "--cost", "1e-3", "--halt", 0, "--estimator", "v05_eb", "--by-step") == 0
    printed = capsys.readouterr().out
    assert "rule_options: {} -> {'cost': 0.001}" in printed
    assert "halt_fraction: 0.25 -> 0.0" in printed
    assert "advantage: v05 -> v05_eb" in printed
    assert "the record ran out for" in printed
    assert printed.count("\nstep ") == 2


def test_replay_as_json(run_dir, capsys):
    options = ["--option", "n_max=5", "--steps", "2-2", "--mode", "rounds", "--json"]
    assert main("replay", run_dir / "ledger", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["rule_options"] == {"n_max": 5}
    assert report["settings"]["mode"] == "rounds"
    assert report["after"]["num_prompts"] == NUM_PROMPTS
    assert report["after"]["num_rollouts"] <= 5 * NUM_PROMPTS


def test_explain(run_dir, capsys):
    assert main("explain", run_dir, "--prompt", "p3", "--step", 2) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("step 2, prompt 'p3' (4 of 24, source 'fake')\n")
    assert "judged at k = 4" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "cost"], "option 'cost' is not of the form KEY=VALUE"),
        (["--steps", "x"], "--steps 'x' is neither a step nor a range"),
        (["--steps", "9"], "has no step to replay"),
        (["--cost", "-1"], "budget rule 'osla': cost must be finite and > 0"),
    ],
)
def test_bad_arguments_are_explained(run_dir, arguments, message):
    with pytest.raises(ConfigError, match=message):
        main("replay", run_dir, *arguments)


def test_a_folder_without_a_ledger_is_explained(tmp_path):
    with pytest.raises(ConfigError, match="there is no ledger at"):
        main("replay", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="there is no ledger at"):
        main("explain", tmp_path / "nothing", "--prompt", "p1")


def test_the_parser_loads_nothing_heavy():
    code = "import sys, v05ray.cli.replay; sys.exit(any(m in sys.modules for m in ('pyarrow', 'torch', 'mlflow')))"
    subprocess.run([sys.executable, "-c", code], check=True)

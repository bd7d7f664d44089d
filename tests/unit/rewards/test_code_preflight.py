"""What a run says about its sandboxes before it starts, and what it is refused for."""

from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.job import preflight
from v05ray.job.config_files import load_config
from v05ray.rewards.code import sandbox
from v05ray.rewards.code.sandbox import Isolation

JOB = Path(__file__).parents[3] / "jobs" / "tiny_cpu.yaml"
OPEN = Isolation("Landlock: not there", None, True)


def test_the_isolation_is_said(caplog):
    config = load_config(JOB, ["rewards.verifier=code"])
    (line,) = preflight.sandboxes(config)
    assert line.startswith("verifier code: programs have no network, no other processes (seccomp")
    caplog.set_level("INFO")
    preflight.prepare_verifiers(config)
    assert line in caplog.text
    assert preflight.sandboxes(load_config(JOB, [])) == []


def test_a_machine_that_cannot_shut_programs_in_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "isolation_here", lambda: OPEN)
    with pytest.raises(ConfigError, match="FILES OF THE USER OPEN"):
        preflight.prepare_verifiers(load_config(JOB, ["rewards.verifier=code"]))
    best = load_config(JOB, ["rewards.verifier={name: code, isolation: best_effort}"])
    assert "FILES OF THE USER OPEN" in preflight.sandboxes(best)[0]


def test_on_a_joined_cluster_its_own_machine_says_that(monkeypatch):
    monkeypatch.setattr(sandbox, "isolation_here", lambda: OPEN)
    assert preflight.sandboxes(load_config(JOB, ["rewards.verifier=code", "cluster.address=auto"])) == []


def test_a_deadline_that_comes_before_the_tests_end_is_refused():
    with pytest.raises(ConfigError, match=r"rewards.deadline_s 5"):
        preflight.prepare_verifiers(load_config(JOB, ["rewards.verifier=code", "rewards.deadline_s=5"]))

import argparse
from pathlib import Path

import pytest

from tests.unit.submit.fakes import FakeHead, FakeJob
from v05ray.cli.submit import add_parsers, describe, follow_to_end
from v05ray.errors import ConfigError
from v05ray.submit import client
from v05ray.submit.request import Request
from v05ray.submit.working_dir import Shipment

REQUEST = Request(Shipment({"a/b.txt": Path(__file__)}, 1), "echo", {"NAME": "value"}, {"run": "tiny"}, "tiny-1a")
URL = "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    "address", ["head:6379", "ray://head:10001", "auto", "http://", "http://head:port", "ftp://head:1"]
)
def test_an_address_that_is_no_dashboard_is_refused(address: str):
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        client.check_address(address, {})


def test_the_address_may_come_from_rays_own_variable_but_not_contradict_it():
    assert client.check_address(None, {"RAY_ADDRESS": URL + "/"}) == URL
    assert client.check_address(URL, {"RAY_ADDRESS": URL}) == URL
    with pytest.raises(ConfigError, match="unset RAY_ADDRESS"):
        client.check_address(URL, {"RAY_ADDRESS": "http://other:8265"})
    with pytest.raises(ConfigError, match="no cluster named"):
        client.check_address(None, {})


def test_a_head_that_does_not_answer_is_reported_with_a_fix():
    with pytest.raises(ConfigError, match=r"no answer from http://127.0.0.1:9 .*port-forward"):
        client.connect("http://127.0.0.1:9", {})


def test_a_password_in_the_address_is_not_shown():
    with pytest.raises(ConfigError) as refused:
        client.connect("http://me:hunter2-hunter2@127.0.0.1:9", {})
    assert "hunter2" not in str(refused.value)


def test_submitting_sends_the_files_and_takes_the_next_free_name():
    head = FakeHead(jobs={"tiny-1a": FakeJob("tiny-1a")})
    assert client.submit(head, REQUEST) == "tiny-1a-2"
    job = head.jobs["tiny-1a-2"]
    assert job.files == ["a/b.txt"]
    assert job.runtime_env["env_vars"] == {"NAME": "value"}
    assert not Path(job.runtime_env["working_dir"]).exists()


def test_a_head_that_is_not_ready_is_waited_for_and_a_refusal_is_not():
    not_yet = RuntimeError("Request failed with status code 500: No available agent to submit job")
    head = FakeHead(refusals=[not_yet, not_yet])
    assert client.submit(head, REQUEST, pause_s=0) == "tiny-1a"
    head = FakeHead(refusals=[RuntimeError("Request failed with status code 400: no")])
    with pytest.raises(RuntimeError, match="400"):
        client.submit(head, REQUEST, pause_s=0)


async def test_a_broken_stream_is_taken_up_where_it_broke():
    gone = RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
    tails = [(["one\n", "two\n"], gone), (["one\n", "two\nthr"], gone), (["one\ntwo\nthree\n", "four\n"], "SUCCEEDED")]
    head = FakeHead(jobs={"x": FakeJob("x")}, tails=tails)
    written: list[str] = []
    assert (await client.follow(head, "x", written.append)).status == "SUCCEEDED"
    assert "".join(written) == "one\ntwo\nthree\nfour\n"


async def test_a_head_that_stays_away_is_given_up():
    head = FakeHead(jobs={"x": FakeJob("x")}, tails=[([], ConnectionError("away")) for _ in range(9)])
    with pytest.raises(client.LostHead):
        await client.follow(head, "x", print, patience_s=0.2)


@pytest.mark.parametrize(
    ("status", "own", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 75, 75),
        ("FAILED", None, 1),
        ("FAILED", -9, 1),  # killed by a signal
        ("STOPPED", None, 1),  # by a request; Ray does not keep how the job ended
    ],
)
def test_the_jobs_exit_code_is_passed_on(status: str, own: int | None, code: int, capsys: pytest.CaptureFixture[str]):
    head = FakeHead(jobs={"x": FakeJob("x", driver_exit_code=own)}, tails=[(["out\n"], status)])
    assert follow_to_end(head, "x", URL) == code
    captured = capsys.readouterr()
    assert captured.out == "out\n"
    assert f"job x: {status}" in captured.err


def test_control_c_detaches_and_says_how_to_come_back(capsys: pytest.CaptureFixture[str]):
    class Interrupted(FakeHead):
        def get_job_info(self, job_id: str) -> FakeJob:
            raise KeyboardInterrupt

    assert follow_to_end(Interrupted(tails=[(["out\n"], None)]), "x", URL) == 130
    said = capsys.readouterr().err
    assert f"v05ray jobs logs x --follow --address {URL}" in said
    assert f"v05ray jobs stop x --address {URL}" in said


def test_an_unknown_job_is_answered_with_the_known_ones():
    head = FakeHead(jobs={"tiny-1": FakeJob("tiny-1")})
    with pytest.raises(ConfigError, match="no job 'x'; its jobs: tiny-1"), client.explained("x", head):
        head.get_job_info("x")


def test_stopping_waits_for_the_end_within_a_bound():
    head = FakeHead(jobs={"x": FakeJob("x")})
    assert client.stop(head, "x", wait_s=1, pause_s=0).status == "STOPPED"
    head = FakeHead(jobs={"x": FakeJob("x")}, status_after_stop="RUNNING")
    assert client.stop(head, "x", wait_s=0.05, pause_s=0.01).status == "RUNNING"


def test_a_described_job_shows_names_of_variables_alone():
    runtime_env = {"env_vars": {"HF_TOKEN": "hunter2-hunter2", "A": "hunter3-hunter3"}}
    text = describe(FakeJob("x", runtime_env=runtime_env, entrypoint="python", metadata={"recipe": "v05"}))
    assert "A, HF_TOKEN" in text
    assert "hunter" not in text
    assert "recipe:       v05" in text


def test_overrides_may_be_anywhere_among_the_options():
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    parsed = parser.parse_args(["submit", "j.yaml", "a=1", "--address", URL, "b=2", "--follow", "--env", "X", "c=3"])
    assert (parsed.config, parsed.overrides) == (Path("j.yaml"), ["a=1", "b=2", "c=3"])
    assert (parsed.address, parsed.follow, parsed.env) == (URL, True, ["X"])

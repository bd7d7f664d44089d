import json
from dataclasses import replace
from pathlib import Path

import pytest

from v05ray.cli import main
from v05ray.errors import ConfigError
from v05ray.storage.status import EVENTS, RunStatus, StatusWriter, describe, read_events, read_status, timeline

STATUS = RunStatus(
    time=1000.0,
    state="running",
    step=7,
    num_steps=20,
    generators={"generator-0": "ready", "generator-1": "stale", "generator-2": "placing"},
    wanted=3,
    fewest=1,
    most=4,
    outstanding_tokens=12_345,
    backlog_s=12.34,
    tokens_per_s=567.8,
    memory_mib={"learner": 2000.4, "generator-0": 1100.0},
    nodes={"head": 1, "generator": 2},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("recipe: v05\n")
    return tmp_path


def test_what_was_said_is_read_back_and_a_later_version_may_say_more(folder: Path):
    StatusWriter(folder).write(STATUS)
    assert read_status(folder) == STATUS
    written = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**written, "news": 1}))
    assert read_status(folder) == STATUS


def test_the_status_in_words():
    assert describe(STATUS, name="tiny", now=1001.0) == (
        "tiny: running\n"
        "  step        7 of 20\n"
        "  generators  1 ready at weight version 7, 3 wanted (allowed: 1 to 4)\n"
        "    generator-0   ready\n"
        "    generator-1   stale\n"
        "    generator-2   placing\n"
        "  backlog     12.3 s (at most 12,345 tokens outstanding; a generator does 568 tokens/s)\n"
        "  nodes       2 generator, 1 head\n"
        "  memory      generator-0 1,100 MiB, learner 2,000 MiB"
    )


def test_the_value_pool_is_shown_and_its_actors_where_they_come_and_go():
    fixed = replace(STATUS, values={"value-0": "ready"}, wanted_values=1, fewest_values=1, most_values=1)
    assert describe(fixed, name="tiny", now=1001.0).splitlines()[6:8] == [
        "  backlog     12.3 s (at most 12,345 tokens outstanding; a generator does 568 tokens/s)",
        "  value pool  1 ready, 1 wanted (allowed: 1)",
    ]
    growing = replace(fixed, values={"value-0": "ready", "value-1": "placing"}, wanted_values=2, most_values=3)
    assert describe(growing, name="tiny", now=1001.0).splitlines()[7:10] == [
        "  value pool  1 ready, 2 wanted (allowed: 1 to 3)",
        "    value-0       ready",
        "    value-1       placing",
    ]


def test_a_run_that_stopped_talking_is_not_called_running_and_one_that_ended_is_never_silent():
    assert "silent for 60 s: stuck, cut off, or killed" in describe(STATUS, name="tiny", now=1060.0)
    ended = replace(STATUS, state="ended")
    assert describe(ended, name="tiny", now=9e9).startswith("tiny: ended\n")
    assert "wanted" not in describe(ended, name="tiny", now=9e9)


def test_events_are_read_but_for_a_half_written_line_and_shown_from_the_first(folder: Path):
    times = iter([100.0, 103.5, 110.0])
    writer = StatusWriter(folder, clock=lambda: next(times))
    writer.event("nodes", {"nodes": {"head": 1}})
    writer.event("wanted", {"generators": 3, "before": 1, "by": "backlog", "backlog_s": None})
    writer.event("ready", {"generator": "generator-1"})
    with (folder / EVENTS).open("a") as file:
        file.write('{"time": 111.0, "ev')
    assert timeline(read_events(folder)).splitlines()[2:] == [
        "| 0 | nodes | nodes: 1 head |",
        "| 4 | wanted | generators: 3, before: 1, by: backlog |",
        "| 10 | ready | generator: generator-1 |",
    ]


def test_a_disk_that_refuses_ends_nothing_and_is_remembered(folder: Path):
    writer = StatusWriter(folder / "absent")
    writer.write(STATUS)
    writer.event("nodes", {})
    assert isinstance(writer.error, FileNotFoundError)


def test_folders_that_tell_nothing_are_named_with_the_reason(tmp_path: Path, folder: Path):
    with pytest.raises(ConfigError, match=r"is not a run's folder \(it has no config.yaml\)"):
        read_status(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="the run's actors have not come up yet"):
        read_status(folder)


def test_the_command_shows_an_ended_run_and_refuses_to_scale_it(folder: Path, capsys: pytest.CaptureFixture[str]):
    StatusWriter(folder).write(replace(STATUS, state="ended"))
    assert main(["status", str(folder)]) == 0
    assert "step        7 of 20" in capsys.readouterr().out
    assert main(["status", str(folder), "--timeline"]) == 0
    assert "no events yet" in capsys.readouterr().out
    assert main(["scale", str(folder), "--generators", "2"]) == 2
    assert "has ended" in capsys.readouterr().err
    StatusWriter(folder).write(STATUS)  # written in 1970: the process that wrote it is gone
    assert main(["scale", str(folder), "--generators", "2"]) == 2
    assert "it does not run any more, or cannot answer" in capsys.readouterr().err

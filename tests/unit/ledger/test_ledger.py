import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fakes import one_turn
from tests.unit.killing import kill_at_every_point, killed_at_work
from v05ray.ledger import DECISION_SCHEMA, ROLLOUT_SCHEMA, LedgerError, LedgerReader, LedgerWriter
from v05ray.ledger.recorded import RecordedTurn
from v05ray.ledger.writer import link
from v05ray.types import ComponentScore, Decision, Draw, Observation, Prior, Prompt, RolloutGroup, ScoredRollout, Stop

LEDGERS = Path(__file__).parents[1] / "ledgers"
META = {"rule": {"name": "osla", "cold_start": 2, "n_max": 3}, "mode": "async", "halt_fraction": 0.0625}


def make_group(prompt_id: str = "p1", rewards: tuple[float, ...] = (1.0, -1.0, 1.0), mark: str = "") -> RolloutGroup:
    """Two cold-start rollouts, one more, stop at three; `mark` distinguishes two recordings of one step."""
    scored = tuple(
        ScoredRollout(
            one_turn(prompt_id, i, f"{mark}answer {i}", (5, 6, 7)[: i + 1], (-0.5,) * (i + 1), "stop", 4, "g0", 0.25),
            reward,
            "correct" if reward > 0 else "wrong",
            "math",
            str(i),
        )
        for i, reward in enumerate(rewards)
    )
    stop = Stop(prompt_id, "cap")
    decisions = (
        Decision(Draw(prompt_id, 2), 0, None, 0.5, None, None, 2),
        Decision(Draw(prompt_id, 1), 2, 0.0, 0.5, 0.125, 3, 2),
        Decision(stop, 3, 1 / 3, 0.5, 0.0, 3, 1),
    )
    prompt = Prompt(prompt_id, "What is 1 + 2?", (1, 2, 3, 4), "3", "chain_sum")
    prior = Prior(prompt_id, 0.25 if mark else 0.5, 4, "v0", 0.375, "v0")  # so that the mark is in both files of a step
    return RolloutGroup(prompt, prior, scored, stop, decisions)


def test_a_ledger_without_the_verifiers_columns_is_still_read(tmp_path):
    LedgerWriter(tmp_path).append_step(1, [make_group()], {}, META)
    (path,) = tmp_path.glob("rollouts-*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["verifier", "extracted", "message", "components"]), path)
    (group,) = LedgerReader(tmp_path).groups(1)
    assert [(r.verdict, r.verifier, r.extracted, r.message, r.components) for r in group.rollouts[:2]] == [
        ("correct", None, None, None, ()),
        ("wrong", None, None, None, ()),
    ]


def test_the_scores_of_several_verifiers_come_back(tmp_path):
    group = make_group()
    both = (ComponentScore("math", 1.0, "correct"), ComponentScore("layout", -1.0, "error"))
    scored = (replace(group.scored[0], components=both), *group.scored[1:])
    LedgerWriter(tmp_path).append_step(1, [replace(group, scored=scored)], {}, META)
    (read,) = LedgerReader(tmp_path).groups(1)
    assert [rollout.components for rollout in read.rollouts] == [both, (), ()]


def test_turns_are_recorded_where_there_are_several(tmp_path):
    group = make_group()
    observation = Observation("no, again", (8, 9))
    longer = group.scored[1].rollout.then(
        observation, one_turn("p1", 1, "second", (4,), (-0.25,), "length", 5, "g1", 1.0)
    )
    scored = (group.scored[0], replace(group.scored[1], rollout=longer), group.scored[2])
    LedgerWriter(tmp_path).append_step(1, [replace(group, scored=scored)], {}, META)
    (back,) = LedgerReader(tmp_path).groups(1)
    assert [rollout.turns for rollout in back.rollouts if rollout.sample_index != 1] == [(), ()]
    rollout = back.rollouts[1]
    assert rollout.turns == (
        RecordedTurn(None, 0, "answer 1", 2, -1.0, "stop", 4, "g0", 0.25),
        RecordedTurn("no, again", 2, "second", 1, -0.25, "length", 5, "g1", 1.0),
    )
    assert (rollout.response, rollout.finish_reason, rollout.generator_id) == ("second", "length", "g1")
    assert (rollout.num_tokens, rollout.logprob_sum, rollout.policy_version, rollout.seconds) == (3, -1.25, 4, 1.25)


def test_a_file_without_several_turns_has_no_column_for_them(tmp_path):
    append(tmp_path, range(1, 2))
    (path,) = (tmp_path / "ledger").glob("rollouts-*.parquet")
    assert "turns" not in pq.read_schema(path).names
    assert LedgerReader(tmp_path / "ledger").rollouts().column("turns").to_pylist() == [None] * 6


@pytest.mark.parametrize("version", [1, 2])
def test_ledgers_of_earlier_versions_are_read(version):
    reader = LedgerReader(LEDGERS / f"version_{version}")
    assert json.loads((reader.folder / "step-000001.json").read_text())["format_version"] == version
    groups = [group for step in reader.steps for group in reader.groups(step)]
    assert len(groups) == 10
    assert all(rollout.turns == () for group in groups for rollout in group.rollouts)
    assert all((group.prior is not None and group.prior.raw is not None) == (version == 2) for group in groups)
    assert reader.check_conservation().ok


def append(folder: Path, steps: range, mark: str = "") -> None:
    writer = LedgerWriter(folder / "ledger")
    for step in steps:
        writer.append_step(step, [make_group("p1", mark=mark), make_group("p2", mark=mark)], {}, META)


def test_rows_hold_what_was_drawn(tmp_path):
    LedgerWriter(tmp_path).append_step(12, [make_group()], {"p1": [0.5, -1.5, 0.5]}, META)
    rows = LedgerReader(tmp_path).rollouts(12).to_pylist()
    assert rows[1] == {
        "step": 12,
        "position": 0,
        "prompt_id": "p1",
        "prompt": "What is 1 + 2?",
        "answer": "3",
        "source": "chain_sum",
        "prompt_tokens": 4,
        "sample_index": 1,
        "response": "answer 1",
        "reward": -1.0,
        "verdict": "wrong",
        "num_tokens": 2,
        "logprob_sum": -1.0,
        "finish_reason": "stop",
        "policy_version": 4,
        "generator_id": "g0",
        "seconds": 0.25,
        "advantage": -1.5,
        "verifier": "math",
        "extracted": "1",
        "message": "",
        "components": [],
        "turns": None,
    }
    decisions = LedgerReader(tmp_path).decisions(12).to_pylist()
    assert decisions[1] == {
        "step": 12,
        "position": 0,
        "prompt_id": "p1",
        "sequence": 1,
        "action": "draw",
        "num_rollouts": 1,
        "reason": None,
        "num_scored": 2,
        "mean": 0.0,
        "prior": 0.5,
        "bias_squared": 0.125,
        "target": 3,
        "open_prompts": 2,
        "group_prior": 0.5,
        "prior_origin": "v0",
        "prior_version": 4,
        "raw_prior": 0.375,
        "raw_prior_origin": "v0",
    }
    assert decisions[2]["action"] == "stop"
    assert decisions[2]["reason"] == "cap"


def test_groups_come_back_as_they_went_in(tmp_path):
    first, second = make_group("p2"), replace(make_group("p1", rewards=(1.0, 1.0, 0.3)), prior=None)
    LedgerWriter(tmp_path).append_step(1, [first, second], {"p2": [1.0, 0.0, -1.0]}, META)
    groups = LedgerReader(tmp_path).groups(1)
    assert [group.prompt_id for group in groups] == ["p2", "p1"]
    assert groups[0].decisions == first.decisions
    assert groups[0].prior == first.prior
    assert groups[1].prior is None
    assert groups[1].rewards == second.rewards
    assert groups[0].lengths == (1, 2, 3)
    assert groups[0].stop == first.stop
    assert [rollout.advantage for rollout in groups[0].rollouts] == [1.0, 0.0, -1.0]
    assert [rollout.advantage for rollout in groups[1].rollouts] == [None, None, None]


def test_the_greedy_rollout_is_kept_apart(tmp_path):
    group = make_group()
    greedy = ScoredRollout(one_turn("p1", -1, "greedy"), 1.0, "correct")
    LedgerWriter(tmp_path).append_step(1, [replace(group, greedy=greedy)], {"p1": [1, 2, 3]}, META)
    (back,) = LedgerReader(tmp_path).groups(1)
    assert back.greedy is not None
    assert (back.greedy.response, back.greedy.advantage) == ("greedy", None)
    assert back.rewards == group.rewards
    assert LedgerReader(tmp_path).check_conservation().ok


def test_all_steps_are_read_as_one_table(tmp_path):
    append(tmp_path, range(1, 4))
    reader = LedgerReader(tmp_path / "ledger")
    assert reader.steps == (1, 2, 3)
    assert reader.rollouts().num_rows == 3 * 2 * 3
    assert reader.rollouts().column("step").to_pylist() == sorted([1, 2, 3] * 6)
    assert reader.decisions(columns=["step", "action"]).column_names == ["step", "action"]
    assert reader.meta(2) == META


def test_an_empty_ledger_has_no_rows_and_all_columns(tmp_path):
    LedgerWriter(tmp_path)
    reader = LedgerReader(tmp_path)
    assert reader.steps == ()
    assert reader.rollouts().schema == ROLLOUT_SCHEMA
    assert reader.decisions().num_rows == 0


def test_a_step_without_groups_is_a_step(tmp_path):
    LedgerWriter(tmp_path).append_step(1, [], {}, META)
    assert LedgerReader(tmp_path).groups(1) == []
    assert LedgerReader(tmp_path).rollouts(1).schema.equals(ROLLOUT_SCHEMA)
    assert LedgerReader(tmp_path).decisions(1).schema.equals(DECISION_SCHEMA)


def test_a_step_written_again_replaces_it_and_those_after(tmp_path):
    append(tmp_path, range(1, 6))
    append(tmp_path, range(3, 4), mark="again: ")
    reader = LedgerReader(tmp_path / "ledger")
    assert reader.steps == (1, 2, 3)
    assert reader.groups(3)[0].rollouts[0].response == "again: answer 0"
    assert reader.groups(2)[0].rollouts[0].response == "answer 0"
    assert len(files_of(tmp_path)) == 3 * 3  # nothing of the old step 3, 4, 5 is left


def files_of(folder: Path) -> list[str]:
    return [path.name for path in (folder / "ledger").iterdir() if path.is_file()]


def test_steps_that_a_resume_repeats_are_set_aside_and_never_counted(tmp_path):
    append(tmp_path, range(1, 6))
    assert LedgerWriter(tmp_path / "ledger").truncate_after(2) == (3, 4, 5)
    reader = LedgerReader(tmp_path / "ledger")
    assert reader.steps == (1, 2)
    assert LedgerWriter(tmp_path / "ledger").truncate_after(2) == ()
    assert len(files_of(tmp_path)) == 2 * 3
    assert reader.check_conservation().num_scored == reader.rollouts().num_rows == 12
    (aside,) = reader.superseded
    assert aside.folder == tmp_path / "ledger" / "superseded" / "001"
    assert aside.steps == (3, 4, 5)
    assert aside.check_conservation().num_scored == 18

    append(tmp_path, range(3, 5), mark="again: ")
    assert LedgerWriter(tmp_path / "ledger").truncate_after(3) == (4,)
    assert [aside.steps for aside in reader.superseded] == [(3, 4, 5), (4,)]
    assert reader.superseded[1].groups(4)[0].rollouts[0].response == "again: answer 0"


def test_the_finished_prompts_of_a_step_given_up_are_kept_beside_the_ledger(tmp_path):
    append(tmp_path, range(1, 3))
    writer = LedgerWriter(tmp_path / "ledger")
    assert writer.set_aside(3, [], {}, META) is None
    folder = writer.set_aside(3, [make_group("p2")], {"p2": [0.5, -1.5, 0.5]}, META)
    reader = LedgerReader(tmp_path / "ledger")
    assert reader.steps == (1, 2)
    (aside,) = reader.superseded
    assert aside.folder == folder
    assert aside.rollouts(3).column("advantage").to_pylist() == [0.5, -1.5, 0.5]


def test_where_there_can_be_no_second_name_it_is_a_copy(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:  # links never cross file systems
        append(Path(elsewhere), range(1, 2))
        link(Path(elsewhere) / "ledger" / "rollouts-000001.parquet", tmp_path / "copy.parquet")
    assert pq.read_table(tmp_path / "copy.parquet").num_rows == 6


def test_conservation_of_a_whole_record(tmp_path):
    append(tmp_path, range(1, 3))
    report = LedgerReader(tmp_path / "ledger").check_conservation()
    assert (report.num_steps, report.num_prompts, report.num_drawn, report.num_scored) == (2, 4, 12, 12)
    assert report.ok


def broken_groups():
    good = make_group()
    yield replace(good, scored=good.scored[:2]), "3 rollouts drawn, 2 scored"
    yield replace(good, scored=(*good.scored, good.scored[0])), "4 rollouts scored, 3 drawn"
    yield replace(good, scored=(good.scored[0], *good.scored[:2])), "a sample index is twice among [0, 0, 1]"
    stray = replace(good.scored[2], rollout=replace(good.scored[2].rollout, sample_index=7))
    yield replace(good, scored=(*good.scored[:2], stray)), "a sample index of [0, 1, 7] was never drawn (3 were)"
    yield replace(good, decisions=good.decisions[:2]), "0 stops, expected one, as the last decision"
    yield replace(good, decisions=(*good.decisions, good.decisions[2])), "2 stops, expected one, as the last decision"
    first, second, stop = good.decisions
    yield replace(good, decisions=(first, stop, second)), "1 stops, expected one, as the last decision"


@pytest.mark.parametrize(("group", "problem"), broken_groups())
def test_conservation_names_what_is_wrong(tmp_path, group, problem):
    LedgerWriter(tmp_path).append_step(7, [group], {}, META)
    report = LedgerReader(tmp_path).check_conservation()
    assert not report.ok
    assert f"step 7, prompt 'p1': {problem}" in report.problems


def test_conservation_knows_the_cap_and_the_aborted(tmp_path):
    writer = LedgerWriter(tmp_path)
    writer.append_step(1, [make_group()], {}, META | {"rule": {"name": "osla", "n_max": 2}})
    group = make_group()
    halted = Stop("p1", "halted")
    decisions = (*group.decisions[:2], replace(group.decisions[2], action=halted))
    aborted = replace(group, scored=group.scored[:2], stop=halted, decisions=decisions)
    writer.append_step(2, [aborted], {}, META | {"on_halt": "abort"})
    report = LedgerReader(tmp_path).check_conservation()
    assert (report.num_drawn, report.num_scored, report.num_aborted) == (6, 5, 1)
    assert report.problems == ("step 1, prompt 'p1': 3 rollouts drawn, n_max is 2",)


def test_refuses_what_does_not_fit(tmp_path):
    writer = LedgerWriter(tmp_path)
    with pytest.raises(ValueError, match="step 3, prompt 'p1': 2 advantages for 3 rollouts"):
        writer.append_step(3, [make_group()], {"p1": [1.0, 2.0]}, META)
    with pytest.raises(ValueError, match="step 3 has more than one group of prompt 'p1'"):
        writer.append_step(3, [make_group(), make_group()], {}, META)
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.append_step(3, [], {}, {"cost": float("nan")})
    assert LedgerReader(tmp_path).steps == ()


def test_errors_name_path_and_step(tmp_path):
    with pytest.raises(LedgerError, match=r"there is no ledger at .*nowhere"):
        LedgerReader(tmp_path / "nowhere")
    append(tmp_path, range(1, 3))
    reader = LedgerReader(tmp_path / "ledger")
    with pytest.raises(LedgerError, match="has no step 9; it has steps 1 to 2"):
        reader.groups(9)
    (tmp_path / "ledger" / "rollouts-000001.parquet").write_bytes(b"PAR1 half of a file")
    with pytest.raises(LedgerError, match=r"damaged.*rollouts-000001\.parquet"):
        reader.rollouts()
    (tmp_path / "ledger" / "rollouts-000001.parquet").unlink()
    with pytest.raises(LedgerError, match=r"is gone.*rollouts-000001\.parquet"):
        reader.rollouts(1)


def test_a_newer_format_is_refused(tmp_path):
    append(tmp_path, range(1, 2))
    path = tmp_path / "ledger" / "step-000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(LedgerError, match="has ledger format 99, this v05ray reads up to 2; install a newer v05ray"):
        LedgerReader(tmp_path / "ledger").meta(1)


def test_a_column_added_later_reads_as_null_in_old_steps(tmp_path):
    append(tmp_path, range(1, 2))
    path = tmp_path / "ledger" / "rollouts-000001.parquet"
    pq.write_table(pq.read_table(path).drop(["verdict"]), path)
    assert LedgerReader(tmp_path / "ledger").rollouts().column("verdict").to_pylist() == [None] * 6


def test_an_unwritable_place_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot write a ledger at .*file/ledger: Not a directory"):
        LedgerWriter(tmp_path / "file" / "ledger")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.unit.ledger.test_ledger import append, make_group, META
from v05ray.ledger import LedgerError, LedgerReader, LedgerWriter
folder = Path(sys.argv[1])
append(folder, range(1, 3))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    LedgerWriter(folder / "ledger").append_step(3, [make_group()], {}, META)
except LedgerError as error:
    print(error)
"""


def test_a_disk_that_refuses_is_a_clear_error_and_loses_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"cannot write step 3 of the ledger at {tmp_path / 'ledger'}: " in done.stdout
    assert "the steps before it are safe" in done.stdout
    assert LedgerReader(tmp_path / "ledger").check_conservation().num_scored == 12
    append(tmp_path, range(3, 4))
    assert LedgerReader(tmp_path / "ledger").steps == (1, 2, 3)


def prepare_four_steps(folder: Path) -> None:
    append(folder, range(1, 5))


def rewrite_second_step(folder: Path) -> None:
    append(folder, range(2, 4), mark="again: ")


def test_killed_at_every_point_of_a_rewrite_the_record_is_one_trajectory(tmp_path):
    folders = kill_at_every_point(f"{__name__}:prepare_four_steps", f"{__name__}:rewrite_second_step", tmp_path)
    assert len(folders) > 15
    seen = set()
    for folder in folders:
        reader = LedgerReader(folder / "ledger")
        assert reader.check_conservation().ok
        seconds = {step: reader.groups(step)[1] for step in reader.steps}
        assert reader.steps == tuple(range(1, len(reader.steps) + 1))  # without a hole
        # The old steps 3 and 4 count or were set aside, whenever the writer was killed: never both, never neither.
        counting = [s for s in (3, 4) if s in seconds and seconds[s].rollouts[0].response == "answer 0"]
        aside_steps = [step for aside in reader.superseded for step in aside.steps]
        assert sorted(counting + aside_steps) == [3, 4]
        assert all(aside.check_conservation().ok for aside in reader.superseded)
        history = tuple(group.rollouts[0].response for group in seconds.values())
        seen.add(history)
        priors = [group.prior for group in seconds.values()]
        assert [p.value for p in priors if p] == [0.25 if "again" in text else 0.5 for text in history]
        append(folder, range(5, 6))  # the next writer repairs what is left and appends
        named = files_of(folder)
        assert len(named) == 3 * len(LedgerReader(folder / "ledger").steps)
    old, new = "answer 0", "again: answer 0"
    assert seen == {(old,) * 4, (old,) * 3, (old,) * 2, (old, new), (old, new, new)}


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tests.unit.ledger.test_ledger import make_group, META
from v05ray.ledger import LedgerWriter
writer = LedgerWriter(Path(sys.argv[1]))
for step in range(1, 10_000):
    writer.append_step(step, [make_group(f"p{i}") for i in range(50)], {}, META)
    print(step, flush=True)
"""


def test_a_killed_run_keeps_every_step_it_had_recorded(tmp_path):
    last = killed_at_work(WRITE_FOR_EVER, str(tmp_path))
    reader = LedgerReader(tmp_path)
    assert reader.steps in (tuple(range(1, last + 1)), tuple(range(1, last + 2)))
    assert reader.check_conservation().ok

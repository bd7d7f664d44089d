import asyncio
import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.killing import kill_at_every_point, killed_at_work
from v05ray.config.dotted import flatten
from v05ray.errors import ConfigError
from v05ray.storage.checkpoint import CheckpointError, Checkpoints, check_config

CONFIG = {
    "recipe": "v05",
    "run": {"num_steps": 30, "seed": 0, "keep_checkpoints": 2},
    "learner": {"learning_rate": 1e-6, "betas": (0.9, 0.95)},
    "generators": {"count": 1},
    "data": {"train": {"name": "reasoning_gym", "task": "chain_sum"}},
}


def learner_writing(text: str):
    async def write(folder: Path) -> None:
        (folder / "rank_0").mkdir()
        (folder / "rank_0" / "model.bin").write_text(text)

    return write


def save(run_dir: Path, step: int, text: str = "weights", **options) -> Path:
    checkpoints = Checkpoints(run_dir, CONFIG, **options)
    return asyncio.run(checkpoints.save(step, {"step": step, "text": text}, learner_writing(text)))


def test_what_was_saved_is_loaded(tmp_path):
    state = {"cursor": 7, "support": [{"text": "1 + 2", "score": -0.1}], "rng": random.Random(3).getstate(), "x": None}
    checkpoints = Checkpoints(tmp_path, CONFIG)
    folder = asyncio.run(checkpoints.save(10, state, learner_writing("tensors"), policy_version=9))
    assert folder == tmp_path / "checkpoints" / "step-000010"
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.folder, latest.skipped) == (folder, ())
    back = checkpoints.load(folder)
    assert (back.step, back.policy_version) == (10, 9)
    assert back.state["support"] == state["support"]
    assert back.config["learner"]["betas"] == [0.9, 0.95]
    assert (back.learner_folder / "rank_0" / "model.bin").read_text() == "tensors"
    version, internal, gauss = back.state["rng"]
    restored = random.Random()
    restored.setstate((version, tuple(internal), gauss))
    assert restored.random() == random.Random(3).random()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=25)  # each example writes to the disk and flushes it
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_json_state_comes_back_exactly(tmp_path_factory, state):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"), CONFIG)
    assert checkpoints.load(asyncio.run(checkpoints.save(1, state, learner_writing("w")))).state == state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"estimator": {"counts": {3: 1}}}, "state.estimator.counts has the key 3; a checkpoint's keys are strings"),
        ({"rng": [1, {2}]}, r"state.rng\[1\] is a set; a checkpoint's state holds JSON values only"),
        ({"folder": Path("x")}, "state.folder is a PosixPath; a checkpoint's state holds JSON values only"),
    ],
)
def test_state_that_would_not_come_back_is_refused_by_its_place(tmp_path, state, message):
    with pytest.raises(TypeError, match=message):
        asyncio.run(Checkpoints(tmp_path, CONFIG).save(1, state, learner_writing("w")))
    assert Checkpoints(tmp_path, CONFIG).latest() is None


def test_the_oldest_are_pruned(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000020", "step-000030"]


def test_a_damaged_one_does_not_count_among_those_kept(tmp_path):
    save(tmp_path, 10, keep=2)
    (save(tmp_path, 20, keep=2) / "state.json").unlink()
    save(tmp_path, 30, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000010", "step-000020", "step-000030"]


def test_saving_an_earlier_step_removes_the_later_ones(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    save(tmp_path, 15, "new trajectory")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000010", "step-000015"]


def test_the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, 10, "first")
    folder = save(tmp_path, 10, "second")
    assert (folder / "learner" / "rank_0" / "model.bin").read_text() == "second"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000010"]


def truncate_weights(folder: Path) -> None:
    (folder / "learner" / "rank_0" / "model.bin").write_text("wei")


def flip_a_byte(folder: Path) -> None:
    (folder / "learner" / "rank_0" / "model.bin").write_text("Weights")


def lose_the_state(folder: Path) -> None:
    (folder / "state.json").unlink()


def halve_the_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_weights, r"model\.bin is damaged: 3 bytes, 7 were written"),
        (flip_a_byte, r"model\.bin is damaged: its content is not what was written"),
        (lose_the_state, r"state\.json is missing"),
        (halve_the_manifest, r"manifest\.json is damaged"),
        (lose_the_manifest, r"step-000020 is no checkpoint: it has no manifest\.json"),
    ],
)
def test_a_damaged_one_is_skipped_and_named(tmp_path, damage, message):
    good = save(tmp_path, 10)
    bad = save(tmp_path, 20)
    damage(bad)
    checkpoints = Checkpoints(tmp_path, CONFIG)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.folder == good
    assert len(latest.skipped) == 1
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(bad)
    shutil.rmtree(good)
    with pytest.raises(CheckpointError, match=f"no checkpoint can be used:\n.*{message}"):
        checkpoints.latest()


def test_a_newer_format_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="has checkpoint format 2, this v05ray reads up to 1"):
        Checkpoints(tmp_path, CONFIG).load(folder)


def test_another_config_is_refused_by_its_keys(tmp_path):
    folder = save(tmp_path, 10)
    other = CONFIG | {
        "run": {"num_steps": 60, "seed": 1, "keep_checkpoints": 5},
        "data": {"train": {"name": "jsonl", "path": "x"}},
        "generators": {"count": 8},
    }
    with pytest.raises(ConfigError) as caught:
        Checkpoints(tmp_path, other).load(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{folder} belongs to another config:"
    assert lines[1:5] == [
        "  data.train.name: 'reasoning_gym' in the checkpoint, 'jsonl' now",
        "  data.train.path: 'unset' in the checkpoint, 'x' now",
        "  data.train.task: 'chain_sum' in the checkpoint, 'unset' now",
        "  run.seed: 0 in the checkpoint, 1 now",
    ]
    assert "run.num_steps" in lines[5]  # what may change is said
    assert "generators.*" in lines[5]


@pytest.mark.parametrize(
    "changes",
    [
        {"run": {"num_steps": 99}},
        {"generators": {"count": 9}},
        {"evaluation": {"every": 3}},
        {"tracking": {"uri": "x"}},
    ],
)
def test_what_may_change_on_resume(changes):
    before = {"run": {"num_steps": 1}, "generators": {"count": 1}, "evaluation": {"every": 1}, "tracking": {"uri": "y"}}
    check_config(before, before | changes, where="here")


def test_secrets_do_not_go_into_the_manifest(tmp_path):
    config = CONFIG | {"tracking": {"uri": "http://me:hunter22@host"}, "data": {"train": {"hf_token": "hunter33"}}}
    checkpoints = Checkpoints(tmp_path, config)
    folder = asyncio.run(checkpoints.save(1, {}, learner_writing("w")))
    assert "hunter" not in (folder / "manifest.json").read_text()
    assert checkpoints.load(folder).step == 1


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2, 3], "e": {}}
    assert flatten({"a": [{"b": 1}, {"b": 2}], "c": []}) == {"a.0.b": 1, "a.1.b": 2, "c": []}


def test_a_learner_that_fails_leaves_the_older_one(tmp_path):
    good = save(tmp_path, 10)

    async def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("rank 1 died")

    checkpoints = Checkpoints(tmp_path, CONFIG)
    with pytest.raises(RuntimeError, match="rank 1 died"):
        asyncio.run(checkpoints.save(20, {}, fail))
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.folder, latest.skipped) == (good, ())
    save(tmp_path, 20)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000010", "step-000020"]


def test_a_disk_that_refuses_is_a_clear_error(tmp_path):
    async def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    with pytest.raises(
        CheckpointError, match=r"cannot write the checkpoint of step 20 at .*: No space left on device; "
    ):
        asyncio.run(Checkpoints(tmp_path, CONFIG).save(20, {}, full))


def prepare_two(folder: Path) -> None:
    save(folder, 10, "first")
    save(folder, 20, "first")


def save_over_the_second(folder: Path) -> None:
    save(folder, 20, "second", keep=1)


def test_killed_at_every_point_there_is_always_a_whole_one(tmp_path):
    folders = kill_at_every_point(f"{__name__}:prepare_two", f"{__name__}:save_over_the_second", tmp_path)
    assert len(folders) > 20
    seen = []
    for folder in folders:
        checkpoints = Checkpoints(folder, CONFIG)
        latest = checkpoints.latest()
        assert latest is not None
        assert latest.skipped == ()
        saved = checkpoints.load(latest.folder)
        assert saved.step == 20  # never back to 10: the old 20 counts until the new one does
        assert (saved.learner_folder / "rank_0" / "model.bin").read_text() == saved.state["text"]
        seen.append(saved.state["text"])
        assert checkpoints.load(save(folder, 30, keep=1)).step == 30
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000030"]
    assert seen == sorted(seen)  # "first" up to one moment, "second" from there on
    assert seen[0] == "first"
    assert seen[-1] == "second"


SAVE_FOR_EVER = """
import sys
from pathlib import Path
from tests.unit.storage.test_checkpoint import save
for step in range(1, 10_000):
    save(Path(sys.argv[1]), step, "x" * 100_000)
    print(step, flush=True)
"""


def test_a_killed_run_has_its_last_checkpoint(tmp_path):
    last = killed_at_work(SAVE_FOR_EVER, str(tmp_path))
    checkpoints = Checkpoints(tmp_path, CONFIG)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.skipped == ()
    assert checkpoints.load(latest.folder).step in (last, last + 1)


def test_a_full_disk_is_a_clear_error_and_the_checkpoint_before_is_whole(tmp_path):
    import torch

    before = save(tmp_path, 1)

    async def write_bytes(folder: Path) -> None:
        (folder / "model.bin").symlink_to("/dev/full")  # the kernel's own ENOSPC
        (folder / "model.bin").write_bytes(b"weights" * 10_000)

    async def write_tensors(folder: Path) -> None:
        (folder / "model.pt").symlink_to("/dev/full")
        torch.save(torch.zeros(1_000_000), folder / "model.pt")

    async def fail(folder: Path) -> None:
        raise RuntimeError("NaN in the weights")

    checkpoints = Checkpoints(tmp_path, CONFIG)
    place = rf"cannot write the checkpoint of step 2 at {tmp_path}/checkpoints/step-000002: "
    with pytest.raises(CheckpointError, match=rf"{place}No space left on device; free some space or lower"):
        asyncio.run(checkpoints.save(2, {}, write_bytes))
    with pytest.raises(CheckpointError, match=rf"{place}the disk takes no more .*; free some space or lower"):
        asyncio.run(checkpoints.save(2, {}, write_tensors))
    with pytest.raises(RuntimeError, match="NaN in the weights") as caught:
        asyncio.run(checkpoints.save(2, {}, fail))
    assert not isinstance(caught.value, CheckpointError)
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.folder, latest.step) == (before, 1)

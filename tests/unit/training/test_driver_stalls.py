"""What a run names when one of its parts, or a disk, does not come back: the whole loop on in-process fakes."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import (
    FakeGenerator,
    FakeLearner,
    FakeRewardPool,
    FakeValuePool,
)
from tests.unit.training.world import NAMES, World, config_of, trainer_of
from v05ray.ledger import LedgerWriter
from v05ray.ports import BatchRequest, Served, Weights
from v05ray.stopping.disk import Disk, DiskStalled
from v05ray.stopping.watchdog import Stalled
from v05ray.training.driver import Trainer
from v05ray.types import RolloutGroup


async def stalled_trainer(
    world: World, folder: Path, *stages: str, notes: list[str] | None = None, eval_names: tuple[str, ...] = ()
) -> Trainer:
    """A trainer that gives these stages up after .3 s, which others may well take on a busy machine."""
    config = config_of(run={"num_steps": 2}, generators={"draw_timeout_s": 90.0, "load_timeout_s": 90.0})
    trainer = await trainer_of(config, world, folder, eval_names=eval_names)
    watchdog, watched = trainer._watchdog, trainer._watchdog.stage

    def stage(name: str, *arguments: Any, **options: Any) -> Any:
        watchdog._limit_s = watchdog._disk_limit_s = 0.3 if name in stages else 90.0
        watchdog._note_s = 0.1 if name in stages else 90.0
        return watched(name, *arguments, **options)

    watchdog.stage, watchdog._reply_s = stage, 0.1
    if notes is not None:
        watchdog._note = notes.append
    return trainer


async def test_a_frozen_value_actor_is_named(tmp_path: Path):
    trainer = await stalled_trainer(World(values=FakeValuePool(latency=60.0)), tmp_path, "prior")
    with pytest.raises(Stalled, match=r"step 1, prior: .* waiting for value-0 \(prediction for \d s\)"):
        await trainer.run()


async def test_a_frozen_generator_is_named_with_the_prompts_it_holds(tmp_path: Path):
    world, notes = World(), []
    world.generator.latency = lambda name, index: 60.0 if name in ("p3", "p7") else 0.0
    started = time.monotonic()
    with pytest.raises(Stalled) as caught:
        await (await stalled_trainer(world, tmp_path, "draw, score and learn", notes=notes)).run()
    assert time.monotonic() - started < 20
    said = str(caught.value)
    assert "draw, score and learn: no progress for 0.3 s, waiting for prompt" in said
    held = {name for name in ("p3", "p7") if f"{name!r} (4 draws at g0 for " in said}
    assert held
    others = set(NAMES) - held
    assert not any(f"{name!r}" in said for name in others)
    assert notes[0].startswith("step 1, draw, score and learn: nothing for ")
    assert all(f"{name!r} (4 draws at g0 for " in notes[0] for name in held)


async def test_a_verdict_that_does_not_come_is_named(tmp_path: Path):
    trainer = await stalled_trainer(World(rewards=FakeRewardPool(latency=60.0)), tmp_path, "draw, score and learn")
    with pytest.raises(Stalled, match=r"'p\d+' \(4 verdicts at the reward actor for \d s\)"):
        await trainer.run()


async def test_a_generator_that_does_not_load_the_weights_is_named(tmp_path: Path):
    class Deaf(FakeGenerator):
        async def load_weights(self, weights: Weights) -> Served:
            await asyncio.Event().wait()
            return Served(weights.version)

    world = World(generator=Deaf({name: [1.0, -1.0] for name in NAMES}))
    with pytest.raises(Stalled, match=r"step 1, weights: .* waiting for g0 \(load of version 1 for \d s\)"):
        await (await stalled_trainer(world, tmp_path, "weights")).run()


@pytest.mark.parametrize(("method", "stage"), [("accumulate", "draw, score and learn"), ("step", "update")])
async def test_a_frozen_learner_rank_is_named(tmp_path: Path, method: str, stage: str):
    class Slow(FakeLearner):
        async def accumulate(self, samples) -> None:
            self.latency = 60.0 if method == "accumulate" else 0.0
            await super().accumulate(samples)
            self.latency = 60.0

    with pytest.raises(Stalled, match=rf"step 1, {stage}: .* waiting for learner rank 0 \({method} for \d s\)"):
        await (await stalled_trainer(World(learner=Slow()), tmp_path, stage)).run()


async def test_a_frozen_scheduler_is_named_itself(tmp_path: Path):
    trainer = await stalled_trainer(World(), tmp_path, "draw, score and learn")
    scheduler = trainer._roles.scheduler

    class Frozen:
        async def _never(self, *_: object) -> Any:
            await asyncio.Event().wait()

        waiting = status = _never

        def __getattr__(self, name: str) -> Any:
            return getattr(scheduler, name)

        async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
            async for group in scheduler.run(batch):
                yield group
                await self._never()

    object.__setattr__(trainer._roles, "scheduler", Frozen())
    started = time.monotonic()
    with pytest.raises(Stalled) as caught:
        await trainer.run()
    assert time.monotonic() - started < 20
    assert "step 1, draw, score and learn: no progress for 0.3 s, waiting for prompts 'p" in str(caught.value)
    assert "; the scheduler (no answer for 0 s); raise" in str(caught.value)


class HangingWriter(LedgerWriter):
    """Its disk hangs at every step, as one whose mount is dead: the FIFO is never read."""

    def append_step(self, step, groups, advantages, meta) -> None:
        fifo = self.folder / "hangs"
        os.mkfifo(fifo)
        fifo.write_text("x")


async def test_a_ledger_whose_disk_hangs_is_reported_and_ends_the_run_with_its_path(tmp_path: Path):
    notes: list[str] = []
    trainer = await stalled_trainer(World(), tmp_path, "ledger", notes=notes)
    trainer._steps._ledger = HangingWriter(tmp_path / "ledger")
    started = time.monotonic()
    with pytest.raises(DiskStalled, match=rf"step 1, ledger: .*the disk of {tmp_path}/ledger hangs.*--resume"):
        await trainer.run()
    assert time.monotonic() - started < 20
    assert notes[0].startswith("step 1, ledger: nothing for ")
    assert f"waiting for the disk (work at {tmp_path}/ledger for " in notes[0]
    await asyncio.to_thread((tmp_path / "ledger" / "hangs").read_text)  # lets the thread go


@pytest.mark.parametrize(("disk_hangs", "kind"), [(False, Stalled), (True, DiskStalled)])
async def test_a_checkpoint_or_an_export_that_does_not_end_is_reported_with_the_rank(
    tmp_path: Path, disk_hangs: bool, kind: type[Exception]
):
    class Deaf(FakeLearner):
        async def save(self, folder: Path) -> None:
            with self.given("learner rank 0", "save"):
                await asyncio.Event().wait()

        async def export(self, folder: Path) -> None:
            with self.given("learner rank 0", "export"):
                await asyncio.Event().wait()

    class Judged(Disk):
        async def responds(self, folder: Path, *, within_s: float = 0.0) -> bool:
            return not disk_hangs

    trainer = await stalled_trainer(World(learner=Deaf()), tmp_path, "checkpoint", "export")
    trainer._watchdog._disk = Judged()
    with pytest.raises(kind, match=r"step 2, checkpoint: .*learner rank 0 \(save for \d s\)"):
        await trainer.run()
    with pytest.raises(kind, match=r"step 2, export: .*learner rank 0 \(export for \d s\)"):
        await trainer.export(tmp_path / "model")


async def test_a_stalled_evaluation_names_generator_or_verifier(tmp_path: Path):
    for world, named in (
        (World(generator=FakeGenerator({n: [1.0] for n in NAMES}, latency=60.0)), r"draws? at g0"),
        (World(rewards=FakeRewardPool(latency=60.0)), "verdicts? at the reward actor"),
    ):
        trainer = await stalled_trainer(world, tmp_path, "evaluation", eval_names=("p0", "p1"))
        with pytest.raises(Stalled, match=rf"step 0, evaluation: .*'p[01]' \(\d {named} for \d s"):
            await trainer.run()

"""Which updates are proved, on what, and what of it reaches the metrics, the summary and the console."""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.fakes import FakeGenerator, FakeLearner
from tests.unit.training.test_driver import NAMES, World, config_of, trainer_of
from v05ray.config import WeightsConfig
from v05ray.job.config_files import make_config
from v05ray.ports import Served, UpdateReport, Weights
from v05ray.training.progress import Progress
from v05ray.training.proving import NUM_SEQUENCES, UpdateTotals, make_probe, update_metrics
from v05ray.types import ProbeSequence, TrainSample, WeightsProof

PROOF = WeightsProof({"w": 1, "experts": None})


@dataclass
class ProvingLearner(FakeLearner):
    """Checksums every version; its log-probabilities of the probe are those of the temperature asked for."""

    asked: list[tuple[list[TrainSample], bool, float | None]] = field(default_factory=list)

    async def weights(self, version: int) -> Weights:
        """With a checksum of the one weight."""
        return replace(await super().weights(version), proof=WeightsProof({"w": version}), share_changed=0.25)

    async def logprobs(self, samples, *, share_prefix, temperature=None):
        """Remembers what it was asked for."""
        if temperature is not None:
            self.asked.append((list(samples), share_prefix, temperature))
        return await super().logprobs(samples, share_prefix=share_prefix)


@dataclass
class WrongOnce(FakeGenerator):
    """Serves something else than version 2 the first time."""

    num_wrong: int = 0

    async def load_weights(self, weights: Weights) -> Served:
        """Answers."""
        served = await super().load_weights(weights)
        if weights.version == 2 and not self.num_wrong:
            self.num_wrong += 1
            return replace(served, proof=WeightsProof({"w": 77}))
        return replace(served, num_bytes=3 << 20, load_s=2.0, proof_s=0.5)


async def test_every_update_after_the_first_comparison_is_proved_on_its_responses(tmp_path: Path):
    generator = FakeGenerator({name: [1.0, -1.0] for name in NAMES}, num_tokens=5)
    learner = ProvingLearner()
    world = World(learner=learner, generator=generator)
    trainer = await trainer_of(config_of(model={"agreement_nats": 0.02}), world, tmp_path)
    await trainer.begin()
    await trainer.run()
    first, *later = world.generator.loaded
    assert (first.version, first.probe, first.proof) == (0, (), WeightsProof({"w": 0}))  # nothing to prove it on yet
    assert [weights.version for weights in later] == [1, 2, 3, 4]
    (probe,) = {weights.probe for weights in later}
    assert len(probe) == min(NUM_SEQUENCES, len(NAMES))
    assert {len(one.response_ids) for one in probe} == {5}
    for weights in later:
        assert weights.proof is not None
        assert weights.proof.checksums == {"w": weights.version}
        assert [len(one) for one in weights.proof.logprobs] == [5] * len(probe)
        assert weights.tolerance_nats == 0.02
    for samples, *_ in learner.asked:  # as a learner demands of a sample
        assert all(len(one.response_ids) == len(one.logprobs) == len(one.advantages) for one in samples)
    assert {(share, temperature) for _, share, temperature in learner.asked} == {(False, 1.0)}


async def test_a_barred_generator_is_in_console_metrics_and_summary_and_the_run_goes_on(tmp_path: Path):
    generator = WrongOnce({name: [1.0, -1.0] for name in NAMES}, restarts=True)
    world = World(learner=ProvingLearner(), generator=generator)
    trainer = await trainer_of(config_of(), world, tmp_path)
    said = io.StringIO()
    trainer._steps._progress = Progress(num_steps=4, file=said, live=False)
    await trainer.begin()
    state = await trainer.run()
    assert state.step == 4
    assert "g0 does not serve version 2: w is not as sent; it is restarted\n" in said.getvalue()
    steps = {step: metrics for step, metrics in world.tracker.metrics if "weights/barred" in metrics}
    assert [steps[step]["weights/barred"] for step in (1, 2, 3, 4)] == [0, 1, 1, 1]
    assert {metrics["weights/share_changed"] for metrics in steps.values()} == {0.25}
    assert steps[3]["weights/fetched_mib"] == 3.0
    assert (steps[3]["weights/load_s"], steps[3]["weights/proof_s"], steps[3]["weights/proofs"]) == (2.0, 0.5, 1)
    assert str(state.updates) == "5, 0 MiB sent, 5 proofs of what is served, 1 not as sent (generator restarted)"


def test_the_metrics_of_an_update_without_proof_or_comparison():
    assert update_metrics(Weights(1, None, 1 << 20), UpdateReport((Served(1, None, 1 << 20, 0.5),))) == {
        "weights/sent_mib": 1.0,
        "weights/fetched_mib": 1.0,
        "weights/load_s": 0.5,
        "weights/proofs": 0.0,
    }
    proved = update_metrics(Weights(1, None, 0, proof=PROOF), UpdateReport((Served(1, PROOF, 0, 1.0, 0.25),)))
    assert (proved["weights/proofs"], proved["weights/proof_s"], proved["weights/unproved_tensors"]) == (1, 0.25, 1)


def sample(prompt_id: str, prompt: int, response: tuple[int, ...]) -> TrainSample:
    return TrainSample(prompt_id, (1,) * prompt, response, (0.0,) * len(response), (), (True,) * len(response), 0)


def test_a_probe_has_one_response_of_each_prompt_and_room_for_one_more_token():
    samples = [sample("b", 3, (1, 2, 3)), sample("b", 3, (4,)), sample("a", 6, (5, 6, 7)), sample("full", 9, (1,))]
    assert make_probe(samples, max_length=10) == (
        ProbeSequence((1,) * 6, (5, 6, 7)),
        ProbeSequence((1,) * 3, (1, 2, 3)),
    )
    assert make_probe(samples, max_length=9)[0] == ProbeSequence((1,) * 6, (5, 6))
    assert len(make_probe([sample(str(i), 1, (1,)) for i in range(9)], max_length=99)) == NUM_SEQUENCES


@pytest.mark.parametrize(
    ("every", "num_parameters", "proved"),
    [
        (None, 999_999_999, list(range(20))),
        (None, 1_000_000_000, [0, 16]),
        (0, 10, []),
        (1, 10**12, list(range(20))),
        (7, 10, [0, 7, 14]),
    ],
)
def test_small_models_are_proved_each_time_and_large_ones_at_times(
    every: int | None, num_parameters: int, proved: list[int]
):
    weights = WeightsConfig(verify_every=every)
    assert [version for version in range(20) if weights.proves(version, num_parameters)] == proved


def test_deltas_are_sent_where_weights_stay_as_they_are():
    def sends_deltas(dtype: str, address: str | None, send: str) -> bool:
        config = {"model": {"path": "m", "dtype": dtype}, "data": {"train": "jsonl"}}
        return make_config({**config, "cluster": {"address": address}, "weights": {"send": send}}).sends_deltas

    assert sends_deltas("bfloat16", "auto", "auto")
    assert not sends_deltas("float32", "auto", "auto")
    assert not sends_deltas("bfloat16", None, "auto")  # one machine: buckets are read in shared memory
    assert sends_deltas("float32", None, "delta")
    assert not sends_deltas("bfloat16", "auto", "full")


def test_totals_of_a_checkpoint_that_has_none():
    assert UpdateTotals.of(None) == UpdateTotals()
    assert UpdateTotals.of({"num_updates": 2, "num_proofs": 1, "num_barred": 0, "sent_mib": 1.5}).sent_mib == 1.5

"""What the generators have to prove of a weight update, and what their answers add to a step's metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from v05ray.config import Config
from v05ray.ports import LearnerGroup, UpdateReport, Weights
from v05ray.training.agreement import bound
from v05ray.types import ProbeSequence, TrainSample

NUM_SEQUENCES = 4
"""Responses that each proof computes, one of each prompt: enough to meet every layer, quick on any model."""
MIB = 2**20


def make_probe(samples: Sequence[TrainSample], max_length: int) -> tuple[ProbeSequence, ...]:
    """The first response of some prompts, cut where prompt and response would leave no room for a further token.

    `samples` are those by which learner and engine were compared before the first step (`agreement`).
    """
    first = {sample.prompt_id: sample for sample in reversed(samples)}
    cut = {name: sample.response_ids[: max_length - len(sample.prompt_ids) - 1] for name, sample in first.items()}
    chosen = [ProbeSequence(first[name].prompt_ids, response) for name, response in sorted(cut.items()) if response]
    return tuple(chosen[:NUM_SEQUENCES])


async def with_probe(
    config: Config, weights: Weights, probe: Sequence[ProbeSequence], learners: LearnerGroup
) -> Weights:
    """The weights with the learners' log-probabilities of the probe, where this version is proved at all."""
    if weights.proof is None or not probe:
        return weights
    samples = [_sample(str(index), one, weights.version) for index, one in enumerate(probe)]
    # At temperature 1: an engine applies that of sampling to what it draws alone.
    computed = await learners.logprobs(samples, share_prefix=False, temperature=1.0)
    proof = replace(weights.proof, logprobs=tuple(map(tuple, computed)))
    return replace(weights, proof=proof, probe=tuple(probe), tolerance_nats=bound(config.model))


def _sample(name: str, one: ProbeSequence, version: int) -> TrainSample:
    """As if the policy had sampled all of the response; nothing is learned from it."""
    zeros, mask = (0.0,) * len(one.response_ids), (True,) * len(one.response_ids)
    return TrainSample(name, one.prompt_ids, one.response_ids, zeros, zeros, mask, version)


def update_metrics(weights: Weights, report: UpdateReport) -> dict[str, float]:
    """Of one weight update: bytes, share of elements that changed, seconds of the slowest generator, proofs.

    `weights/unproved_tensors`: those that no checksum covers, of the generator that could read fewest.
    """
    metrics = {"weights/sent_mib": weights.num_bytes / MIB}
    if weights.share_changed is not None:
        metrics["weights/share_changed"] = weights.share_changed
    if report.served:
        metrics["weights/fetched_mib"] = sum(one.num_bytes for one in report.served) / MIB
        metrics["weights/load_s"] = max(one.load_s for one in report.served)
    proofs = [one.proof for one in report.served if one.proof is not None]
    metrics["weights/proofs"] = float(len(proofs))
    if proofs:
        metrics["weights/proof_s"] = max(one.proof_s for one in report.served)
        unread = [sum(found is None for found in proof.checksums.values()) for proof in proofs]
        metrics["weights/unproved_tensors"] = float(max(unread))
    return metrics


@dataclass
class UpdateTotals:
    """Weight updates of a whole run, for its summary."""

    num_updates: int = 0
    num_proofs: int = 0
    num_barred: int = 0
    sent_mib: float = 0.0

    def add(self, weights: Weights, report: UpdateReport) -> None:
        """One more update."""
        self.num_updates += 1
        self.num_proofs += sum(one.proof is not None for one in report.served)
        self.num_barred += len(report.barred)
        self.sent_mib += weights.num_bytes / MIB

    @classmethod
    def of(cls, state: Any) -> "UpdateTotals":
        """From a checkpoint's values; those of earlier versions have none."""
        return cls(**(state or {}))

    def __str__(self) -> str:
        barred = f", {self.num_barred} not as sent (generator restarted)" if self.num_barred else ""
        return f"{self.num_updates}, {self.sent_mib:,.0f} MiB sent, {self.num_proofs} proofs of what is served{barred}"

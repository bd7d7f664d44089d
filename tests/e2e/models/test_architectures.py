"""Each row of docs/models.md: the engine samples with exactly the log-probabilities that the learner computes.

In float32, at the weights of the folder and again after other weights took the way from the learner to the engine, with
shared prefixes and without; and what a run exports is what was sent.
"""

import os
from pathlib import Path

import pytest

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.generation.environment import environment

GENERATORS = GeneratorsConfig(max_num_seqs=16, kv_cache_mib=64)
os.environ.update(environment(GENERATORS))  # before anything here imports torch

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from tests.e2e.models.architectures import ROWS, save  # noqa: E402
from v05ray.generation.engine import Engine  # noqa: E402
from v05ray.learning.batching import collate, make_rows  # noqa: E402
from v05ray.learning.checks import check_structure  # noqa: E402
from v05ray.learning.export import write_model  # noqa: E402
from v05ray.learning.loading import load_policy  # noqa: E402
from v05ray.learning.names import FolderNames  # noqa: E402
from v05ray.learning.policy import Policy, arguments  # noqa: E402
from v05ray.models.huggingface import checkpoint_shapes  # noqa: E402
from v05ray.types import DrawRequest, ProbeSequence, Rollout, Sampling, TrainSample, WeightsProof  # noqa: E402
from v05ray.weights import checksum, difference, pack  # noqa: E402

ROOT = Path(__file__).parents[3]
PROMPT = tuple(range(10, 50))
TEMPERATURE = 0.8
NATS = 1e-4
"""Largest difference of any token; 4e-6 was measured."""


@torch.no_grad()
def worst(policy: Policy, rollouts: list[Rollout], *, share_prefix: bool) -> float:
    """Largest |learner's - engine's log-probability|, in nats."""
    samples = [
        TrainSample("p", PROMPT, r.token_ids, r.logprobs, (1.0,) * r.num_tokens, r.loss_mask, r.policy_version)
        for r in rollouts
    ]
    batch = collate(make_rows(samples, 1 << 20, share_prefix=share_prefix), "token_mean")
    return (policy(*arguments(batch))[0] - batch.sampled_N).abs().max().item()


@torch.no_grad()
def logprobs(policy: Policy, probe: ProbeSequence) -> tuple[float, ...]:
    zeros = (0.0,) * len(probe.response_ids)
    mask = (True,) * len(zeros)
    sample = TrainSample("p", probe.prompt_ids, probe.response_ids, zeros, zeros, mask, 1)
    batch = collate(make_rows([sample], 1 << 20, share_prefix=False), "token_mean")
    return tuple(policy(*arguments(batch))[0].tolist())


@pytest.mark.parametrize("name", ROWS)
async def test_learner_and_engine_agree_before_and_after_an_update(name: str, tmp_path: Path):
    folder = save(name, tmp_path / "model")
    model = ModelConfig.model_validate({"path": folder, "dtype": "float32", "max_length": 160})
    shapes = checkpoint_shapes(folder)
    assert check_structure(model, shapes, share_prefix=True, checkpointing=True)  # what doctor says of it
    policy = load_policy(model, TEMPERATURE, torch.device("cpu"), share_prefix=True, checkpointing=True)
    policy.train()  # no mode has dropout
    # In this one process vLLM may have wrapped transformers' own class, which a learner's process never sees.
    policy.model.get_decoder().do_not_compile = True
    names = FolderNames(policy.model, shapes)
    request = DrawRequest("p", PROMPT, (0, 1, 2), (1, 2, 3), Sampling(TEMPERATURE, 1.0, 24))

    engine = Engine(folder, GENERATORS, model, generator_id="g", log_file=tmp_path / "vllm.log")
    try:
        await engine.ready()
        before = await engine.draw(request)
        assert worst(policy, before, share_prefix=True) <= NATS
        assert worst(policy, before, share_prefix=False) <= NATS

        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        assert worst(policy, before, share_prefix=True) > 100 * NATS  # every part of the update is seen
        sent = [one for group in names.groups() for one in names.of([(n, p.detach()) for n, p in group])]
        await engine.load_weights(1, list(pack(sent, version=1)))
        after = await engine.draw(request)
        assert {rollout.policy_version for rollout in after} == {1}
        assert worst(policy, after, share_prefix=True) <= NATS
        assert worst(policy, after, share_prefix=False) <= NATS

        probe = ProbeSequence(PROMPT, after[0].token_ids)
        served = await engine.prove([probe])
        policy.temperature = 1.0
        expected = WeightsProof({key: checksum(tensor) for key, tensor in sent}, (logprobs(policy, probe),))
        assert difference(expected, served, NATS) is None
        unread = {key for key, found in served.checksums.items() if found is None}
        assert unread == {key for key, _ in sent if ".experts." in key}
    finally:
        engine.close()

    write_model(tmp_path / "exported", policy.model, model, {n: t.contiguous().clone() for n, t in sent})
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert exported.keys() == dict(sent).keys()
    for key, tensor in sent:
        assert torch.equal(exported[key], tensor), key
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").encode("1+1") == [21, 15, 21]


async def test_the_shards_of_the_index_are_served_and_a_consolidated_file_beside_them_is_not(tmp_path: Path):
    """As Mistral releases its models: the second file holds the same weights under names of another format."""
    whole, folder = save("mixtral", tmp_path / "whole"), tmp_path / "sharded"
    stored = AutoModelForCausalLM.from_pretrained(whole)
    stored.save_pretrained(folder, max_shard_size="100KB")
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    save_file({"layers.0.attention.wq.weight": torch.ones(4, 4)}, folder / "consolidated.safetensors", {"format": "pt"})
    model = ModelConfig.model_validate({"path": folder, "dtype": "float32", "max_length": 160})
    policy = load_policy(model, TEMPERATURE, torch.device("cpu"), share_prefix=True, checkpointing=False)
    assert checkpoint_shapes(folder) == checkpoint_shapes(whole)
    names = FolderNames(policy.model, checkpoint_shapes(folder))
    engine = Engine(folder, GENERATORS, model, generator_id="g", log_file=tmp_path / "vllm.log")
    try:
        await engine.ready()
        sent = [one for group in names.groups() for one in names.of([(n, p.detach()) for n, p in group])]
        for version in (0, 1):
            if version:
                await engine.load_weights(version, list(pack(sent, version=version)))
            drawn = await engine.draw(DrawRequest("p", PROMPT, (0, 1), (1, 2), Sampling(TEMPERATURE, 1.0, 24)))
            assert worst(policy, drawn, share_prefix=True) <= NATS
    finally:
        engine.close()


def test_the_table_names_every_row_and_no_other():
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| `model_type` |")) + 2
    rows = [line.split("|")[1].strip(" `") for line in lines[start : lines.index("", start)]]
    assert rows == list(ROWS)

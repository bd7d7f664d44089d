"""Each row of docs/models.md: the engine samples with exactly the log-probabilities that the learner computes.

In float32, at the weights of the folder and again after other weights took the way from the learner to the engine, with
shared prefixes and without; and what a run exports is read back.
"""

import os
from pathlib import Path

import pytest

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.generation.environment import environment

GENERATORS = GeneratorsConfig(max_num_seqs=16, kv_cache_mib=64)
os.environ.update(environment(GENERATORS))  # before anything here imports torch

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from tests.e2e.models.architectures import ROWS, save  # noqa: E402
from v05ray.generation.engine import Engine  # noqa: E402
from v05ray.learning.batching import collate, make_rows  # noqa: E402
from v05ray.learning.checks import check_structure  # noqa: E402
from v05ray.learning.export import write_model  # noqa: E402
from v05ray.learning.names import FolderNames  # noqa: E402
from v05ray.learning.policy import Policy, arguments, load_policy  # noqa: E402
from v05ray.model_folder import checkpoint_shapes  # noqa: E402
from v05ray.types import DrawRequest, Rollout, Sampling, TrainSample  # noqa: E402
from v05ray.weights import pack  # noqa: E402

ROOT = Path(__file__).parents[3]
PROMPT = tuple(range(10, 50))
TEMPERATURE = 0.8
NATS = 1e-4
"""Largest difference of any token; 4e-6 was measured."""


@torch.no_grad()
def worst(policy: Policy, rollouts: list[Rollout], *, share_prefix: bool) -> float:
    """Largest |learner's - engine's log-probability|, in nats."""
    samples = [
        TrainSample("p", PROMPT, r.token_ids, r.logprobs, (1.0,) * len(r.token_ids), r.policy_version) for r in rollouts
    ]
    batch = collate(make_rows(samples, 1 << 20, share_prefix=share_prefix), "token_mean")
    return (policy(*arguments(batch))[0] - batch.sampled_N).abs().max().item()


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
    finally:
        engine.close()

    write_model(tmp_path / "exported", policy.model, model, {n: t.contiguous().clone() for n, t in sent})
    assert checkpoint_shapes(tmp_path / "exported").keys() <= shapes.keys()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    trained = {name: parameter for name, parameter in policy.model.named_parameters()}
    for parameter_name, parameter in exported.named_parameters():
        torch.testing.assert_close(parameter, trained[parameter_name], atol=0, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").encode("1+1") == [21, 15, 21]


def test_the_table_names_every_row_and_no_other():
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    rows = [line.split("|")[1].strip(" `") for line in lines if line.startswith("| `")]
    assert rows == list(ROWS)

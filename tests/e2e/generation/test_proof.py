"""What a real engine says that it serves: right after every kind of update, and found out where it was damaged."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.e2e.generation.conftest import PROMPT, Reference, request
from v05ray.generation import reloading
from v05ray.generation.engine import Engine
from v05ray.types import ProbeSequence, WeightsProof
from v05ray.weights import AS_PROJECTION, Bucket, Receiver, Sender, checksum, difference, pack

PROBE = (ProbeSequence(PROMPT[:40], PROMPT[5:25]), ProbeSequence(PROMPT[:17], PROMPT[60:70]))
BOUND = {"float32": 1e-3, "bfloat16": 0.1}
SMALL = 1 << 19
"""Bytes of a bucket: the tiny model has several."""
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def sent_proof(reference: Reference) -> WeightsProof:
    logprobs = [reference.logprobs(one.prompt_ids, one.response_ids) for one in PROBE]
    return WeightsProof(
        {name: checksum(tensor) for name, tensor in reference.named()}, tuple(tuple(one.tolist()) for one in logprobs)
    )


async def update(engine: Engine, reference: Reference, buckets: Iterable[Bucket] | None = None) -> None:
    version = engine.version + 1
    buckets = pack(reference.named(), version=version, bucket_bytes=SMALL) if buckets is None else buckets
    await engine.load_weights(version, list(buckets))


async def found(engine: Engine, reference: Reference, tolerance: float = 1e-3) -> str | None:
    return difference(sent_proof(reference), await engine.prove(PROBE), tolerance)


def change(engine: Engine, damage: Callable[[Any], None]) -> None:
    """Does something to the model inside the engine, as nothing of the project's own ever does."""
    vllm: Any = engine._core
    vllm._engine.collective_rpc(lambda worker: damage(worker.model_runner.get_model()))


VARIANTS = [(True, "float32"), (False, "float32"), (True, "bfloat16")]


@pytest.mark.parametrize(("tied", "dtype"), VARIANTS, ids=["tied", "untied", "tied-bfloat16"])
async def test_the_proof_of_every_update_is_the_learners_own(
    tied: bool, dtype: str, start: Callable[..., tuple[Engine, Reference]]
):
    engine, reference = start(tied=tied, dtype=dtype)
    await engine.ready()
    assert (await engine.prove()).checksums == {}  # nothing came yet
    for seed in range(3):
        await update(engine, reference)
        served = await engine.prove(PROBE)
        assert difference(sent_proof(reference), served, BOUND[dtype]) is None
        assert None not in served.checksums.values()  # every tensor is read back
        assert served.checksums.keys() - {"model.embed_tokens.weight" + AS_PROJECTION} == dict(reference.named()).keys()
        assert ("model.embed_tokens.weight" + AS_PROJECTION in served.checksums) == tied
        assert [len(one) for one in served.logprobs] == [20, 10]
        reference.perturb(0.2, seed=seed)
    assert await found(engine, reference, BOUND[dtype])  # the last change was not sent
    engine.close()


@pytest.fixture(scope="module")
def served(start: Callable[..., tuple[Engine, Reference]]) -> tuple[Engine, Reference]:
    return start(tied=True)


@pytest.fixture
async def fresh(served: tuple[Engine, Reference]) -> tuple[Engine, Reference]:
    engine, reference = served
    await engine.ready()
    await update(engine, reference)
    assert await found(engine, reference) is None
    return served


def one_packed_weight(model: Any) -> None:
    """One element of a matrix that a kernel holds packed, by the smallest step that float32 has."""
    layer = model.model.layers[0].self_attn.qkv_proj
    one = torch.eye(layer.input_size)
    weight = layer.cpu_linear(one, layer.weight, None).t().contiguous()
    weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(torch.inf))
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    layer.quant_method.process_weights_after_loading(layer)


def a_norm(model: Any) -> None:
    model.model.norm.weight.data[7] += 1e-6


def the_embedding(model: Any) -> None:
    model.model.embed_tokens.weight.data[11, 3] += 1e-4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_packed_weight, f"{Q_PROJ} is not as sent"),
        (a_norm, "model.norm.weight is not as sent"),
        (the_embedding, "model.embed_tokens.weight is not as sent"),
    ],
)
async def test_a_weight_that_is_changed_in_the_engine_is_named(
    fresh: tuple[Engine, Reference], damage: Callable[[Any], None], message: str
):
    engine, reference = fresh
    change(engine, damage)
    assert await found(engine, reference) == message
    await update(engine, reference)
    assert await found(engine, reference) is None


async def test_a_tied_projection_left_stale_is_named_however_small_the_update(
    fresh: tuple[Engine, Reference], monkeypatch: pytest.MonkeyPatch
):
    engine, reference = fresh
    with monkeypatch.context() as forgetful:
        forgetful.setattr(reloading, "pack_again", lambda worker: None)
        reference.perturb(1e-6, seed=1)  # far below what log-probabilities show
        await update(engine, reference)
        assert await found(engine, reference) == f"model.embed_tokens.weight{AS_PROJECTION} is not as sent"
        reference.perturb(0.3, seed=2)
        await update(engine, reference)
        served = await engine.prove(PROBE)
        # The probe alone would have seen this one.
        blind = replace(served, checksums=sent_proof(reference).checksums)
        assert "log-probabilities differ by" in str(difference(sent_proof(reference), blind, 1e-3))
    await update(engine, reference)
    assert await found(engine, reference) is None


async def test_swapped_buckets_are_found_out(fresh: tuple[Engine, Reference]):
    engine, reference = fresh
    # A bucket for every tensor: those of two layers have the same layout.
    buckets = list(pack(reference.named(), version=engine.version + 1, bucket_bytes=1))
    names = [bucket.entries[0].name for bucket in buckets]
    one, other = names.index(Q_PROJ), names.index(Q_PROJ.replace("layers.0", "layers.1"))
    swapped = list(buckets)
    swapped[one] = replace(buckets[one], data=buckets[other].data)
    swapped[other] = replace(buckets[other], data=buckets[one].data)
    await update(engine, reference, swapped)
    message = f"{Q_PROJ}, {names[other]} are not as sent"
    assert await found(engine, reference) == message
    await update(engine, reference)
    assert await found(engine, reference) is None


async def test_what_no_checksum_covers_is_seen_by_the_probe(fresh: tuple[Engine, Reference]):
    engine, reference = fresh
    tables = []

    def turn(model: Any) -> None:
        table = model.model.layers[0].self_attn.rotary_emb.cos_sin_cache
        tables.append((table, table.clone()))
        table.copy_(table.flip(0))

    change(engine, turn)
    assert "log-probabilities differ by" in str(await found(engine, reference))
    for table, before in tables:
        table.copy_(before)
    assert await found(engine, reference) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_deltas_serve_what_whole_buckets_do_over_twenty_updates(
    dtype: str, start: Callable[..., tuple[Engine, Reference]]
):
    engine, reference = start(tied=True, dtype=dtype)
    await engine.ready()
    sender, receiver = Sender(deltas=True), Receiver()
    rng = torch.Generator().manual_seed(3)
    num_deltas = 0
    for _ in range(20):
        with torch.no_grad():
            for parameter in reference.model.parameters():  # some of the weights, as small learning rates do
                chosen = torch.rand(parameter.shape, generator=rng) < 0.02
                parameter += chosen * 0.05 * torch.randn(parameter.shape, generator=rng).to(parameter.dtype)
        version = engine.version + 1
        sender.begin()
        parts = [sender.link(bucket) for bucket in pack(reference.named(), version=version, bucket_bytes=SMALL)]
        chains = sender.chains([(part, part) for part in parts])
        links = receiver.missing(chains)
        buckets = receiver.assemble(chains, [[link.reference for link in one] for one in links], keep=True)
        num_deltas += sum(not isinstance(part, Bucket) for part in parts)
        await engine.load_weights(version, buckets)
        assert difference(sent_proof(reference), await engine.prove(PROBE), BOUND[dtype]) is None
    assert num_deltas > 10
    drawn = await engine.draw(request())
    worst = max((torch.tensor(r.logprobs) - reference.logprobs(PROMPT, r.token_ids)).abs().mean().item() for r in drawn)
    assert worst <= BOUND[dtype]
    engine.close()

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v05ray.learning.batching import Row, collate, dummy_micro_batch, make_rows, pack, plan, split_rows
from v05ray.types import TrainSample


def sample(
    prompt: Sequence[int], response: Sequence[int], advantage: float = 1.0, mask: Sequence[bool] | None = None
) -> TrainSample:
    size = len(response)
    logprobs = tuple(-0.1 * (i + 1) for i in range(size))
    mask = (True,) * size if mask is None else tuple(mask)
    return TrainSample("p", tuple(prompt), tuple(response), logprobs, (advantage,) * size, mask, 0)


def test_a_shared_row_by_hand() -> None:
    """Prompt 7 8; responses 1 2 3 | 1 2 4 | 5. Inputs: 7 8 1 2 (the last token of a response is a target only)."""
    samples = [sample([7, 8], [5], 3.0), sample([7, 8], [1, 2, 4], 2.0), sample([7, 8], [1, 2, 3], 1.0)]
    (row,) = make_rows(samples, 100, share_prefix=True)
    assert row.num_tokens == 4
    batch = collate([row], "token_mean")
    assert batch.input_ids_BL.tolist() == [[7, 8, 1, 2, 0, 0, 0, 0]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0]]
    assert batch.mask_B1LL is None  # one chain
    assert batch.target_N.tolist() == [1, 2, 3, 1, 2, 4, 5]
    assert batch.predictor_U.tolist() == [1, 2, 3]
    assert batch.position_N.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch.sequence_N.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert batch.advantages_N.tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert batch.sampled_N.tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.1, -0.2, -0.3, -0.1])
    assert batch.weight_N.tolist() == [1] * 7


def test_a_masked_token_is_an_input_and_never_a_target() -> None:
    """Prompt 7 8; responses 1 [5 6] 2 3 | 1 [5 6] 2 4 | 1 2, brackets around what an environment put."""
    masked = [sample([7, 8], [1, 5, 6, 2, last], mask=[True, False, False, True, True]) for last in (3, 4)]
    (row,) = make_rows([*masked, sample([7, 8], [1, 2])], 100, share_prefix=True)
    batch = collate([row], "sequence_mean")
    assert row.num_tokens == 6
    assert batch.input_ids_BL.tolist() == [[7, 8, 1, 5, 6, 2, 0, 0]]
    assert batch.target_N.tolist() == [1, 2, 1, 2, 3, 1, 2, 4]
    assert batch.predictor_U[batch.position_N].tolist() == [1, 2, 1, 4, 5, 1, 4, 5]
    assert batch.predictor_U.tolist() == [1, 2, 4, 5]  # nothing is predicted where the observation is read
    assert batch.sampled_N.tolist() == pytest.approx([-0.1, -0.2, -0.1, -0.4, -0.5, -0.1, -0.4, -0.5])
    assert batch.sequence_N.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert batch.weight_N.tolist() == pytest.approx([1 / 2] * 2 + [1 / 3] * 6)


def test_advantages_of_masked_tokens_alone_give_no_gradient() -> None:
    one = TrainSample("p", (7,), (1, 2), (-0.1, 0.0), (0.0, 3.0), (True, False), 0)
    assert plan([one], 1, 64, share_prefix=True) == [[]]


def test_a_branching_row_by_hand() -> None:
    """Prompt 9; responses 1 2 0 | 1 3 0 | 4 0: nodes 9, 1, 2, 3 (under 1), 4 (under 9)."""
    samples = [sample([9], [4, 0]), sample([9], [1, 3, 0]), sample([9], [1, 2, 0])]
    batch = collate(make_rows(samples, 100, share_prefix=True), "sequence_mean")
    assert batch.input_ids_BL.tolist() == [[9, 1, 2, 3, 4, 0, 0, 0]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 2, 1, 0, 0, 0]]
    assert batch.predictor_U[batch.position_N].tolist() == [0, 1, 2, 0, 1, 3, 0, 4]
    assert batch.target_N.tolist() == [1, 2, 0, 1, 3, 0, 4, 0]
    assert batch.mask_B1LL is not None
    assert batch.mask_B1LL[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],  # padding sees one token, so that its softmax is finite
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.weight_N.tolist() == pytest.approx([1 / 3] * 6 + [1 / 2] * 2)


def test_without_sharing_every_sample_is_a_row() -> None:
    samples = [sample([7, 8], [1, 2, 3]), sample([7, 8], [1])]
    batch = collate(make_rows(samples, 100, share_prefix=False), "token_mean")
    assert batch.input_ids_BL.tolist() == [[7, 8, 1, 2, 0, 0, 0, 0], [7, 8, 0, 0, 0, 0, 0, 0]]
    assert batch.predictor_U[batch.position_N].tolist() == [1, 2, 3, 9]
    assert batch.mask_B1LL is None


def test_a_row_is_split_at_the_token_limit() -> None:
    samples = [sample([9] * 4, [1, 0, 0]), sample([9] * 4, [2, 0, 0]), sample([9] * 4, [3, 0, 0])]
    assert [row.num_tokens for row in make_rows(samples, 8, share_prefix=True)] == [8, 6]
    assert [row.num_tokens for row in make_rows(samples, 5, share_prefix=True)] == [6, 6, 6]


def rows(*sizes: int) -> list[Row]:
    return [Row((), size) for size in sizes]


def sizes(batches: Sequence[Sequence[Row]]) -> list[list[int]]:
    return [[row.num_tokens for row in batch] for batch in batches]


def test_split_rows_by_hand() -> None:
    assert sizes(split_rows(rows(3, 7, 6, 4, 5), 2)) == [[7, 4, 3], [6, 5]]


def test_pack_by_hand() -> None:
    """At most 32 padded tokens: 13 pads to 16, so two fit; then rows of 8, four together."""
    assert sizes(pack(rows(8, 3, 13, 12, 5, 40, 7), 32)) == [[40], [13, 12], [8, 7, 5, 3]]


def test_pack_cuts_where_padding_would_cost_more_than_a_pass() -> None:
    """Two rows of 400 and two of 40: together 4 x 400 tokens, apart 2 x 400 + 2 x 40 + one more pass of 128."""
    assert sizes(pack(rows(400, 40, 400, 40), 4096)) == [[400, 400], [40, 40]]
    assert sizes(pack(rows(400, 400, 360, 360), 4096)) == [[400, 400, 360, 360]]


def test_plan_leaves_out_zero_advantages_and_keeps_no_rank_idle() -> None:
    group = [sample([9, 9], [i, 0, 0, 0]) for i in range(4)]
    skipped = [sample([5, 5, 5], [1, 1], 0.0)]
    assert plan(skipped, 2, 64, share_prefix=True) == [[], []]
    assert [len(share) for share in plan(skipped, 2, 64, share_prefix=True, compute_all=True)] == [1, 0]
    shares = plan([*group, *skipped], 2, 64, share_prefix=True)
    assert [[row.num_tokens for rows in share for row in rows] for share in shares] == [[8], [8]]


@pytest.mark.parametrize(
    "bad",
    [
        TrainSample("p7", (), (1,), (0.0,), (1.0,), (True,), 0),
        TrainSample("p7", (1,), (), (), (), (), 0),
        TrainSample("p7", (1,), (1, 2), (0.0,), (1.0, 1.0), (True, True), 0),
        TrainSample("p7", (1,), (1, 2), (0.0, 0.0), (0.0,), (True, True), 0),
        TrainSample("p7", (1,), (1, 2), (0.0, 0.0), (0.0, 0.0), (True,), 0),
        TrainSample("p7", (1,), (1, 2), (0.0, 0.0), (0.0, 0.0), (False, False), 0),
    ],
)
def test_a_malformed_sample_is_named(bad: TrainSample) -> None:
    with pytest.raises(ValueError, match="'p7'"):
        plan([bad], 1, 64, share_prefix=True)


def test_a_dummy_weighs_nothing() -> None:
    batch = dummy_micro_batch()
    assert batch.weight_N.sum() == 0
    assert batch.num_sequences == 0


responses = st.lists(st.integers(0, 2), min_size=1, max_size=6)
groups = st.lists(st.tuples(st.sampled_from([(7,), (7, 8), (9,)]), responses), min_size=1, max_size=12)


@given(groups, st.integers(1, 40), st.integers(1, 3), st.booleans())
def test_law_a_plan_holds_every_sample_once_within_the_limit(
    drawn: list[tuple[tuple[int, ...], list[int]]], limit: int, num_ranks: int, share_prefix: bool
) -> None:
    samples = [sample(prompt, response) for prompt, response in drawn]
    planned = [rows for share in plan(samples, num_ranks, limit, share_prefix=share_prefix) for rows in share]
    held = [s for batch in planned for row in batch for s in row.samples]
    assert sorted(id(s) for s in held) == sorted(id(s) for s in samples)
    for batch in planned:
        width = -(-max(row.num_tokens for row in batch) // 8) * 8
        assert len(batch) == 1 or len(batch) * width <= limit


@given(groups)
def test_law_a_predictor_sees_exactly_its_own_context(drawn: list[tuple[tuple[int, ...], list[int]]]) -> None:
    """What the predictor of token j may attend to, in order of position, is the prompt and the response up to j."""
    samples = [sample(prompt, response) for prompt, response in drawn]
    batch = collate(make_rows(samples, 1000, share_prefix=True), "token_mean")
    num_rows, length = batch.input_ids_BL.shape
    mask = torch.tril(torch.ones(length, length)).bool().expand(num_rows, 1, length, length)
    if batch.mask_B1LL is not None:
        mask = batch.mask_B1LL
    contexts = set()
    for n, predictor in enumerate(batch.predictor_U[batch.position_N].tolist()):
        row, query = divmod(predictor, length)
        seen = mask[row, 0, query].nonzero().squeeze(1)
        assert batch.position_ids_BL[row, seen].tolist() == list(range(len(seen)))
        contexts.add((*batch.input_ids_BL[row, seen].tolist(), int(batch.target_N[n])))
    assert contexts == {(*p, *r[: j + 1]) for p, r in drawn for j in range(len(r))}

"""Train samples to tensors: what one rank computes, in micro-batches of bounded size.

Legend, of a micro-batch: B rows, L padded row length, U positions that predict, N sampled tokens, S sequences.

A row is one prompt with one or more of its responses, laid out as a prefix tree: tokens that several responses share
(the prompt, and any common beginning) appear once, and each token attends to its own ancestors only:

    prompt "2+2=" with responses "4.", "4!", "5"      tree:  2 - + - 2 - = - 4
    position ids                                             0   1   2   3   4      "5", ".", "!" only have to be
                                                                                    predicted, so they are never input

The log-probability of a response's first token is read at the prompt's last position, that of its token j at the node
of its token j - 1; its last token is a target only. With `share_prefix` off every row has one response: a chain, which
causal attention handles without a mask. Sharing changes no result, only how often the same hidden state is computed.

Tokens that a sample's `loss_mask` leaves out (an environment put them, see `types.Turn`) are inputs as all others are,
and never targets: no tensor over N has them, so no loss, penalty or metric counts them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from v05ray.losses.aggregation import Aggregation, token_weight
from v05ray.types import TrainSample

PAD_MULTIPLE = 8
"""Row lengths are padded to a multiple of this: matrix kernels like it."""


PASS_TOKENS = 128
"""What a forward and backward pass costs besides its tokens, in tokens: weights are read and gradients added once."""


@dataclass(frozen=True, slots=True)
class Row:
    """Samples of one prompt that are computed together, sorted by their response tokens."""

    samples: tuple[TrainSample, ...]
    num_tokens: int
    """Input tokens of the prefix tree."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Tensors of one forward and backward pass."""

    input_ids_BL: Tensor
    """int64, right-padded with 0."""
    position_ids_BL: Tensor
    """int64; a token's depth in its row's tree."""
    mask_B1LL: Tensor | None
    """bool, True where a query (third axis) may attend to a key; None if plain causal attention does."""
    predictor_U: Tensor
    """int64 indices, increasing, into the flattened B * L positions: where distributions are read."""
    position_N: Tensor
    """int64 index in [0, U): predictor_U[position_N] is where the token's own distribution is read."""
    target_N: Tensor
    """int64 ids of the sampled tokens."""
    sampled_N: Tensor
    """float32 log-probabilities under the sampler."""
    advantages_N: Tensor
    """float32."""
    weight_N: Tensor
    """float32 weights of the aggregation; all 0 in a dummy."""
    sequence_N: Tensor
    """int64 index in [0, S) of the response that the token belongs to."""
    num_sequences: int
    """S; 0 marks a dummy."""

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy on `device`."""
        tensors = {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def _common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length


def has_gradient(sample: TrainSample) -> bool:
    """False if every sampled token's advantage is 0: the sample counts in means, but its policy gradient is 0."""
    return any(advantage != 0.0 for advantage in compress(sample.advantages, sample.loss_mask))


def check(sample: TrainSample) -> None:
    """Raises ValueError unless the sample has a prompt, a sampled token, and as many of each per-token field."""
    num_tokens, *others = map(len, (sample.response_ids, sample.logprobs, sample.advantages, sample.loss_mask))
    if not sample.prompt_ids or not num_tokens or any(number != num_tokens for number in others):
        raise ValueError(
            f"train sample of prompt {sample.prompt_id!r}: {len(sample.prompt_ids)} prompt and {num_tokens} response "
            f"tokens, {others[0]} log-probabilities, {others[1]} advantages, {others[2]} mask values; the last four "
            "must agree"
        )
    if not sample.num_sampled:
        raise ValueError(
            f"train sample of prompt {sample.prompt_id!r}: its mask leaves out all {num_tokens} response tokens; give "
            "only rollouts in which the policy sampled one"
        )


def make_rows(samples: Iterable[TrainSample], max_tokens: int, *, share_prefix: bool) -> list[Row]:
    """Rows of at most `max_tokens` input tokens (a longer sample has a row of its own), in a fixed order.

    Samples share a row if they have the same prompt tokens; each is in exactly one row.
    """
    if not share_prefix:
        return [Row((sample,), len(sample.prompt_ids) + len(sample.response_ids) - 1) for sample in samples]
    by_prompt: dict[tuple[int, ...], list[TrainSample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_ids, []).append(sample)
    rows: list[Row] = []
    for prompt_ids, group in by_prompt.items():
        # Sorted responses share the longest beginnings with their neighbours, so neighbours alone give the tree.
        group = sorted(group, key=lambda sample: sample.response_ids)
        members: list[TrainSample] = []
        size, previous = len(prompt_ids), np.empty(0, np.int64)
        for sample in group:
            inputs = np.asarray(sample.response_ids[:-1], np.int64)
            added = len(inputs) - _common_prefix(previous, inputs)
            if members and size + added > max_tokens:
                rows.append(Row(tuple(members), size))
                members, size, added = [], len(prompt_ids), len(inputs)
            members.append(sample)
            size, previous = size + added, inputs
        rows.append(Row(tuple(members), size))
    return rows


def split_rows(rows: Sequence[Row], num_ranks: int) -> list[list[Row]]:
    """Longest-processing-time split: each row, the largest first, goes to the rank with the fewest tokens so far.

    The busiest rank gets at most 4/3 of the best possible maximum (Graham 1969).
    """
    shares: list[list[Row]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for row in sorted(rows, key=lambda row: -row.num_tokens):
        rank = loads.index(min(loads))
        shares[rank].append(row)
        loads[rank] += row.num_tokens
    return shares


def pack(rows: Iterable[Row], max_tokens: int) -> list[list[Row]]:
    """Rows of similar length together, at most `max_tokens` padded tokens a micro-batch (one row at least).

    Of all ways to cut the rows, sorted by length, the one with the fewest padded tokens, each pass counted as
    `PASS_TOKENS` more.
    """
    in_order = sorted(rows, key=lambda row: -row.num_tokens)
    # best[i]: least cost of the first i rows, and where the last micro-batch of that way starts.
    best = [(0, 0)]
    for stop in range(1, len(in_order) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            size = (stop - start) * _padded(in_order[start].num_tokens)
            if size > max_tokens and start < stop - 1:
                break  # longer rows and more of them come next: no earlier start fits either
            options.append((best[start][0] + size + PASS_TOKENS, start))
        best.append(min(options))
    batches: list[list[Row]] = []
    stop = len(in_order)
    while stop > 0:
        start = best[stop][1]
        batches.insert(0, in_order[start:stop])
        stop = start
    return batches


def plan(
    samples: Sequence[TrainSample], num_ranks: int, max_tokens: int, *, share_prefix: bool, compute_all: bool = False
) -> list[list[list[Row]]]:
    """plan[rank][i] are the rows of the rank's micro-batch i; ranks may have different numbers of them.

    Every rank computes the same plan from the same samples, so nothing has to be agreed upon over the network. Samples
    without gradient are left out unless `compute_all`. Raises ValueError for a malformed sample.
    """
    for sample in samples:
        check(sample)
    useful = [sample for sample in samples if compute_all or has_gradient(sample)]
    if not useful:
        return [[] for _ in range(num_ranks)]
    rows = make_rows(useful, max_tokens, share_prefix=share_prefix)
    if num_ranks > 1:
        # A prompt's responses are kept together unless that would leave ranks idle; each part repeats the prompt.
        fair = -(-sum(row.num_tokens for row in rows) // num_ranks) + max(len(s.prompt_ids) for s in useful)
        rows = make_rows(useful, min(max_tokens, fair), share_prefix=share_prefix)
    return [pack(share, max_tokens) for share in split_rows(rows, num_ranks)]


def _padded(length: int) -> int:
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


@dataclass(frozen=True, slots=True)
class _Tree:
    """One row laid out: arrays over its nodes, and where each response token is predicted."""

    tokens: np.ndarray
    depths: np.ndarray
    branches: list[tuple[int, int, int]]
    """(parent, start, stop): nodes start..stop-1 are a chain that hangs on node `parent`."""
    predictors: list[np.ndarray]
    """Per response [T]: the node whose distribution its token is drawn from."""


def _lay_out(row: Row) -> _Tree:
    prompt = np.asarray(row.samples[0].prompt_ids, np.int64)
    tokens, depths = np.empty(row.num_tokens, np.int64), np.empty(row.num_tokens, np.int64)
    size = len(prompt)
    tokens[:size], depths[:size] = prompt, np.arange(size)
    branches: list[tuple[int, int, int]] = []
    predictors: list[np.ndarray] = []
    previous = np.empty(0, np.int64)
    path = np.array([size - 1])  # nodes from the prompt's last token along the previous response
    for sample in row.samples:
        inputs = np.asarray(sample.response_ids[:-1], np.int64)
        shared = _common_prefix(previous, inputs)
        start, size = size, size + len(inputs) - shared
        tokens[start:size] = inputs[shared:]
        depths[start:size] = len(prompt) + np.arange(shared, len(inputs))
        if size > start:
            branches.append((int(path[shared]), start, size))
        path = np.concatenate([path[: shared + 1], np.arange(start, size)])
        predictors.append(path)
        previous = inputs
    return _Tree(tokens, depths, branches, predictors)


def _mask(trees: Sequence[_Tree], length: int) -> Tensor | None:
    """mask_B1LL, or None where every row is one chain in order."""
    if all(parent == start - 1 for tree in trees for parent, start, _ in tree.branches):
        return None
    mask_BLL = np.zeros((len(trees), length, length), bool)
    causal = np.tri(length, dtype=bool)
    for mask_LL, tree in zip(mask_BLL, trees, strict=True):
        prompt_length = tree.branches[0][1] if tree.branches else len(tree.tokens)
        mask_LL[:prompt_length, :prompt_length] = causal[:prompt_length, :prompt_length]
        for parent, start, stop in tree.branches:
            mask_LL[start:stop] = mask_LL[parent]
            mask_LL[start:stop, start:stop] = causal[: stop - start, : stop - start]
        # A query that may see nothing gives NaN, which would spread through the backward pass.
        mask_LL[len(tree.tokens) :, 0] = True
    return torch.from_numpy(mask_BLL).unsqueeze(1)


def collate(rows: Sequence[Row], aggregation: Aggregation) -> MicroBatch:
    """Tensors of the rows of one micro-batch, on the CPU."""
    trees = [_lay_out(row) for row in rows]
    length = _padded(max(row.num_tokens for row in rows))
    ids_BL = np.zeros((len(rows), length), np.int64)
    positions_BL = np.zeros((len(rows), length), np.int64)
    for b, tree in enumerate(trees):
        ids_BL[b, : len(tree.tokens)] = tree.tokens
        positions_BL[b, : len(tree.depths)] = tree.depths
    samples = [sample for row in rows for sample in row.samples]
    lengths = torch.tensor([sample.num_sampled for sample in samples])
    weights = torch.tensor([token_weight(aggregation, sample.num_sampled) for sample in samples])
    paths = [b * length + path for b, tree in enumerate(trees) for path in tree.predictors]
    masks = [np.asarray(sample.loss_mask) for sample in samples]
    predictor_N = np.concatenate([path[mask] for path, mask in zip(paths, masks, strict=True)])
    predictor_U, position_N = np.unique(predictor_N, return_inverse=True)

    def flat(values: Iterable[Sequence[float]], dtype: torch.dtype) -> Tensor:
        pairs = zip(values, samples, strict=True)
        return torch.tensor([one for row, sample in pairs for one in compress(row, sample.loss_mask)], dtype=dtype)

    return MicroBatch(
        input_ids_BL=torch.from_numpy(ids_BL),
        position_ids_BL=torch.from_numpy(positions_BL),
        mask_B1LL=_mask(trees, length),
        predictor_U=torch.from_numpy(predictor_U),
        position_N=torch.from_numpy(position_N),
        target_N=flat((sample.response_ids for sample in samples), torch.int64),
        sampled_N=flat((sample.logprobs for sample in samples), torch.float32),
        advantages_N=flat((sample.advantages for sample in samples), torch.float32),
        weight_N=weights.repeat_interleave(lengths),
        sequence_N=torch.arange(len(samples)).repeat_interleave(lengths),
        num_sequences=len(samples),
    )


def dummy_micro_batch() -> MicroBatch:
    """The smallest pass with a gradient of exactly 0: a rank with less work keeps the collectives in step with it."""
    zeros = torch.zeros(1)
    return MicroBatch(
        input_ids_BL=torch.zeros(1, PAD_MULTIPLE, dtype=torch.int64),
        position_ids_BL=torch.arange(PAD_MULTIPLE).unsqueeze(0),
        mask_B1LL=None,
        predictor_U=torch.zeros(1, dtype=torch.int64),
        position_N=torch.zeros(1, dtype=torch.int64),
        target_N=torch.zeros(1, dtype=torch.int64),
        sampled_N=zeros,
        advantages_N=zeros,
        weight_N=zeros,
        sequence_N=torch.zeros(1, dtype=torch.int64),
        num_sequences=0,
    )

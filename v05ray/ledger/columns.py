"""The columns of the two files, and the way of a group into rows and back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from v05ray.ledger.recorded import RecordedGroup, RecordedRollout, RecordedTurn
from v05ray.types import ComponentScore, Decision, Draw, Prior, RolloutGroup, Stop, Turn

GREEDY_INDEX = -1
FORMAT_VERSION = 2
"""Raised when a column or a setting changes its meaning; columns that are only added read as null in old steps.

    1   the options of rule and estimator as they were written, and the repaired prior alone
    2   the options with their defaults; the answer that each prior was made of, and the settings of its repair

Rollouts of several turns have the column `turns` besides; files of steps without any lack it.
"""

COMPONENT = [("label", pa.string()), ("reward", pa.float64()), ("verdict", pa.string())]
"""A `types.ComponentScore`."""
TURN = [
    ("observation", pa.string()),  # null in a rollout's first turn
    ("observation_tokens", pa.int32()),
    ("response", pa.string()),
    ("num_tokens", pa.int32()),  # sampled by the policy
    ("logprob_sum", pa.float64()),
    ("finish_reason", pa.string()),
    ("policy_version", pa.int64()),
    ("generator_id", pa.string()),
    ("seconds", pa.float64()),
]
"""A `types.Turn`."""

ROLLOUT_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("position", pa.int32()),  # of the prompt in the batch, from 0
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("sample_index", pa.int32()),  # GREEDY_INDEX for the temperature-0 rollout that some estimators need
        ("response", pa.string()),  # the last turn's
        ("reward", pa.float64()),
        ("verdict", pa.string()),
        ("num_tokens", pa.int32()),  # sampled by the policy, over all turns
        ("logprob_sum", pa.float64()),  # nats, of those tokens under the sampling distribution
        ("finish_reason", pa.string()),  # the last turn's
        ("policy_version", pa.int64()),
        ("generator_id", pa.string()),
        ("seconds", pa.float64()),
        ("advantage", pa.float64()),  # null where the group gave no training samples
        ("verifier", pa.string()),
        ("extracted", pa.string()),  # the answer that the verifier read; null where it found none
        ("message", pa.string()),  # why there is no verdict, or why it is not correct where the verifier says so
        ("components", pa.list_(pa.struct(COMPONENT))),  # one of each of several verifiers; empty where there is one
        ("turns", pa.list_(pa.struct(TURN))),  # each of several turns; empty, or no column at all, where there is one
    ],
    metadata={"v05ray.ledger.version": str(FORMAT_VERSION)},
)
DECISION_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("position", pa.int32()),
        ("prompt_id", pa.string()),
        ("sequence", pa.int32()),  # of the prompt's decisions, from 0
        ("action", pa.string()),  # draw | stop
        ("num_rollouts", pa.int32()),  # of a draw
        ("reason", pa.string()),  # of a stop
        ("num_scored", pa.int32()),
        ("mean", pa.float64()),
        ("prior", pa.float64()),  # as the rule used it
        ("bias_squared", pa.float64()),
        ("target", pa.int32()),
        ("open_prompts", pa.int32()),
        ("group_prior", pa.float64()),  # the value model's, whether or not the rule used it
        ("prior_origin", pa.string()),
        ("prior_version", pa.int64()),
        ("raw_prior", pa.float64()),  # what the value pool answered; group_prior was made of it
        ("raw_prior_origin", pa.string()),
    ],
    metadata={"v05ray.ledger.version": str(FORMAT_VERSION)},
)
SCHEMAS = {"rollouts": ROLLOUT_SCHEMA, "decisions": DECISION_SCHEMA}
"""Kind of file to its columns."""


def rollout_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `ROLLOUT_SCHEMA`; without `turns` where each has one, so that most files do not carry its nine parts."""
    schema = ROLLOUT_SCHEMA
    if not any(row["turns"] for row in rows):
        schema = schema.remove(schema.get_field_index("turns"))
    return pa.Table.from_pylist(list(rows), schema=schema)


def rollout_rows(
    step: int, groups: Sequence[RolloutGroup], advantages: Mapping[str, Sequence[float]]
) -> Iterable[dict[str, Any]]:
    """Rows of `ROLLOUT_SCHEMA`; `ValueError` for advantages that do not fit their group."""
    for order, group in enumerate(groups):
        prompt = group.prompt
        values = advantages.get(prompt.prompt_id)
        if values is not None and len(values) != len(group.scored):
            raise ValueError(
                f"step {step}, prompt {prompt.prompt_id!r}: {len(values)} advantages for {len(group.scored)} rollouts"
            )
        for index, scored in enumerate((*group.scored, *((group.greedy,) if group.greedy else ()))):
            rollout = scored.rollout
            in_group = index < len(group.scored)
            yield {
                "step": step,
                "position": order,
                "prompt_id": prompt.prompt_id,
                "prompt": prompt.text,
                "answer": prompt.answer,
                "source": prompt.source,
                "prompt_tokens": len(prompt.token_ids),
                "sample_index": rollout.sample_index if in_group else GREEDY_INDEX,
                "response": rollout.text,
                "reward": scored.reward,
                "verdict": scored.verdict,
                "num_tokens": rollout.num_tokens,
                "logprob_sum": sum(rollout.logprobs),
                "finish_reason": rollout.finish_reason,
                "policy_version": rollout.policy_version,
                "generator_id": rollout.generator_id,
                "seconds": rollout.seconds,
                "advantage": values[index] if in_group and values is not None else None,
                "verifier": scored.verifier,
                "extracted": scored.extracted,
                "message": scored.message,
                "components": [asdict(one) for one in scored.components],
                "turns": [_turn_row(turn) for turn in rollout.turns] if len(rollout.turns) > 1 else [],
            }


def _turn_row(turn: Turn) -> dict[str, Any]:
    return {
        "observation": turn.observation.text if turn.observation else None,
        "observation_tokens": len(turn.observation.token_ids) if turn.observation else 0,
        "response": turn.text,
        "num_tokens": len(turn.token_ids),
        "logprob_sum": sum(turn.logprobs),
        "finish_reason": turn.finish_reason,
        "policy_version": turn.policy_version,
        "generator_id": turn.generator_id,
        "seconds": turn.seconds,
    }


def decision_rows(step: int, groups: Sequence[RolloutGroup]) -> Iterable[dict[str, Any]]:
    """Rows of `DECISION_SCHEMA`."""
    for order, group in enumerate(groups):
        prior = group.prior
        for sequence, decision in enumerate(group.decisions):
            action = decision.action
            yield {
                "step": step,
                "position": order,
                "prompt_id": group.prompt.prompt_id,
                "sequence": sequence,
                "action": "draw" if isinstance(action, Draw) else "stop",
                "num_rollouts": action.num_rollouts if isinstance(action, Draw) else None,
                "reason": action.reason if isinstance(action, Stop) else None,
                "num_scored": decision.num_scored,
                "mean": decision.mean,
                "prior": decision.prior,
                "bias_squared": decision.bias_squared,
                "target": decision.target,
                "open_prompts": decision.open_prompts,
                "group_prior": None if prior is None else prior.value,
                "prior_origin": None if prior is None else prior.origin,
                "prior_version": None if prior is None else prior.policy_version,
                "raw_prior": None if prior is None else prior.raw,
                "raw_prior_origin": None if prior is None else prior.raw_origin,
            }


def recorded_group(step: int, decided: list[dict[str, Any]], drawn: list[dict[str, Any]]) -> RecordedGroup:
    """One prompt's rows of the two files, in any order, as what they record; one of the two may be empty."""
    head = (decided or drawn)[0]
    prompt_id = head["prompt_id"]
    prior = None
    if decided and decided[0]["group_prior"] is not None:
        names = ("group_prior", "prior_version", "prior_origin", "raw_prior", "raw_prior_origin")
        prior = Prior(prompt_id, *(decided[0][name] for name in names))
    rollouts = tuple(_rollout(row) for row in sorted(drawn, key=lambda row: row["sample_index"]))
    greedy = rollouts[0] if rollouts and rollouts[0].sample_index == GREEDY_INDEX else None
    decisions = tuple(_decision(row) for row in sorted(decided, key=lambda row: row["sequence"]))
    first = drawn[0] if drawn else {"prompt": "", "answer": "", "source": "", "prompt_tokens": 0}
    return RecordedGroup(
        step,
        prompt_id,
        first["prompt"],
        first["answer"],
        first["source"],
        first["prompt_tokens"],
        prior,
        rollouts if greedy is None else rollouts[1:],
        decisions,
        greedy,
    )


def _rollout(row: Mapping[str, Any]) -> RecordedRollout:
    names = [name for name in RecordedRollout.__slots__ if name not in ("components", "turns")]
    components = tuple(ComponentScore(**one) for one in row["components"] or ())
    turns = tuple(RecordedTurn(**one) for one in row["turns"] or ())
    return RecordedRollout(**{name: row[name] for name in names}, components=components, turns=turns)


def _decision(row: Mapping[str, Any]) -> Decision:
    if row["action"] == "draw":
        action: Draw | Stop = Draw(row["prompt_id"], row["num_rollouts"])
    else:
        action = Stop(row["prompt_id"], row["reason"])
    names = ("num_scored", "mean", "prior", "bias_squared", "target", "open_prompts")
    return Decision(action, **{name: row[name] for name in names})

"""How one prompt was decided, from the ledger, number by number: why it got its rollouts, and their advantages."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from v05ray import budget
from v05ray.errors import ConfigError
from v05ray.ledger.recorded import RecordedGroup, RecordedRollout
from v05ray.registry import suggest
from v05ray.stats.shrinkage import fuse
from v05ray.types import Decision, Draw, Prior

if TYPE_CHECKING:  # the ledger needs pyarrow, and the command line should not wait for it
    from v05ray.ledger import LedgerReader

_LONGEST_TEXT = 300
_REASONS = {
    "accepted": "the evidence agrees with the prior",
    "target_reached": "what is drawn meets the target",
    "cap": "n_max is drawn",
    "halted": "the batch is nearly done, and no prompt is topped up any more",
    "fixed": "the rule has a fixed budget",
}


def explain(reader: "LedgerReader", prompt_id: str, *, step: int | None = None) -> str:
    """How a prompt was decided, in each step that drew it (or in one); `ConfigError` where it was never drawn."""
    seen = reader.rollouts(step, columns=["step", "prompt_id"]).to_pydict()
    steps = sorted({s for s, name in zip(seen["step"], seen["prompt_id"], strict=True) if name == prompt_id})
    if not steps:
        where = "in this run" if step is None else f"in step {step}"
        raise ConfigError(f"no prompt {prompt_id!r} {where}{suggest(prompt_id, _some(seen['prompt_id']))}")
    stories = []
    for number in steps:
        groups = reader.groups(number)
        position = next(index for index, group in enumerate(groups) if group.prompt_id == prompt_id)
        stories.append("\n".join(describe_group(groups[position], reader.meta(number), position, len(groups))))
    return "\n\n".join(stories)


def _some(names: list[str]) -> list[str]:
    """Enough names to suggest from; a run may hold millions."""
    return sorted(set(names[:100_000]))


def describe_group(group: RecordedGroup, meta: Mapping[str, Any], position: int, num_prompts: int) -> Iterator[str]:
    """The lines for one group; `meta` is its step's, `position` its place among the batch's `num_prompts`."""
    yield f"step {group.step}, prompt {group.prompt_id!r} ({position + 1} of {num_prompts}, source {group.source!r})"
    yield f"  question: {_short(group.text)}"
    if group.answer:
        yield f"  reference answer: {_short(group.answer)}"
    if group.prior is None:
        yield "  no prior"
    else:
        yield (
            f"  prior V = {group.prior.value:+.4f} ({group.prior.origin}, policy version {group.prior.policy_version}):"
            f" expects {(1 + group.prior.value) / 2:.1%} right{_repair(group.prior)}"
        )
    shown = 0
    for decision in group.decisions:
        for rollout in group.rollouts[shown : decision.num_scored]:
            yield from (f"    {line}" for line in _rollout(rollout))
        shown = max(shown, decision.num_scored)
        yield from (f"  {line}" for line in _decision(decision, meta, num_prompts))
    for rollout in group.rollouts[shown:]:
        yield from (f"    {line}" for line in _rollout(rollout))
    if group.greedy is not None:
        first, *turns = _rollout(group.greedy)
        yield f"  greedy (outside the budget): {first}"
        yield from (f"    {line}" for line in turns)
    yield from (f"  {line}" for line in _advantages(group, meta))


def _repair(prior: Prior) -> str:
    """What the value pool had answered, where that is another number."""
    if prior.raw is None or (prior.raw, prior.raw_origin) == (prior.value, prior.origin):
        return ""
    return f"; the value pool answered {prior.raw:+.4f} ({prior.raw_origin})"


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST_TEXT, placeholder=" ...")


def _rollout(rollout: RecordedRollout) -> Iterator[str]:
    """A line for the rollout, and one for each turn where there are several."""
    advantage = "" if rollout.advantage is None else f", advantage {rollout.advantage:+.4f}"
    read = "" if rollout.extracted is None else f", answer {textwrap.shorten(rollout.extracted, 40)!r}"
    read += "".join(f", {one.label} {one.reward:+g}" for one in rollout.components)
    read += f", {rollout.message}" if rollout.message else ""
    yield (
        f"rollout {rollout.sample_index}: reward {rollout.reward:+g} ({rollout.verdict}{read}), "
        f"{rollout.num_tokens} tokens, {rollout.finish_reason}, log-prob {rollout.logprob_sum:.2f}, "
        f"{rollout.generator_id} at version {rollout.policy_version}, {rollout.seconds:.2f} s{advantage}: "
        f"{textwrap.shorten(rollout.response, 60)!r}"
    )
    for number, turn in enumerate(rollout.turns, 1):
        after = f" after {textwrap.shorten(turn.observation, 60)!r}" if turn.observation is not None else ""
        yield (
            f"  turn {number}: {turn.num_tokens} tokens, {turn.finish_reason}, log-prob {turn.logprob_sum:.2f}, "
            f"{turn.generator_id}, {turn.seconds:.2f} s: {textwrap.shorten(turn.response, 60)!r}{after}"
        )


def _decision(decision: Decision, meta: Mapping[str, Any], num_prompts: int) -> Iterator[str]:
    action, k = decision.action, decision.num_scored
    if decision.mean is not None:
        yield f"judged at k = {k}, mean = {decision.mean:+.4f}"
    if decision.mean is not None and decision.prior is not None and decision.bias_squared is not None:
        yield (
            f"  b2 = max(0, (mean - V)^2 - 1/k) = max(0, {(decision.mean - decision.prior) ** 2:.4f} - {1 / k:.4f})"
            f" = {decision.bias_squared:.4f}"
        )
    if decision.target is not None:
        yield f"  target = {decision.target} rollouts{_target(decision, meta)}"
    if isinstance(action, Draw):
        why = "cold start" if k == 0 else f"{max(0, (decision.target or 0) - k)} short of the target"
        padding = 0 if decision.target is None else k + action.num_rollouts - decision.target
        extra = f", {padding} of them to fill a dispatch" if k and padding > 0 else ""
        yield f"draw {action.num_rollouts} ({why}{extra}); {decision.open_prompts} of {num_prompts} prompts open"
        return
    yield f"stop, {action.reason}: {_REASONS[action.reason]}; {decision.open_prompts} of {num_prompts} prompts open"
    if action.reason == "halted":
        limit = meta.get("halt_fraction", 0) * num_prompts
        yield f"  the batch halts below {limit:g} open prompts ({meta.get('halt_fraction', 0):g} of {num_prompts})"


def _target(decision: Decision, meta: Mapping[str, Any]) -> str:
    """The target's arithmetic, where the rule is OSLA with a constant cost."""
    options = dict(meta.get("rule", {}))
    steered = any(options.get(name) for name in ("mean_rollouts", "tokens_per_step", "token_aware"))
    if options.pop("name", None) != "osla" or steered or not decision.bias_squared:
        return ""
    rule = budget.OslaRule(**options)
    root = 1 / math.sqrt(rule.cost)
    return (
        f": min({rule.n_max}, {options.get('rounding', 'floor')}(1/sqrt({rule.cost:.6g}) - 1/b2 = "
        f"{root:.2f} - {1 / decision.bias_squared:.2f} = {root - 1 / decision.bias_squared:.2f}))"
    )


def _advantages(group: RecordedGroup, meta: Mapping[str, Any]) -> Iterator[str]:
    if not group.rollouts:
        return
    mean = sum(group.rewards) / len(group.rewards)
    name = meta.get("advantage", {}).get("name", "unknown")
    yield f"{len(group.rollouts)} rollouts, {sum(group.lengths)} tokens, mean reward {mean:+.4f}; estimator {name}"
    if group.prior is not None:
        fusion = fuse(group.prior.value, group.rewards)
        yield (
            f"  the paper's fusion: w = b2 / (b2 + 1/k) = {fusion.weight:.4f}, "
            f"B = w mean + (1 - w) V = {fusion.baseline:+.4f}, sqrt(1 - B^2) = {math.sqrt(1 - fusion.baseline**2):.4f}"
        )

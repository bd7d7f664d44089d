"""The budget machine of one batch: rewards in, decisions out. Pure: no clock, no randomness, no I/O.

    start()  ->  Draw(k0) for every prompt
    observe(prompt, reward)  ->  []                     while rollouts of the prompt (in rounds: of any) are outstanding
                             ->  [Draw(more) | Stop]    once they are all scored

One prompt's life:  cold start -> judged -> (topped up -> judged)* -> sealed by a Stop. With the halt off and no
padding, `async` and `rounds` give every prompt the same budget for the same rewards. Time per call is constant (in
rounds: per prompt judged), memory a few hundred bytes per prompt.
"""

import heapq
from collections.abc import Mapping
from typing import Literal

from v05ray.budget.base import Evidence, Judgement, Rule
from v05ray.errors import ConfigError
from v05ray.types import Decision, Draw, Stop, StopReason


class BatchMachine:
    """Decides, for the prompts of one batch, which are drawn again and which are sealed, and counts what happened.

    The rule is the paper's or another; the halt is that of arXiv 2603.10848, Section 3.3.

    >>> from v05ray.budget.rules import build
    >>> machine = BatchMachine({"p": 0.0}, build("osla", {"cold_start": 2, "n_max": 4}), halt_fraction=0.0)
    >>> [decision.action for decision in machine.start()]
    [Draw(prompt_id='p', num_rollouts=2)]
    >>> machine.observe("p", 1.0)
    []
    >>> [decision.action for decision in machine.observe("p", 1.0)]  # b2 = 1 - 1/2: worth more than 4
    [Draw(prompt_id='p', num_rollouts=2)]
    >>> machine.num_drawn, machine.num_open, machine.done
    (4, 1, False)
    """

    def __init__(
        self,
        priors: Mapping[str, float | None],
        rule: Rule,
        *,
        halt_fraction: float = 1 / 16,
        dispatch_multiple: int = 1,
        mode: Literal["async", "rounds"] = "async",
        on_halt: Literal["drain", "abort"] = "drain",
    ) -> None:
        """A machine for one batch; nothing is decided before `start`.

        Args:
            priors: V in [-1, 1] (or None) by prompt id, in batch order; the keys are the batch.
            rule: what is wanted for each prompt.
            halt_fraction: a wish for more is refused (reason `halted`) when fewer than this share of the batch is open;
                0 switches the halt off. Open are, in `async`, the prompts not yet sealed; in `rounds`, those that want
                more at the barrier.
            dispatch_multiple: a dispatch is padded up to a multiple of this, never beyond n_max. In `async` a dispatch
                is one prompt's top-up; in `rounds` it is the whole round's, and the extra rollouts go where the target
                is furthest.
            mode: judge a prompt when its last outstanding rollout is scored, or all open prompts at a barrier.
            on_halt: `abort` seals the prompts whose top-ups are in flight when the batch halts, with what they have.
                That favours short answers, so it is counted (`num_aborted`). Cold starts are never aborted. In `rounds`
                nothing is in flight when the batch halts.

        Raises:
            ConfigError: where the rule needs what the prompts lack, or cannot work in this mode.
        """
        if not priors:
            raise ConfigError("a batch needs >= 1 prompt, got none")
        if not 0 <= halt_fraction <= 1 or dispatch_multiple < 1:
            raise ConfigError(
                f"needs 0 <= halt_fraction <= 1 and dispatch_multiple >= 1, got {halt_fraction} and {dispatch_multiple}"
            )
        if rule.scope == "batch" and mode != "rounds":
            raise ConfigError(
                f"budget rule {rule.name!r} allots over the whole batch at a barrier; set budget.mode: rounds"
            )
        _check_priors(priors, rule)
        self._rule = rule
        self._halt_below = halt_fraction * len(priors)
        self._multiple = dispatch_multiple
        self._rounds = mode == "rounds"
        self._abort = on_halt == "abort"
        plan = rule.plan(priors)
        self._all = {i: Evidence(i, prior, plan[i]) for i, prior in priors.items()}
        self._open = dict(self._all)
        self._started = False
        self._swept = False
        self.halted = False
        """Whether the global halt has sealed a prompt."""
        self.num_drawn = 0
        """Rollouts ordered so far; drawn = scored + outstanding + aborted + forgotten."""
        self.num_scored = 0
        self.num_outstanding = 0
        self.num_aborted = 0
        """Rollouts in flight that the halt gave up (`on_halt: abort`)."""
        self.num_forgotten = 0
        """Rollouts reported to `forget`."""
        self.num_halted = 0
        """Prompts sealed by the halt although the rule wanted more (or, on abort, while more was in flight)."""
        self.num_padding = 0
        """Rollouts drawn for padding alone."""

    @property
    def num_open(self) -> int:
        """Prompts not yet sealed."""
        return len(self._open)

    @property
    def done(self) -> bool:
        """Whether every prompt is sealed."""
        return self._started and not self._open

    def is_open(self, prompt_id: str) -> bool:
        """Whether the prompt still waits for rollouts."""
        return prompt_id in self._open

    def outstanding(self, prompt_id: str) -> int:
        """Rollouts of the prompt that are drawn and not yet scored, >= 0; `KeyError` for one not of this batch."""
        return self._all[prompt_id].num_outstanding

    def evidence(self) -> list[Evidence]:
        """What is known of every prompt, in batch order; for `Rule.observe` once the batch is done."""
        return list(self._all.values())

    def start(self) -> list[Decision]:
        """The cold start: one Draw per prompt, in batch order. Once only: a second call raises `ValueError`."""
        if self._started:
            raise ValueError("the batch has started already; a machine serves one batch")
        self._started = True
        decisions = []
        for evidence in self._all.values():
            self._order(evidence, evidence.num_cold_start)
            decisions.append(
                Decision(
                    action=Draw(evidence.prompt_id, evidence.num_cold_start),
                    num_scored=0,
                    mean=None,
                    prior=evidence.prior,
                    bias_squared=None,
                    target=None,
                    open_prompts=len(self._open),
                )
            )
        return decisions

    def observe(self, prompt_id: str, reward: float, *, num_tokens: int = 0) -> list[Decision]:
        """Count one scored rollout; returns what follows from it, in the order to be done.

        `reward` is in [-1, 1], `num_tokens` >= 0 the length of its response.

        A Stop for a prompt with rollouts in flight (`on_halt: abort`) asks to abort them: they are counted here at
        once, and must not be observed any more. Raises `ValueError` for a prompt that waits for none.
        """
        if not -1 <= reward <= 1:
            raise ValueError(f"the reward of {prompt_id!r} must be in [-1, 1], got {reward}")
        evidence = self._settle(prompt_id, 1)
        self.num_scored += 1
        evidence.add(reward, num_tokens)
        return self._judge_if_due(evidence)

    def forget(self, prompt_id: str, num_rollouts: int) -> list[Decision]:
        """Take back `num_rollouts` >= 1 that will never be scored (lost beyond recovery); may let the prompt be judged.

        A rule still short of its target draws again; a prompt with nothing scored at all gets its cold start again.
        Raises `ValueError` for more rollouts than the prompt waits for.
        """
        if num_rollouts < 1:
            raise ValueError(f"num_rollouts must be >= 1, got {num_rollouts}")
        evidence = self._settle(prompt_id, num_rollouts)
        self.num_forgotten += num_rollouts
        return self._judge_if_due(evidence)

    def _order(self, evidence: Evidence, num_rollouts: int) -> None:
        evidence.num_outstanding += num_rollouts
        self.num_outstanding += num_rollouts
        self.num_drawn += num_rollouts

    def _settle(self, prompt_id: str, num_rollouts: int) -> Evidence:
        evidence = self._open.get(prompt_id)
        if evidence is None or evidence.num_outstanding < num_rollouts:
            state = "open" if evidence else "sealed" if prompt_id in self._all else "not of this batch"
            waits = evidence.num_outstanding if evidence else 0
            raise ValueError(f"{prompt_id!r} ({state}) waits for {waits} rollouts, got {num_rollouts}")
        evidence.num_outstanding -= num_rollouts
        self.num_outstanding -= num_rollouts
        return evidence

    def _judge_if_due(self, evidence: Evidence) -> list[Decision]:
        if self._rounds:
            return [] if self.num_outstanding else self._judge_round()
        return [] if evidence.num_outstanding else self._judge_one(evidence)

    def _judge_one(self, evidence: Evidence) -> list[Decision]:
        """The mode `async`: one prompt alone, while others still generate."""
        if evidence.num_scored == 0:
            return [self._redraw(evidence)]
        judgement = self._judge(evidence)
        if judgement.target <= evidence.num_scored:
            return [self._stop(evidence, judgement, judgement.reason), *self._halt_in_flight()]
        if len(self._open) < self._halt_below:
            return [self._stop(evidence, judgement, "halted"), *self._halt_in_flight()]
        wanted = judgement.target - evidence.num_scored
        padded = min(_round_up(wanted, self._multiple), self._rule.n_max - evidence.num_scored)
        return [self._draw(evidence, judgement, wanted, padded - wanted)]

    def _judge_round(self) -> list[Decision]:
        """The mode `rounds`: everything drawn is scored; judge all open prompts together, stops first."""
        decisions = []
        scored = []
        for evidence in self._open.values():
            if evidence.num_scored:
                scored.append(evidence)
            else:
                decisions.append(self._redraw(evidence))
        wishes: list[tuple[Evidence, Judgement]] = []
        for evidence, judgement in zip(scored, self._rule.judge_all(scored), strict=True):
            if self._checked(evidence, judgement).target > evidence.num_scored:
                wishes.append((evidence, judgement))
            else:
                decisions.append(self._stop(evidence, judgement, judgement.reason))
        if wishes and len(self._open) < self._halt_below:
            return decisions + [self._stop(evidence, judgement, "halted") for evidence, judgement in wishes]
        extra = self._pad(wishes)
        for evidence, judgement in wishes:
            wanted = judgement.target - evidence.num_scored
            decisions.append(self._draw(evidence, judgement, wanted, extra.get(evidence.prompt_id, 0)))
        return decisions

    def _pad(self, wishes: list[tuple[Evidence, Judgement]]) -> dict[str, int]:
        """Extra rollouts that fill the round up to a multiple, dealt in turn to the prompts furthest from target."""
        total = sum(judgement.target - evidence.num_scored for evidence, judgement in wishes)
        missing = _round_up(total, self._multiple) - total
        extra: dict[str, int] = {}
        room = [(e, j) for e, j in wishes if j.target < self._rule.n_max]
        furthest = heapq.nlargest(missing, room, key=lambda wish: wish[1].target - wish[0].num_scored)
        while missing and furthest:
            for evidence, _ in furthest[:missing]:
                extra[evidence.prompt_id] = extra.get(evidence.prompt_id, 0) + 1
                missing -= 1
            furthest = [(e, j) for e, j in furthest if j.target + extra[e.prompt_id] < self._rule.n_max]
        return extra

    def _redraw(self, evidence: Evidence) -> Decision:
        self._order(evidence, evidence.num_cold_start)
        action = Draw(evidence.prompt_id, evidence.num_cold_start)
        return Decision(action, 0, None, evidence.prior, None, None, len(self._open))

    def _draw(self, evidence: Evidence, judgement: Judgement, wanted: int, padding: int) -> Decision:
        self._order(evidence, wanted + padding)
        self.num_padding += padding
        return self._decision(Draw(evidence.prompt_id, wanted + padding), evidence, judgement)

    def _stop(self, evidence: Evidence, judgement: Judgement, reason: StopReason) -> Decision:
        decision = self._decision(Stop(evidence.prompt_id, reason), evidence, judgement)
        del self._open[evidence.prompt_id]
        self.num_outstanding -= evidence.num_outstanding
        self.num_aborted += evidence.num_outstanding
        evidence.num_outstanding = 0
        if reason == "halted":
            self.halted = True
            self.num_halted += 1
        return decision

    def _halt_in_flight(self) -> list[Decision]:
        """`on_halt: abort`: the first time the batch is below the halt, seal the prompts that are being topped up."""
        if not self._abort or self._swept or len(self._open) >= self._halt_below:
            return []
        self._swept = True  # no prompt is topped up from here on, so there will be no more to abort
        topping_up = [e for e in self._open.values() if e.num_scored >= e.num_cold_start]
        return [self._stop(evidence, self._judge(evidence), "halted") for evidence in topping_up]

    def _judge(self, evidence: Evidence) -> Judgement:
        return self._checked(evidence, self._rule.judge(evidence))

    def _checked(self, evidence: Evidence, judgement: Judgement) -> Judgement:
        if judgement.target > self._rule.n_max:
            raise ValueError(
                f"budget rule {self._rule.name!r} wants {judgement.target} rollouts for {evidence.prompt_id!r}, "
                f"above its own n_max of {self._rule.n_max}"
            )
        return judgement

    def _decision(self, action: Draw | Stop, evidence: Evidence, judgement: Judgement) -> Decision:
        return Decision(
            action,
            evidence.num_scored,
            evidence.mean,
            evidence.prior,
            judgement.bias_squared,
            judgement.target,
            len(self._open),
        )


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _check_priors(priors: Mapping[str, float | None], rule: Rule) -> None:
    for prompt_id, prior in priors.items():
        if prior is not None and not -1 <= prior <= 1:
            raise ValueError(f"the prior of {prompt_id!r} must be in [-1, 1], got {prior}")
    if "prior" in rule.needs:
        lacking = [prompt_id for prompt_id, prior in priors.items() if prior is None]
        if lacking:
            raise ConfigError(
                f"budget rule {rule.name!r} needs a prior for every prompt, got none for {lacking[0]!r} "
                f"({len(lacking)} of {len(priors)} lack one); set value.enabled: true or take the rule 'fixed'"
            )

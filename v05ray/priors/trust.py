"""Is the prior any good, and what to do while it is not: online scores, recalibration, and a fallback with hysteresis.

After a step the driver gives `PriorTrust.observe` the priors of V0 (raw, before any repair) and what the first k0
rollouts of each prompt gave. Only those: later rollouts were drawn because of what the first showed. Before the next
step `transform` repairs the new priors:

    logit p' = a logit p + b        a >= 0; (a, b) minimise cross-entropy over the window's rollouts + ridge to (1, 0)
    p' = base rate                  while the gate is closed

The gate closes when the skill of p' over the last `window` groups, 1 - Brier(p') / Brier(base rate), is not above 0,
and opens when it is above `return_skill`. Every p' is scored as it was when it was made, so the skill is out of
sample; V0 still answers while the gate is closed, so it can earn its way back. Standard library alone.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from v05ray.stats.rates import expected_calibration_error, laplace_rate
from v05ray.stats.shrinkage import V_MAX
from v05ray.types import Prior

_LOGIT_LIMIT = 5.0


class Outcome(NamedTuple):
    """One sealed group, as far as its prior is concerned."""

    raw: float | None
    """V0's own prior in [-1, 1], before `transform`; None where V0 was not asked (too small a support)."""
    mean: float
    """Mean reward in [-1, 1] of the first `num_rollouts` rollouts."""
    num_rollouts: int
    """k0, at least 1."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """An outcome with what would have been believed then; probabilities in [0, 1]."""

    raw: float
    calibrated: float
    base: float
    observed: float
    num_rollouts: int


class PriorTrust:
    """Scores, recalibrates and gates the prior. Deterministic in what it observes; checkpointed by `state_dict`."""

    def __init__(
        self,
        *,
        window: int = 256,
        min_groups: int = 64,
        recalibrate: bool = True,
        fallback: bool = True,
        return_skill: float = 0.02,
        ridge: float = 1.0,
        v_max: float = V_MAX,
    ) -> None:
        """Needs 2 <= min_groups <= window.

        `min_groups`: below that many judged groups nothing is repaired or gated. `ridge`: how firmly (a, b) is expected
        at the identity, as the inverse of its variance; at 1 a shift by a nat is nothing unusual, and a policy that
        learns does move as far within the window. Two numbers from hundreds of rollouts need no more than that.
        `v_max`: priors are clipped to it.
        """
        if not 2 <= min_groups <= window:
            raise ValueError(f"need 2 <= min_groups <= window, got {min_groups} and {window}")
        self._min_groups = min_groups
        self._recalibrate = recalibrate
        self._fallback = fallback
        self._return_skill = return_skill
        self._ridge = ridge
        self._v_max = v_max
        self._window: deque[_Scored] = deque(maxlen=window)
        self._means: deque[float] = deque(maxlen=window)
        self._slope, self._intercept = 1.0, 0.0
        self._closed = False
        self._num_closings = 0
        self._step: dict[str, float] = {}

    @property
    def trusted(self) -> bool:
        """False while priors fall back to the base rate."""
        return not self._closed

    @property
    def base_rate(self) -> float:
        """Laplace's estimate of the success probability over the window; .5 before the first outcome."""
        return laplace_rate(sum(self._means), len(self._means))

    def transform(self, prior: Prior) -> Prior:
        """The prior to use: recalibrated, or the base rate while V0 is not trusted. Base-rate priors stay as is."""
        if prior.origin == "base_rate":
            return prior
        if self._closed:
            return replace(prior, value=self._clip(2 * self.base_rate - 1), origin="base_rate")
        return replace(prior, value=self._clip(2 * self._calibrated((prior.value + 1) / 2) - 1))

    def observe(self, outcomes: Sequence[Outcome | tuple[float | None, float, int]]) -> None:
        """Takes in one step's groups, refits the calibration and moves the gate.

        Raises `ValueError` for a prior or mean outside [-1, 1] or fewer than one rollout.
        """
        base = self.base_rate
        fresh: list[_Scored] = []
        for outcome in map(Outcome._make, outcomes):
            _check(outcome)
            observed = (outcome.mean + 1) / 2
            self._means.append(observed)
            if outcome.raw is not None:
                raw = (outcome.raw + 1) / 2
                calibrated = self._calibrated(raw)
                fresh.append(_Scored(raw, calibrated, base, observed, outcome.num_rollouts))
        self._step = self._step_metrics(fresh)
        self._window.extend(fresh)
        if len(self._window) < self._min_groups:
            return
        if self._recalibrate:
            self._slope, self._intercept = fit_platt(
                [(scored.raw, scored.observed) for scored in self._window],
                ridge=self._ridge,
                # Each group is K draws of its own: counted as one, a rare success could hardly move the fit.
                weights=[scored.num_rollouts for scored in self._window],
            )
        if self._fallback:
            self._move_gate()

    def _move_gate(self) -> None:
        skill = self.window_skill
        if not self._closed and skill <= 0:
            self._closed = True
            self._num_closings += 1
        elif self._closed and skill > self._return_skill:
            self._closed = False

    @property
    def window_skill(self) -> float:
        """1 - Brier(p') / Brier(base rate) over the window; 0 before the first group."""
        error = sum((scored.calibrated - scored.observed) ** 2 for scored in self._window)
        base_error = sum((scored.base - scored.observed) ** 2 for scored in self._window)
        return 1 - error / base_error if base_error > 0 else 0.0

    def _calibrated(self, probability: float) -> float:
        return _sigmoid(self._slope * _logit(probability) + self._intercept)

    def _clip(self, value: float) -> float:
        return max(-self._v_max, min(self._v_max, value))

    def _step_metrics(self, fresh: Sequence[_Scored]) -> dict[str, float]:
        """Scores of the step's prior as it was used: p', or the base rate while the gate was closed."""
        if not fresh:
            return {}
        used = [(scored.base if self._closed else scored.calibrated, scored) for scored in fresh]
        brier = sum((p - scored.observed) ** 2 for p, scored in used) / len(used)
        base_brier = sum((scored.base - scored.observed) ** 2 for scored in fresh) / len(fresh)
        # On the [-1, 1] scale |mu - V| = 2 |observed - p|; the radius is 1 / sqrt(k) (Eq. 7).
        rejected = sum(2 * abs(scored.observed - p) > 1 / math.sqrt(scored.num_rollouts) for p, scored in used)
        return {
            "v05/prior_brier": brier,
            "v05/prior_brier_base_rate": base_brier,
            "v05/prior_rejected_share": rejected / len(used),
        }

    def metrics(self) -> dict[str, float]:
        """`v05/prior_*`: the last step's Brier scores and rejected share; the window's ECE, skill and tau2; the repair.

        The Brier score compares with the observed mean of k0 rollouts, so its floor is their noise, not 0; skill
        compares two such scores, and the noise cancels in its sign. tau2 is on the [-1, 1] scale.
        """
        window = [(scored.calibrated, scored.observed) for scored in self._window]
        metrics = {
            **self._step,
            "v05/prior_base_rate": self.base_rate,
            "v05/prior_trusted": float(self.trusted),
            "v05/prior_num_fallbacks": float(self._num_closings),
            "v05/prior_platt_slope": self._slope,
            "v05/prior_platt_intercept": self._intercept,
        }
        if window:
            metrics["v05/prior_ece"] = expected_calibration_error(window)
            metrics["v05/prior_skill"] = self.window_skill
        noisy = [scored for scored in self._window if scored.num_rollouts >= 2]
        if noisy:
            metrics["v05/prior_tau2"] = max(0.0, sum(map(_excess_error, noisy)) / len(noisy))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "window": [[s.raw, s.calibrated, s.base, s.observed, s.num_rollouts] for s in self._window],
            "means": list(self._means),
            "platt": [self._slope, self._intercept],
            "closed": self._closed,
            "num_closings": self._num_closings,
            "step": dict(self._step),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` returned; a smaller window keeps the most recent groups."""
        self._window.clear()
        self._window.extend(_Scored(*row) for row in state["window"])
        self._means.clear()
        self._means.extend(state["means"])
        self._slope, self._intercept = state["platt"]
        self._closed = bool(state["closed"])
        self._num_closings = int(state["num_closings"])
        self._step = dict(state["step"])


def fit_platt(
    pairs: Sequence[tuple[float, float]],
    *,
    ridge: float,
    weights: Sequence[float] | None = None,
    max_iterations: int = 50,
) -> tuple[float, float]:
    """(a, b) of p' = sigmoid(a logit p + b) for pairs (p, observed rate), both in [0, 1].

    Minimises sum w CE(p', observed) + ridge/2 [(a - 1)^2 + b^2] by damped Newton steps; a is kept at 0 or more, for a
    prior that points the wrong way is to be dropped, not believed in reverse. w is how many draws the observed rate is
    the mean of (1 without `weights`). `ridge` must be positive.
    """
    if ridge <= 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    counts = weights if weights is not None else [1.0] * len(pairs)
    data = [(_logit(p), observed, count) for (p, observed), count in zip(pairs, counts, strict=True)]

    def loss(slope: float, intercept: float) -> float:
        total = ridge / 2 * ((slope - 1) ** 2 + intercept**2)
        for x, observed, count in data:
            margin = slope * x + intercept
            total += count * (max(margin, 0) + math.log1p(math.exp(-abs(margin))) - observed * margin)
        return total

    slope, intercept = 1.0, 0.0
    best = loss(slope, intercept)
    for _ in range(max_iterations):
        g0, g1 = ridge * (slope - 1), ridge * intercept
        h00, h01, h11 = ridge, 0.0, ridge
        for x, observed, count in data:
            p = _sigmoid(slope * x + intercept)
            curvature = count * p * (1 - p)
            g0 += count * (p - observed) * x
            g1 += count * (p - observed)
            h00 += curvature * x * x
            h01 += curvature * x
            h11 += curvature
        if slope == 0 and g0 > 0:  # at the bound: only the intercept moves
            step0, step1 = 0.0, g1 / h11
        else:
            determinant = h00 * h11 - h01 * h01
            step0 = (h11 * g0 - h01 * g1) / determinant
            step1 = (h00 * g1 - h01 * g0) / determinant
        scale = 1.0
        while scale > 1e-6:
            trial = max(0.0, slope - scale * step0), intercept - scale * step1
            trial_loss = loss(*trial)
            if trial_loss < best:
                break
            scale /= 2
        else:
            break
        moved = abs(trial[0] - slope) + abs(trial[1] - intercept)
        (slope, intercept), best = trial, trial_loss
        if moved < 1e-9:
            break
    return slope, intercept


def _excess_error(scored: _Scored) -> float:
    """(V - mu)^2 - (1 - mu^2) / (k - 1): the prior's squared error, the reward's own noise taken off."""
    mean = 2 * scored.observed - 1
    prior = 2 * scored.calibrated - 1
    return (prior - mean) ** 2 - (1 - mean * mean) / (scored.num_rollouts - 1)


def _check(outcome: Outcome) -> None:
    for name, value in (("raw prior", outcome.raw), ("mean", outcome.mean)):
        if value is not None and not -1 <= value <= 1:
            raise ValueError(f"{name} must lie in [-1, 1], got {value}")
    if outcome.num_rollouts < 1:
        raise ValueError(f"an outcome needs at least one rollout, got {outcome.num_rollouts}")


def _sigmoid(margin: float) -> float:
    if margin >= 0:
        return 1 / (1 + math.exp(-margin))
    return math.exp(margin) / (1 + math.exp(margin))


def _logit(probability: float) -> float:
    """Clipped to +-5, p in [.0067, .9933]: certainty must not outweigh a whole window."""
    if probability <= 0:
        return -_LOGIT_LIMIT
    if probability >= 1:
        return _LOGIT_LIMIT
    return max(-_LOGIT_LIMIT, min(_LOGIT_LIMIT, math.log(probability / (1 - probability))))

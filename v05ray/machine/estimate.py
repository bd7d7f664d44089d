"""What a run will take, before its first step: from a short warm-up draw, or before that from the machine's GFLOP/s."""

from dataclasses import dataclass

from v05ray import budget
from v05ray.config import Config
from v05ray.machine.probe import Machine

DECODING_SHARE = 0.3
"""Share of the measured GFLOP/s that generation reaches on CPU: .25 (AMX, bfloat16) to .48 (AVX2, float32) for 135
million parameters and 64 sequences."""
LEARNING_PER_TOKEN = 1.0
"""What a token costs to learn from, in the time that it takes to draw it: .87 was measured for SmolLM2 on two cores.
Training takes three times the operations, but all tokens at once, and the prompt is computed once for all responses."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast responses come."""

    tokens_per_s: float
    mean_tokens: float
    """Mean length of a response, in tokens."""
    measured: bool
    """By a warm-up draw; else guessed from the machine's GFLOP/s, with every response as long as it may be."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds; a pair is (if no prompt is topped up, if every prompt draws as many rollouts as it may)."""

    speed: Speed
    first_evaluation_s: float
    step_s: tuple[float, float]
    run_s: tuple[float, float]

    def __str__(self) -> str:
        speed = f"{self.speed.tokens_per_s:,.0f} tokens/s" + ("" if self.speed.measured else " (guessed)")
        return (
            f"{speed}, so about {minutes(self.first_evaluation_s)} for an evaluation, {_span(self.step_s)} for a step, "
            f"{_span(self.run_s)} for the run (from no top-up to every prompt at its cap)"
        )


def guessed_speed(config: Config, machine: Machine, num_parameters: int) -> Speed:
    """From two operations per parameter and token."""
    rate = machine.gflops[config.model.dtype][machine.threads(config.model.dtype)] * config.generators.count
    return Speed(DECODING_SHARE * rate * 1e9 / (2 * num_parameters), config.sampling.max_tokens, measured=False)


def estimate(config: Config, speed: Speed, *, num_eval: int, steps_done: int = 0) -> Estimate:
    """Of what is left of a run with `num_eval` held-out prompts; the mean response is taken to stay as long."""
    run, evaluation = config.run, config.evaluation
    per_rollout = speed.mean_tokens / speed.tokens_per_s
    evaluation_s = num_eval * (1 + evaluation.samples_per_prompt) * per_rollout
    rule = budget.build(config.budget.rule.name, config.budget.rule.options)
    fewest, most = rule.min_rollouts, rule.n_max
    learning = LEARNING_PER_TOKEN * config.learner.passes
    low, high = (run.prompts_per_step * count * per_rollout * (1 + learning) for count in (fewest, most))
    left = run.num_steps - steps_done
    num_evaluations = 0
    if num_eval:
        at = range(steps_done + 1, run.num_steps + 1)
        every = evaluation.every
        num_evaluations = sum(step == run.num_steps or bool(every and step % every == 0) for step in at)
        num_evaluations += steps_done == 0
    evaluations_s = num_evaluations * evaluation_s
    return Estimate(speed, evaluation_s, (low, high), (left * low + evaluations_s, left * high + evaluations_s))


def minutes(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`: no more digits than an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    tens = round(seconds / 600)
    return f"{tens // 6} h {tens % 6 * 10:02d} min"


def _span(pair: tuple[float, float]) -> str:
    low, high = (minutes(seconds) for seconds in pair)
    return low if low == high else f"{low} to {high}"

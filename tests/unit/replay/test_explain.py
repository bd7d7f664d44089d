from dataclasses import replace

import pytest

from tests.unit.ledger.test_ledger import make_group
from v05ray.errors import ConfigError
from v05ray.ledger import LedgerReader, LedgerWriter
from v05ray.replay.explain import describe_group, explain
from v05ray.types import Decision, Draw, Stop

META = {"rule": {"name": "osla", "cold_start": 2, "n_max": 3}, "advantage": {"name": "v05"}, "halt_fraction": 0.0625}


@pytest.fixture
def reader(tmp_path) -> LedgerReader:
    writer = LedgerWriter(tmp_path)
    for step in (1, 4):
        decisions = (
            Decision(Draw("p1", 2), 0, None, 0.5, None, None, 2),
            Decision(Draw("p1", 1), 2, 0.0, 0.5, 0.125, 3, 2),
            Decision(Stop("p1", "cap"), 3, 1 / 3, 0.5, 0.0, 3, 1),
        )
        groups = [make_group("p0"), replace(make_group("p1"), decisions=decisions)]
        writer.append_step(step, groups, {"p1": [0.5, -1.5, 0.25]}, META)
    writer.append_step(5, [make_group("p0")], {}, META)
    return LedgerReader(tmp_path)


def test_the_story_goes_number_by_number(reader):
    assert explain(reader, "p1", step=4).splitlines() == [
        "step 4, prompt 'p1' (2 of 2, source 'chain_sum')",
        "  question: What is 1 + 2?",
        "  reference answer: 3",
        "  prior V = +0.5000 (v0, policy version 4): expects 75.0% right; the value pool answered +0.3750 (v0)",
        "  draw 2 (cold start); 2 of 2 prompts open",
        "    rollout 0: reward +1 (correct, answer '0'), 1 tokens, stop, log-prob -0.50, g0 at version 4, 0.25 s, "
        "advantage +0.5000: 'answer 0'",
        "    rollout 1: reward -1 (wrong, answer '1'), 2 tokens, stop, log-prob -1.00, g0 at version 4, 0.25 s, "
        "advantage -1.5000: 'answer 1'",
        "  judged at k = 2, mean = +0.0000",
        "    b2 = max(0, (mean - V)^2 - 1/k) = max(0, 0.2500 - 0.5000) = 0.1250",
        "    target = 3 rollouts: min(3, floor(1/sqrt(0.00390625) - 1/b2 = 16.00 - 8.00 = 8.00))",
        "  draw 1 (1 short of the target); 2 of 2 prompts open",
        "    rollout 2: reward +1 (correct, answer '2'), 3 tokens, stop, log-prob -1.50, g0 at version 4, 0.25 s, "
        "advantage +0.2500: 'answer 2'",
        "  judged at k = 3, mean = +0.3333",
        "    b2 = max(0, (mean - V)^2 - 1/k) = max(0, 0.0278 - 0.3333) = 0.0000",
        "    target = 3 rollouts",
        "  stop, cap: n_max is drawn; 1 of 2 prompts open",
        "  3 rollouts, 6 tokens, mean reward +0.3333; estimator v05",
        "    the paper's fusion: w = b2 / (b2 + 1/k) = 0.0000, B = w mean + (1 - w) V = +0.5000, "
        "sqrt(1 - B^2) = 0.8660",
    ]


def test_every_step_that_drew_it_is_explained(reader):
    story = explain(reader, "p1")
    assert [line for line in story.splitlines() if line.startswith("step")] == [
        "step 1, prompt 'p1' (2 of 2, source 'chain_sum')",
        "step 4, prompt 'p1' (2 of 2, source 'chain_sum')",
    ]


def test_a_prompt_that_was_never_drawn_is_explained(reader):
    with pytest.raises(ConfigError, match=r"no prompt 'p11' in this run; did you mean 'p1'\?"):
        explain(reader, "p11")
    with pytest.raises(ConfigError, match="no prompt 'p1' in step 5"):
        explain(reader, "p1", step=5)


def test_halts_padding_and_missing_priors_are_explained(reader):
    group = reader.groups(1)[1]
    decisions = (
        Decision(Draw("p1", 2), 0, None, None, None, None, 20),
        Decision(Draw("p1", 4), 2, 0.0, None, None, 3, 20),
        Decision(Stop("p1", "halted"), 3, 1 / 3, None, None, 9, 1),
    )
    story = "\n".join(describe_group(replace(group, prior=None, decisions=decisions), META, 0, 20))
    assert "  no prior" in story
    assert "draw 4 (1 short of the target, 3 of them to fill a dispatch); 20 of 20 prompts open" in story
    assert "stop, halted: the batch is nearly done, and no prompt is topped up any more; 1 of 20 prompts open" in story
    assert "the batch halts below 1.25 open prompts (0.0625 of 20)" in story
    assert "fusion" not in story

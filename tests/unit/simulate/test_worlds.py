import json
import random
import statistics
from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.simulate.worlds import Lengths, World, add_error, beta, recorded


def test_recorded_scores_become_rates(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "score": score}) for i, score in enumerate((-1, 0.4, 1))) + "\n\n")
    assert recorded(path) == pytest.approx([0.0, 0.7, 1.0])


@pytest.mark.parametrize("line", ['{"id": 3}', "not json", '{"score": 1.5}', '{"score": null}', "[1]"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"score": 0}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"scores\.jsonl:2"):
        recorded(path)


def test_a_missing_or_empty_file_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        recorded(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="no scores"):
        recorded(tmp_path / "empty.jsonl")


def test_a_prior_errs_as_asked_and_stays_a_prior() -> None:
    priors = add_error([0.5] * 4000, 0.3, random.Random(1))
    assert statistics.fmean(v * v for v in priors) ** 0.5 == pytest.approx(0.3, rel=0.05)
    assert all(-1 <= v <= 1 for v in add_error([0.0, 1.0] * 500, 0.8, random.Random(1)))
    assert add_error([0.25], 0, random.Random(1)) == [-0.5]


def test_a_beta_world_needs_positive_parameters() -> None:
    assert statistics.fmean(beta(4000, 2, 6, random.Random(1))) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ConfigError, match="a > 0"):
        beta(1, 0, 1, random.Random(1))


def test_a_response_depends_on_what_it_is_never_on_who_asks_when() -> None:
    world = World.of([0.3, 0.6], prior_rms=0.2, seed=7)
    forwards, backwards = world.responses(2), world.responses(2)
    there = [forwards.get(name, j) for name in ("p0", "p1") for j in range(8)]
    back = [backwards.get(name, j) for name in ("p1", "p0") for j in reversed(range(8))]
    assert there[:8] == back[:7:-1]
    assert there[8:] == back[7::-1]
    assert [world.responses(3).get("p0", j) for j in range(8)] != there[:8]


def test_rewards_follow_the_rate_and_failures_are_longer() -> None:
    world = World.of([0.25], prior_rms=0, lengths=Lengths(median=100, sigma=0.5, sigma_prompt=0, failure_factor=3))
    responses = world.responses()
    drawn = [responses.get("p0", j) for j in range(4000)]
    right = [tokens for reward, tokens in drawn if reward > 0]
    wrong = [tokens for reward, tokens in drawn if reward < 0]
    assert len(right) / 4000 == pytest.approx(0.25, abs=0.025)
    assert statistics.median(right) == pytest.approx(100, rel=0.08)
    assert statistics.median(wrong) == pytest.approx(300, rel=0.08)


def test_no_response_exceeds_the_limit() -> None:
    world = World.of([0.5], prior_rms=0, lengths=Lengths(median=100, sigma=3, max_tokens=500))
    lengths = [world.responses().get("p0", j)[1] for j in range(200)]
    assert max(lengths) == 500
    assert min(lengths) >= 1


def test_an_impossible_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="prior_rms"):
        World.of([0.5], prior_rms=-0.1)
    with pytest.raises(ConfigError, match="lengths need"):
        Lengths(median=0)


def test_the_greedy_answer_is_what_most_samples_say() -> None:
    world = World.of([0.4, 0.6], prior_rms=0)
    assert [world.greedy_reward(name) for name in ("p0", "p1")] == [-1.0, 1.0]
    assert world.truth("p0") == pytest.approx(-0.2)

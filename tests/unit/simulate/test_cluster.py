"""The cluster by hand, then by law: conservation, bounds, and async against rounds."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.budget.worlds import stops
from v05ray.budget import BatchMachine, FixedRule, OslaRule
from v05ray.errors import ConfigError
from v05ray.simulate.cluster import Cluster, play, work_bound_s
from v05ray.simulate.scaling import both
from v05ray.simulate.worlds import Lengths, Responses, World, u_shaped


class Scripted(Responses):
    """Answers written down beforehand: (reward, tokens) by prompt."""

    def __init__(self, answers: Mapping[str, Sequence[tuple[float, int]]]) -> None:
        self._answers = answers

    def get(self, prompt_id: str, sample_index: int) -> tuple[float, int]:
        return self._answers[prompt_id][sample_index]


def one_second_a_token(**changes) -> Cluster:
    """Each sequence of n gets a token after 1 + n seconds; rewards come at once."""
    settings = {"num_generators": 1, "step_base_s": 1, "step_per_sequence_s": 1, "max_num_seqs": 8, "verify_s": 0}
    return Cluster(**{**settings, **changes})


def fixed(num_rollouts: int, *names: str) -> BatchMachine:
    return BatchMachine(dict.fromkeys(names, 0.0), FixedRule(num_rollouts), halt_fraction=0)


def test_two_sequences_share_a_generator() -> None:
    # Together for 10 tokens at 3 s each, then the longer one alone for 20 more at 2 s each: 30 + 40.
    timing = play(fixed(2, "a"), Scripted({"a": [(1, 10), (-1, 30)]}), one_second_a_token()).timing
    assert timing.makespan_s == pytest.approx(70)
    assert timing.idle_share == pytest.approx(0)
    assert timing.num_tokens == 40
    # The chain: 30 tokens alone at 2 s. The work: 40 tokens, two together at 3 s for 2.
    assert timing.chain_bound_s == pytest.approx(60)
    assert timing.work_bound_s == pytest.approx(60)


def test_without_a_free_slot_a_sequence_waits() -> None:
    # One after the other, 2 s a token: 20 + 60.
    timing = play(fixed(2, "a"), Scripted({"a": [(1, 10), (-1, 30)]}), one_second_a_token(max_num_seqs=1)).timing
    assert timing.makespan_s == pytest.approx(80)


def test_a_draw_stays_together_or_is_split() -> None:
    answers = Scripted({"a": [(1, 10), (-1, 30)]})
    together = play(fixed(2, "a"), answers, one_second_a_token(num_generators=2)).timing
    split = play(fixed(2, "a"), answers, one_second_a_token(num_generators=2, placement="split")).timing
    assert together.makespan_s == pytest.approx(70)
    assert together.idle_share == pytest.approx(0.5)
    assert split.makespan_s == pytest.approx(60)
    assert split.idle_share == pytest.approx(1 - (20 + 60) / 120)


def test_work_goes_where_least_is_outstanding() -> None:
    answers = Scripted({"a": [(1, 10)], "b": [(1, 20)], "c": [(1, 30)]})
    # a and b start on their own generators; c joins a's (equal loads, the lower number), and both slow down.
    timing = play(fixed(1, "a", "b", "c"), answers, one_second_a_token(num_generators=2)).timing
    assert timing.makespan_s == pytest.approx(10 * 3 + 20 * 2)


def _disagreeing() -> tuple[BatchMachine, Scripted]:
    # mu - V = -2, b2 = 4 - 1/4: the target is 15 of 16; the other prompt accepts its prior.
    priors = {"right": 1.0, "wrong": 1.0}
    answers = {"right": [(1.0, 100)] * 16, "wrong": [(-1.0, 10)] * 16}
    return BatchMachine(priors, OslaRule(), halt_fraction=0), Scripted(answers)


def test_a_top_up_does_not_wait_for_other_prompts_unless_in_rounds() -> None:
    cluster = one_second_a_token(num_generators=2, max_num_seqs=16)
    machine, answers = _disagreeing()
    asynchronous = play(machine, answers, cluster)
    in_rounds = play(
        BatchMachine({"right": 1.0, "wrong": 1.0}, OslaRule(), halt_fraction=0, mode="rounds"), answers, cluster
    )
    assert stops(asynchronous.decisions) == stops(in_rounds.decisions)
    assert asynchronous.timing.makespan_s == pytest.approx(500)  # the right prompt's four, 5 s a token
    assert stops(in_rounds.decisions)["wrong"] == ("target_reached", 15)
    assert in_rounds.timing.makespan_s == pytest.approx(500 + 10 * (1 + 11))


def test_top_ups_may_go_before_cold_starts() -> None:
    priors = {"first": 1.0, "second": -1.0, "third": -1.0}
    answers = Scripted({name: [(-1.0, 10)] * 16 for name in priors})

    def sealed(queue: Literal["fifo", "topups_first"]) -> list[str]:
        machine = BatchMachine(priors, OslaRule(), halt_fraction=0)
        decisions = play(machine, answers, one_second_a_token(max_num_seqs=4, queue=queue)).decisions
        return list(stops(decisions))

    # Four slots: while the second runs, the first prompt's top-ups come to the queue, where the third waits.
    assert sealed("fifo") == ["second", "third", "first"]
    assert sealed("topups_first") == ["second", "first", "third"]


def test_the_verifier_is_waited_for() -> None:
    timing = play(fixed(1, "a"), Scripted({"a": [(1, 10)]}), one_second_a_token(verify_s=5)).timing
    assert timing.makespan_s == pytest.approx(25)
    assert timing.idle_share == pytest.approx(5 / 25)
    assert timing.chain_bound_s == pytest.approx(25)


def test_an_abort_frees_the_slots_at_once() -> None:
    priors = {"wrong": 1.0} | {f"right{i}": 1.0 for i in range(3)}
    answers = {"wrong": [(-1.0, 10)] * 4 + [(-1.0, 10_000)] * 12} | {f"right{i}": [(1.0, 50)] * 4 for i in range(3)}
    machine = BatchMachine(priors, OslaRule(), halt_fraction=0.5, on_halt="abort")
    timing = play(machine, Scripted(answers), one_second_a_token(num_generators=4, max_num_seqs=64)).timing
    assert machine.num_aborted > 0
    assert machine.num_outstanding == 0
    assert timing.makespan_s == pytest.approx(50 * 5)


def test_capacity_is_what_the_batch_can_keep_busy() -> None:
    # 4 rollouts on 8 generators: one each on 4 of them, 2 s a token.
    assert work_bound_s(one_second_a_token(num_generators=8), 4, 400) == pytest.approx(200)
    # 64 rollouts on 2 generators of 8 slots: 9 s for 8 tokens, twice.
    assert work_bound_s(one_second_a_token(num_generators=2), 64, 1600) == pytest.approx(1600 * 9 / 16)


def test_an_impossible_cluster_is_refused() -> None:
    impossible: list[dict[str, Any]] = [
        {"num_generators": 0},
        {"verify_s": -1},
        {"step_base_s": 0, "step_per_sequence_s": 0},
    ]
    for changes in impossible:
        with pytest.raises(ConfigError, match=r"a cluster|a token must"):
            Cluster(**changes)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_prompts=st.integers(1, 30),
    num_generators=st.integers(1, 9),
    slots=st.integers(1, 20),
    placement=st.sampled_from(["together", "split"]),
    queue=st.sampled_from(["fifo", "topups_first"]),
    mode=st.sampled_from(["async", "rounds"]),
    on_halt=st.sampled_from(["drain", "abort"]),
    halt=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_nothing_is_lost_and_no_bound_is_broken(
    seed, num_prompts, num_generators, slots, placement, queue, mode, on_halt, halt
) -> None:
    world = World.of(u_shaped(num_prompts, random.Random(seed)), prior_rms=0.5, seed=seed)
    machine = BatchMachine(world.priors, OslaRule(), halt_fraction=halt, mode=mode, on_halt=on_halt)
    cluster = Cluster(num_generators=num_generators, max_num_seqs=slots, placement=placement, queue=queue)
    played = play(machine, world.responses(), cluster)
    assert machine.done
    assert machine.num_drawn == machine.num_scored + machine.num_aborted
    assert set(played.rollouts) == set(world.rates)
    assert machine.num_scored == played.timing.num_rollouts
    assert all(len(rollouts) <= 16 for rollouts in played.rollouts.values())
    assert 0 <= played.timing.idle_share < 1
    if machine.num_aborted == 0:  # an aborted draw is in the chain, but was not waited for
        assert played.timing.makespan_s >= played.timing.bound_s * (1 - 1e-9)


def test_async_decides_as_rounds_do_and_is_faster_on_every_one_of_many_seeds() -> None:
    """Heavy tails, the lengths that rollouts have; what happens without them is below."""
    worst = 0.0
    for seed in range(60):
        rng = random.Random(seed)
        world = World.of(u_shaped(64, rng), prior_rms=0.4, seed=seed)
        cluster = Cluster(num_generators=rng.choice((1, 4, 8, 64)), max_num_seqs=rng.choice((16, 128)))
        asynchronous, in_rounds = both(world, cluster, 64, "osla", 0)
        assert (asynchronous.num_rollouts, asynchronous.num_tokens) == (in_rounds.num_rollouts, in_rounds.num_tokens)
        worst = max(worst, asynchronous.makespan_s / in_rounds.makespan_s)
    assert worst < 1


def test_with_lengths_all_alike_async_may_lose_a_little() -> None:
    """It is a greedy schedule, not the best one: a top-up may take the slot of what turns out the last rollout."""
    ratios = []
    for seed in range(30):
        lengths = Lengths(sigma=0.2, sigma_prompt=0, failure_factor=1)
        world = World.of(u_shaped(64, random.Random(seed)), prior_rms=0.6, lengths=lengths, seed=seed)
        cluster = Cluster(num_generators=8, max_num_seqs=16, placement="split")
        asynchronous, in_rounds = both(world, cluster, 64, "osla", 0)
        ratios.append(asynchronous.makespan_s / in_rounds.makespan_s)
    assert max(ratios) < 1.02
    assert sum(ratios) / len(ratios) < 1


def test_the_same_world_takes_the_same_time() -> None:
    world = World.of(u_shaped(40, random.Random(3)), prior_rms=0.4, lengths=Lengths(sigma=1), seed=3)
    assert both(world, Cluster(), 40, "osla", 1) == both(world, Cluster(), 40, "osla", 1)

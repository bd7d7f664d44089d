"""The figures of a run, from ledgers written by hand."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fakes import make_prompt, one_turn
from v05ray.figures.run import (
    Outcome,
    fallback_ranges,
    outcomes,
    reliability_points,
    reliability_svg,
    rollouts_svg,
    skill_by_step,
    skill_svg,
    source_rows,
    write_figures,
)
from v05ray.ledger import LedgerWriter
from v05ray.types import Decision, Draw, Prior, RolloutGroup, ScoredRollout, Stop

META = {"rule": {"name": "osla", "cold_start": 2, "n_max": 4}, "mode": "async"}


def group(prompt_id, rewards, prior: float | None = 0.5, *, origin="v0", source="gcd", num_cold=2) -> RolloutGroup:
    scored = tuple(
        ScoredRollout(one_turn(prompt_id, i, "", (1,), (0.0,), "stop", 0, "g", 0.0), reward, "partial")
        for i, reward in enumerate(rewards)
    )
    draws = [Draw(prompt_id, num_cold), *([Draw(prompt_id, len(rewards) - num_cold)] if rewards[num_cold:] else [])]
    stop = Stop(prompt_id, "accepted")
    decisions = tuple(Decision(action, 0, None, prior, None, None, 1) for action in (*draws, stop))
    said = None if prior is None else Prior(prompt_id, prior, 0, origin)
    return RolloutGroup(make_prompt(prompt_id, source=source), said, scored, stop, decisions)


def write(run: Path, *steps: list[RolloutGroup]) -> Path:
    writer = LedgerWriter(run / "ledger")
    for step, groups in enumerate(steps, 1):
        writer.append_step(step, groups, {}, META)
    return run


def elements(svg: str, name: str, kind: str | None = None) -> list[ElementTree.Element]:
    found = ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}")
    return [one for one in found if kind is None or one.attrib.get("class") == kind]


def outcome(step, prior, observed, *, fallback=False, num_rollouts=4, source="a", prompt_id="p") -> Outcome:
    return Outcome(step, prompt_id, source, prior, fallback, observed, observed, num_rollouts)


def test_a_group_counts_with_what_was_predicted_and_with_its_first_rollouts(tmp_path):
    run = write(tmp_path, [group("a", (1.0, -1.0, -1.0, -1.0), -0.5), group("b", (1.0, 1.0), 0.2, origin="base_rate")])
    assert outcomes(run / "ledger") == [
        Outcome(1, "a", "gcd", 0.25, False, 0.5, 0.25, 4),
        Outcome(1, "b", "gcd", 0.6, True, 1.0, 1.0, 2),
    ]


def test_an_old_ledger_without_the_priors_origin_is_read(tmp_path):
    run = write(tmp_path, [group("a", (1.0, -1.0), -0.5)])
    path = run / "ledger" / "decisions-000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["prior_origin", "prior_version"]), path)
    assert [(one.prior, one.fallback) for one in outcomes(run / "ledger")] == [(0.25, False)]
    assert len(write_figures(run)) == 3


def test_skill_compares_with_the_base_rate_of_before_the_step():
    # Base rates: none before step 1, 1/2; then (1 + 1) / (1 + 2) = 2/3.
    groups = [outcome(1, 0.5, 1.0, fallback=True), outcome(2, 1.0, 1.0), outcome(2, 0.25, 0.0)]
    # Errors of the prior 0 and 1/16; of the base rate 1/9 and 4/9.
    assert skill_by_step(groups) == [(2, pytest.approx(1 - (1 / 16) / (5 / 9)))]
    later = [*groups, outcome(3, 0.5, 0.5, fallback=True)]  # base rate (2 + 1) / (3 + 2) = .6, as was used
    assert skill_by_step(later)[1] == (3, pytest.approx(1 - (1 / 16 + 0.01) / (5 / 9 + 0.01)))


def test_skill_forgets_what_is_beyond_the_window():
    groups = [outcome(1, 0.0, 1.0), outcome(2, 1.0, 1.0), outcome(3, 1.0, 1.0)]
    assert skill_by_step(groups, window=1) == [
        (1, pytest.approx(1 - 1 / 0.25)),
        (2, pytest.approx(1.0)),
        (3, pytest.approx(1.0)),
    ]


def test_steps_without_the_value_models_answers_are_one_range():
    origins = {1: [True, True], 2: [True], 3: [False, True], 4: [False], 5: [True]}
    groups = [outcome(step, 0.5, 0.25, fallback=one) for step, flags in origins.items() for one in flags]
    assert fallback_ranges(groups) == [(0.5, 2.5), (4.5, 5.5)]
    assert len(elements(skill_svg(groups), "rect", "shade")) == 2
    assert "prior is the base rate" in skill_svg(groups)
    assert "prior is the base rate" not in skill_svg([outcome(1, 0.5, 0.4), outcome(2, 0.5, 0.4)])


def test_reliability_points_by_hand():
    low = [outcome(1, 0.02, 0.0), outcome(1, 0.06, 0.5), outcome(1, 0.04, 0.25)]
    points = reliability_points([*low, outcome(1, 1.0, 1.0)])
    assert [(p.x, p.y, p.share) for p in points] == [(pytest.approx(0.04), 0.25, 0.75), (1.0, 1.0, 0.25)]
    assert points[0].stderr == pytest.approx(1.96 * 0.25 / 3**0.5)  # the standard deviation of 0, .25, .5 is .25
    assert points[1].stderr == 0.0


def test_reliability_has_a_line_for_each_third_and_the_diagonal():
    svg = reliability_svg([outcome(step, 0.5, 0.5) for step in range(1, 10)])
    names = {text.text for text in elements(svg, "text")}
    assert names >= {"steps 1 to 3", "steps 4 to 6", "steps 7 to 9"}
    assert len(elements(svg, "polyline")) == 4


def test_a_bar_for_each_bin_of_the_prior_says_what_was_drawn_there():
    groups = [outcome(1, 0.05, 0.0, num_rollouts=4)] * 6 + [outcome(1, 0.55, 0.5, num_rollouts=12)] * 2
    svg = rollouts_svg([*groups, outcome(1, None, 0.5, num_rollouts=16)])
    assert len(elements(svg, "rect", "bar")) == 2
    texts = [text.text for text in elements(svg, "text")]
    assert [text for text in texts if text and "%" in text] == ["75% / 50%", "25% / 50%"]


def test_a_run_without_a_prior_has_no_such_figures(tmp_path):
    assert write_figures(write(tmp_path / "grpo", [group("a", (1.0, -1.0), None)])) == []
    never = write(tmp_path / "base", [group("a", (1.0, -1.0), 0.0, origin="base_rate")])
    assert write_figures(never) == []


def test_a_row_for_each_source(tmp_path):
    run = write(
        tmp_path,
        [group("a", (-1.0, -1.0)), group("b", (1.0, -1.0), source="sums")],
        [group("c", (-1.0, -1.0)), group("d", (1.0, -1.0))],
        [group("a", (1.0, 1.0)), group("e", (1.0, -1.0, 1.0, 1.0))],
    )
    assert source_rows(run) == [
        ("source gcd", "5 prompts (83.3%, 4 different), success 0.00 -> 0.88, 2.40 rollouts/prompt"),
        ("source sums", "1 prompts (16.7%, 1 different), success -, 2.00 rollouts/prompt"),
    ]
    assert source_rows(write(tmp_path / "one", [group("a", (1.0, 1.0))])) == []
    assert source_rows(tmp_path / "none") == []

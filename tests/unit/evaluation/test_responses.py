"""What an evaluation keeps, and how an interrupted one is continued."""

import asyncio
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests import fakes
from v05ray.environments import SingleTurn
from v05ray.errors import ConfigError
from v05ray.evaluation.evaluate import evaluate
from v05ray.evaluation.responses import EvaluationFolder, read_responses, write_responses
from v05ray.ports import GeneratorLost
from v05ray.types import ComponentScore, DrawRequest, Prompt, Rollout, ScoredRollout

PROMPTS = [fakes.make_prompt(name, source="sums") for name in ("p1", "p2", "p3")]
SCRIPT = {"p1": [1, -1], "p2": [-1, -1], "p3": [1, 1]}


async def evaluate_into(
    folder: EvaluationFolder, generator: fakes.FakeGenerator, draw=None, rewards=None, finish_s=0.0
):
    return await evaluate(
        PROMPTS,
        draw or generator.draw,
        SingleTurn(rewards or fakes.FakeRewardPool()),
        samples_per_prompt=2,
        sampling=fakes.SAMPLING,
        seed=0,
        step=0,
        known=folder.known(),
        keep=folder.keep,
        finish_s=finish_s,
    )


async def test_every_response_is_kept_with_what_was_read_from_it_and_the_verdict(tmp_path):
    folder = EvaluationFolder(tmp_path / "out")
    report = await evaluate_into(folder, fakes.FakeGenerator(SCRIPT))
    folder.finish(PROMPTS, report)
    table = pq.read_table(folder.responses).to_pylist()
    assert len(table) == 9
    assert {"prompt", "answer", "text", "extracted", "message", "verdict", "verifier"} <= set(table[0])
    assert table[0]["prompt"] == PROMPTS[0].text
    assert [row["verdict"] for row in table[:3]] == ["correct", "correct", "wrong"]
    assert read_responses(folder.responses) == list(report.rows)
    assert json.loads(folder.metrics.read_text()) == report.metrics
    assert sorted(file.name for file in folder.path.iterdir()) == ["metrics.json", "responses.parquet"]


async def test_an_interrupted_evaluation_draws_only_what_is_missing_and_finds_the_same(tmp_path):
    whole = await evaluate_into(EvaluationFolder(tmp_path / "whole"), fakes.FakeGenerator(SCRIPT))
    folder, first, again = EvaluationFolder(tmp_path / "out"), fakes.FakeGenerator(SCRIPT), fakes.FakeGenerator(SCRIPT)

    async def until_the_third_prompt(request: DrawRequest) -> list[Rollout]:
        if request.prompt_id == "p3":
            await asyncio.sleep(0.05)
            raise GeneratorLost("killed")
        return await first.draw(request)

    with pytest.raises(ExceptionGroup):
        await evaluate_into(folder, first, until_the_third_prompt)
    assert len(folder.known()) == 4
    report = await evaluate_into(folder, again)
    assert report == whole
    assert {request.prompt_id for request in again.requests} == {"p3"}
    folder.finish(PROMPTS, report)
    idle = fakes.FakeGenerator(SCRIPT)
    assert await evaluate_into(folder, idle) == whole
    assert idle.requests == []


class Held(fakes.FakeRewardPool):
    """Verdicts come once they are released, and one of them never."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        await self.released.wait()
        if (prompt.prompt_id, rollout.sample_index) == ("p2", 1):
            await asyncio.sleep(60)
        return await super().score(prompt, rollout)


@pytest.mark.parametrize(
    ("finish_s", "kept"),
    [
        (0.0, set()),
        # The second prompt's samples lack a verdict that does not come, and the last draw was never answered.
        (0.5, {("p1", "greedy"), ("p1", "sampled"), ("p2", "greedy"), ("p3", "greedy")}),
    ],
)
async def test_a_stopped_one_still_judges_and_keeps_what_was_drawn(tmp_path, finish_s, kept):
    folder, drawn, generator, rewards = EvaluationFolder(tmp_path), asyncio.Event(), fakes.FakeGenerator(SCRIPT), Held()

    async def all_but_the_last(request: DrawRequest) -> list[Rollout]:
        if (request.prompt_id, len(request.seeds)) == ("p3", 2):
            await asyncio.sleep(60)
        rollouts = await generator.draw(request)
        if len(generator.requests) == 5:
            asyncio.get_running_loop().call_later(0.05, drawn.set)  # the others have come by then, too
        return rollouts

    work = asyncio.create_task(evaluate_into(folder, generator, all_but_the_last, rewards, finish_s))
    await drawn.wait()
    work.cancel()
    if finish_s:
        await asyncio.sleep(0)
        rewards.released.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert set(folder.known()) == kept


async def test_a_folder_cut_off_within_a_line_continues_from_the_line_before(tmp_path):
    whole = await evaluate_into(EvaluationFolder(tmp_path), fakes.FakeGenerator(SCRIPT))
    parts = tmp_path / "parts.jsonl"
    lines = parts.read_bytes().splitlines(keepends=True)
    parts.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    again = fakes.FakeGenerator(SCRIPT)
    assert await evaluate_into(EvaluationFolder(tmp_path), again) == whole
    assert len(again.requests) == 3
    assert len(EvaluationFolder(tmp_path).known()) == 6


async def test_the_scores_of_several_verifiers_are_measured_and_kept_with_each_response(tmp_path):
    class Both(fakes.FakeRewardPool):
        async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
            one = await super().score(prompt, rollout)
            form = ComponentScore("form", 0.5, "partial")
            if rollout.sample_index == 1:
                form = ComponentScore("form", -1.0, "error")
            return replace(one, components=(ComponentScore("math", one.reward, one.verdict), form))

    folder = EvaluationFolder(tmp_path)
    report = await evaluate_into(folder, fakes.FakeGenerator(SCRIPT), rewards=Both())
    assert report.metrics["val/sums/rewards/math/mean_at_2"] == 0.0
    assert report.metrics["val/sums/rewards/math/greedy"] == pytest.approx(1 / 3)
    assert report.metrics["val/all/rewards/form/mean_at_2"] == 0.5  # where it judged
    assert folder.known()["p1", "sampled"] == list(report.rows[1:3])
    folder.finish(PROMPTS, report)
    assert read_responses(folder.responses) == list(report.rows)
    assert pq.read_table(folder.responses).to_pylist()[2]["components"] == [
        {"label": "math", "reward": -1.0, "verdict": "wrong"},
        {"label": "form", "reward": -1.0, "verdict": "error"},
    ]


async def test_responses_from_before_there_were_components_are_still_read(tmp_path):
    folder = EvaluationFolder(tmp_path)
    report = await evaluate_into(folder, fakes.FakeGenerator(SCRIPT))
    parts = tmp_path / "parts.jsonl"
    parts.write_text(parts.read_text().replace(', "components": []', ""))
    assert [row for rows in folder.known().values() for row in rows] == list(report.rows)
    folder.finish(PROMPTS, report)
    pq.write_table(pq.read_table(folder.responses).drop_columns(["components"]), folder.responses)
    assert read_responses(folder.responses) == list(report.rows)


def test_another_evaluation_in_the_same_folder_is_refused_with_what_differs(tmp_path):
    folder = EvaluationFolder(tmp_path)
    folder.claim({"seed": 0, "temperature": 1.0})
    folder.claim({"seed": 0, "temperature": 1.0})
    assert folder.is_of({"seed": 0, "temperature": 1.0})
    with pytest.raises(ConfigError, match=r"temperature: 1\.0 there, 0\.6 here\).*another --out"):
        folder.claim({"seed": 0, "temperature": 0.6})
    write_responses(folder.responses, [], [])
    assert not folder.is_of({"seed": 0, "temperature": 1.0})


def test_a_file_that_holds_no_responses_is_refused(tmp_path):
    (tmp_path / "responses.parquet").write_text("nothing")
    with pytest.raises(ConfigError, match="does not hold the responses"):
        EvaluationFolder(tmp_path).known()

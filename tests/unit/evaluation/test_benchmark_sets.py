"""Named benchmarks: which rows, from which files, under which config; and when two evaluations are the same."""

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.tokenizing import CharTokenizer, decode
from v05ray.cli import main
from v05ray.cli.console import evaluation_table
from v05ray.cli.evaluate import _run_name, add_parser, config_of
from v05ray.config import Config
from v05ray.config.run import RunConfig
from v05ray.errors import ConfigError
from v05ray.evaluation.benchmark_sets import BENCHMARKS, chosen
from v05ray.evaluation.evaluate import EvalReport, EvalRow, Kind, summarise
from v05ray.launch.evaluation import fingerprint, load_sets, output_folder
from v05ray.rewards.by_source import source_verifiers

SIX = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")
ROWS = {
    "aime24": [
        {"id": 60, "problem": "Find 200 + 4.", "solution": "It is 204.", "answer": "204", "year": "2024"},
        {"id": 61, "problem": "Find 100 + 13.", "solution": "It is 113.", "answer": "113", "year": "2024"},
    ],
    "aime25": [{"problem": "Find 69 + 1.", "answer": "70", "id": "0"}],
    "amc23": [{"id": 0, "question": "Find 26 + 1.", "answer": 27.0, "url": "none"}],
    "math500": [
        {"problem": "Give (3, pi/2).", "solution": "Here.", "answer": r"\left( 3, \frac{\pi}{2} \right)", "level": 2}
    ],
    "minerva": [{"question": "How large is 2^5?", "answer": "32", "solution": "It is 32."}],
    "olympiadbench": [{"id": 1606, "question": "Find 4 / 2.", "final_answer": ["2"], "solution": ["Halve it: 7."]}],
}
"""A few rows in each set's own fields."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 2048}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Five as JSON lines, one as Parquet, one of them alone in a folder."""
    paths = {}
    for name in SIX:
        folder = tmp_path / name
        folder.mkdir()
        paths[name] = folder / "test.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    paths["minerva"] = tmp_path / "minerva.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS["minerva"]), paths["minerva"])
    paths["aime25"] = paths["aime25"].parent
    return paths


def asked(*arguments: str) -> Config:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    config, benchmarks = config_of(parser.parse_args(["eval", *arguments]))
    assert benchmarks
    return config


def data_flags(files: dict[str, Path]) -> list[str]:
    return [flag for name, path in files.items() for flag in ("--data", f"{name}={path}")]


def test_all_six_load_from_files_at_once_each_in_its_own_fields(model, files, caplog):
    config = asked(str(model), "--benchmarks", ",".join(SIX), *data_flags(files))
    prompts = load_sets(config, CharTokenizer())
    assert [(p.source, p.text, p.answer.strip("[]'\"")) for p in prompts] == [
        (name, row.get("problem") or row["question"], str(row.get("answer") or row["final_answer"][0]))
        for name in SIX
        for row in ROWS[name]
    ]
    assert all(r"final answer within \boxed{}.<assistant>" in decode(p.token_ids) for p in prompts)
    assert "benchmark aime24: 2 prompts here, 30 as published" in caplog.text


def test_without_a_file_the_hub_is_asked_for_the_published_rows():
    assert tuple(BENCHMARKS) == SIX
    assert [BENCHMARKS[name].num_rows for name in SIX] == [30, 30, 40, 500, 272, 674]
    source = chosen(["olympiadbench"], [])["olympiadbench"]
    assert (source.name, source.label) == ("huggingface", "olympiadbench")
    assert source.options["answer_field"] == "final_answer"


def test_a_file_of_ones_own_is_a_set_too(model, files):
    config = asked(str(model), "--data", f"mine={files['aime24']}")
    assert [prompt.source for prompt in load_sets(config, CharTokenizer())] == ["mine", "mine"]


def test_a_set_can_be_judged_by_other_verifiers(model, files):
    flags = ["data.eval.1.verifier=[math, {name: exact, weight: 0.5}]", "data.eval.2.verifier=exact"]
    config = asked(str(model), *data_flags(files), *flags)
    shown = {name: verifier.shown for name, verifier in source_verifiers(config).items()}
    assert shown == {"": "math", **dict.fromkeys(SIX, "math"), "aime25": "math + exact", "amc23": "exact"}


def test_a_saved_data_set_is_read_by_its_split_and_in_its_own_fields(model, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    held_out = datasets.Dataset.from_list(ROWS["olympiadbench"])
    datasets.DatasetDict({"test": held_out}).save_to_disk(str(folder))
    config = asked(str(model), "--data", f"olympiadbench={folder}")
    assert config.data.eval is not None
    assert config.data.eval[0].options["answer_field"] == "final_answer"
    assert [prompt.answer for prompt in load_sets(config, CharTokenizer())] == ["2"]


def test_a_question_that_two_sets_share_counts_in_both(model, files):
    config = asked(str(model), "--data", f"a={files['aime24']}", "--data", f"b={files['aime24']}")
    assert [prompt.source for prompt in load_sets(config, CharTokenizer())] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmarks", "aime2024"], r"unknown benchmark 'aime2024'.*aime24"),
        (["--benchmarks", "aime24,aime24"], "names 'aime24' twice"),
        (["--data", "aime24"], "not of the form NAME=PATH"),
        (["--data", "aime24=nowhere.jsonl"], r"--data aime24: 'nowhere\.jsonl' does not exist"),
        ([], "is a model folder: say on what"),
        (["--benchmarks", "aime24", "--max-tokens", "2048"], r"evaluation\.max_tokens 2048 leaves no room .* 2048"),
        (["--benchmarks", "aime24", "--temperature", "hot"], r"evaluation\.temperature"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(model, arguments, message, capsys):
    assert main(["eval", str(model), *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    with pytest.raises(ConfigError, match=message):
        asked(str(model), *arguments)


def test_a_question_too_long_for_the_responses_is_refused_with_the_set_and_the_figures(model, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"question": "x" * 200, "answer": "1"}) + "\n")
    config = asked(str(model), "--data", f"long={path}", "--max-tokens", "1900")
    with pytest.raises(ConfigError, match=r"benchmark long: .* tokens, and the context leaves 148"):
        load_sets(config, CharTokenizer())


def test_the_flags_are_the_evaluations_sampling_for_a_folder_and_for_a_job(model, files, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(f"model: {{path: {model}}}\ndata: {{train: jsonl, suffix: ' Go.'}}\n")
    flags = ["--samples", "16", "--temperature", "1.0", "--top-p", "0.9", "--max-tokens", "300"]
    for target in (model, job):
        config = asked(str(target), "--benchmarks", "aime24", *data_flags(files), *flags, "run.seed=3")
        sampling = config.evaluation.draws_with(config.sampling)
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (1.0, 0.9, 300)
        assert (config.evaluation.samples_per_prompt, config.run.seed) == (16, 3)
    assert config.data.suffix == " Go."


def test_the_fingerprint_distinguishes_models_prompts_sampling_and_seeds(model, files, tmp_path):
    def of(*more: str):
        config = asked(str(model), "--data", f"aime24={files['aime24']}", *more)
        return fingerprint(config, load_sets(config, CharTokenizer()))

    first = of()
    assert of() == first
    for flags, name in (
        (["--temperature", "0.5"], "temperature"),
        (["--samples", "4"], "samples"),
        (["run.seed=1"], "seed"),
        (["data.suffix=Go."], "prompts"),
    ):
        other = of(*flags)
        assert [key for key in first if first[key] != other[key]] == [name]
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert of()["model"] != first["model"]


def test_without_out_an_unfinished_evaluation_is_continued_and_a_finished_one_kept(model, tmp_path):
    config = asked(str(model), "--benchmarks", "aime24", f"run.output_dir={tmp_path}")
    first = output_folder(config, {"seed": 0}, None)
    first.claim({"seed": 0})
    assert first.path == tmp_path / "policy-eval"
    assert output_folder(config, {"seed": 0}, None).path == first.path
    assert output_folder(config, {"seed": 1}, None).path == tmp_path / "policy-eval-2"
    first.responses.touch()
    assert output_folder(config, {"seed": 0}, None).path == tmp_path / "policy-eval-3"


def test_the_table_gives_each_set_and_all_prompts_with_intervals():
    def row(source: str, prompt: str, index: int, right: bool, kind: Kind = "sampled") -> EvalRow:
        verdict = "correct" if right else "wrong"
        return EvalRow(0, prompt, source, kind, index, "5", str(right), 1.0, verdict, 3, "stop", 0)

    rows = []
    for source, prompt, right in (("a", "p", [True, False]), ("a", "q", [True, True]), ("b", "r", [False, False])):
        rows.append(row(source, prompt, 0, right[0], "greedy"))
        rows += [row(source, prompt, i, one) for i, one in enumerate(right)]
    lines = evaluation_table(EvalReport(summarise(rows), tuple(rows))).splitlines()
    assert lines[0].split() == ["set", "prompts", "greedy", "mean@2", "maj@2", "pass@2"]
    assert lines[1].split()[:6] == ["a", "2", "100.0", "±", "0.0", "75.0"]
    assert lines[2].split() == ["b", "1", "0.0", "0.0", "0.0", "0.0"]
    assert lines[3].startswith("all")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my model", "my-model"),
        ("modèle (1)", "mod-le-1-"),
        (".hidden", "hidden"),
        ("模型", "model"),
        ("x" * 150, "x" * 100),
    ],
)
def test_any_folder_gives_its_evaluation_a_name(tmp_path, folder, name):
    assert RunConfig(name=_run_name(tmp_path / folder)).name == name

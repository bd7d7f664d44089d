r"""Named benchmarks: where their rows are, how many there should be, how they are asked and judged.

A local file or folder takes the place of the hub's data set: `local` gives the source that reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v05ray.config.run import SourceSpec
from v05ray.config.section import given_path
from v05ray.data import sources
from v05ray.data.rows import Row
from v05ray.errors import ConfigError
from v05ray.registry import suggest

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
"""Put behind each question of a benchmark where the config has no suffix of its own."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One set of problems with final answers."""

    name: str
    hub: str
    """Name of the data set on the hub."""
    num_rows: int
    split: str = "test"
    question: str = "problem"
    """Field of the question on the hub."""
    answer: str = "answer"
    """Field of the reference answer on the hub; a local file may also call it `answer`."""
    verifier: str = "math"
    suffix: str = BOXED

    @property
    def source(self) -> SourceSpec:
        """Reads it from the hub."""
        return _spec(
            self.name,
            self.verifier,
            {
                "name": "huggingface",
                "path": self.hub,
                "split": self.split,
                "question_field": self.question,
                "answer_field": self.answer,
            },
        )


BENCHMARKS: Mapping[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark("aime24", "HuggingFaceH4/aime_2024", 30, split="train"),
        Benchmark("aime25", "math-ai/aime25", 30),
        Benchmark("amc23", "math-ai/amc23", 40, question="question"),
        Benchmark("math500", "HuggingFaceH4/MATH-500", 500),
        Benchmark("minerva", "math-ai/minervamath", 272, question="question"),
        Benchmark("olympiadbench", "math-ai/olympiadbench", 674, question="question", answer="final_answer"),
    )
}
"""By name; the six of the paper."""

_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".gz": "jsonl", ".zst": "jsonl", ".parquet": "parquet"}


def find(name: str) -> Benchmark:
    """The benchmark of this name; raises `ConfigError` for an unknown one."""
    if name not in BENCHMARKS:
        raise ConfigError(
            f"unknown benchmark {name!r}{suggest(name, BENCHMARKS)}; there are {', '.join(BENCHMARKS)}, and "
            f"--data {name}=PATH evaluates on a file"
        )
    return BENCHMARKS[name]


def chosen(names: Sequence[str], local_data: Sequence[str]) -> dict[str, SourceSpec]:
    """A source for each set, by its name, in the order given.

    Args:
        names: benchmarks of `BENCHMARKS`, or names that `local_data` has a file for.
        local_data: `NAME=PATH` strings; a name that is not among `names` is a set more.

    Raises:
        ConfigError: an unknown name, one given twice, or a path that cannot be read.
    """
    paths: dict[str, Path] = {}
    for one in local_data:
        name, equals, path = one.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--data {one!r} is not of the form NAME=PATH, such as aime24=data/aime24.jsonl")
        if name in paths:
            raise ConfigError(f"--data names {name!r} twice; give each set once")
        paths[name] = given_path(Path(path), f"--data {name}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--benchmarks names {twice[0]!r} twice; give each set once")
    return {
        name: local(name, paths[name]) if name in paths else find(name).source
        for name in dict.fromkeys((*names, *paths))
    }


def local(name: str, path: Path) -> SourceSpec:
    """The source that reads a set from a file, or from a folder as `datasets` saves it or full of files."""
    benchmark = BENCHMARKS.get(name)
    if not path.exists():
        raise ConfigError(f"--data {name}: {str(path)!r} does not exist (looked from {Path.cwd()})")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _KINDS and not file.name.startswith("."))
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        if len(files) == 1 and not saved:
            path = files[0]
        elif not saved and not files:
            raise ConfigError(f"--data {name}: {str(path)!r} holds no data set and no {', '.join(_KINDS)} file")
        else:
            split = benchmark.split if benchmark else "test"
            return _with_answer(name, benchmark, {"name": "huggingface", "path": str(path), "split": split})
    kind = _KINDS.get(path.suffix)
    if kind is None:
        raise ConfigError(f"--data {name}: {str(path)!r} is none of {', '.join(_KINDS)}; convert it to one of them")
    return _with_answer(name, benchmark, {"name": kind, "path": str(path)})


def _with_answer(name: str, benchmark: Benchmark | None, options: dict[str, Any]) -> SourceSpec:
    """The source, with the benchmark's own field of the answer where the first row has that."""
    if benchmark is None:
        return _spec(name, "math", options)
    own = {**options, "answer_field": benchmark.answer}
    if benchmark.answer != "answer":
        rows = sources.build(own["name"], {key: value for key, value in own.items() if key != "name"}).rows
        if isinstance(next(iter(rows), None), Row):
            options = own
    return _spec(name, benchmark.verifier, options)


def _spec(name: str, verifier: str, options: Mapping[str, Any]) -> SourceSpec:
    return SourceSpec.model_validate({**options, "label": name, "verifier": {"name": verifier}})

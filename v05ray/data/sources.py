"""The registry of data sources, and those that read files.

A builder takes the options of its `Spec` and returns a `Source`; options are checked against its signature. A builder
with a parameter `seed` gets the run's where the user gives none.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from v05ray.data.rows import BadRow, Fields, Row, read_record
from v05ray.registry import ConfigError, Registry


@dataclass(frozen=True)
class Source:
    """Rows to read, once, in a stable order."""

    rows: Iterable[Row | BadRow]
    label: str
    """What error messages call it."""
    size: int | None = None
    """How many good rows are wanted; None means all. Fewer are an error: only generated sources ask for a size."""


sources: Registry[Source] = Registry("data source")


@sources.register("jsonl")
def jsonl(
    path: str | Sequence[str],
    question_field: str | None = None,
    answer_field: str | None = None,
    id_field: str | None = None,
    answer_after: str | None = None,
    require_answer: bool = True,
    source: str | None = None,
) -> Source:
    """One JSON object a line, in one file or several; see `rows` for the shapes that need no options."""
    fields = Fields(question_field, answer_field, id_field, answer_after, require_answer, source or "")
    return _of_files("jsonl", path, _jsonl_rows, fields)


def _of_files(
    kind: str,
    path: str | Sequence[str],
    read: Callable[[Path, Fields], Iterator[Row | BadRow]],
    fields: Fields,
) -> Source:
    """The rows of one file after the other; where the fields name no source, it is the file's name."""
    paths = _files(path)
    rows = (row for file in paths for row in read(file, replace(fields, source=fields.source or file.stem)))
    return Source(rows, _label(kind, paths))


def _jsonl_rows(file: Path, fields: Fields) -> Iterator[Row | BadRow]:
    # Bytes, not text: a line that is not UTF-8 is one bad row, not the end of the file.
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}:{number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode())
            except UnicodeDecodeError as error:
                yield BadRow(where, f"not UTF-8: {error}")
            except json.JSONDecodeError as error:
                yield BadRow(where, f"not JSON: {error}")
            else:
                yield read_record(record, fields, where)


@sources.register("parquet")
def parquet(
    path: str | Sequence[str],
    question_field: str | None = None,
    answer_field: str | None = None,
    id_field: str | None = None,
    answer_after: str | None = None,
    require_answer: bool = True,
    source: str | None = None,
) -> Source:
    """verl's format (`prompt`, `reward_model.ground_truth`, `data_source`, `extra_info`), or plain columns."""
    fields = Fields(question_field, answer_field, id_field, answer_after, require_answer, source or "")
    return _of_files("parquet", path, _parquet_rows, fields)


def _parquet_rows(file: Path, fields: Fields) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{file} is not a Parquet file: {error}") from error
    number = 0
    with table:
        for batch in table.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield read_record(record, fields, f"{file}:{number}")


@sources.register("huggingface")
def huggingface(
    path: str,
    split: str = "train",
    subset: str | None = None,
    question_field: str | None = None,
    answer_field: str | None = None,
    id_field: str | None = None,
    answer_after: str | None = None,
    require_answer: bool = True,
    source: str | None = None,
) -> Source:
    """A data set of Hugging Face's `datasets`: a folder of `save_to_disk`, a folder of files, or a name on the hub."""
    name = source or Path(path).name
    fields = Fields(question_field, answer_field, id_field, answer_after, require_answer, name)
    dataset = _load_huggingface(path, split, subset)
    rows = (read_record(record, fields, f"{path}[{split}]:{i}") for i, record in enumerate(dataset, start=1))
    return Source(rows, f"huggingface {path}[{split}]")


def _load_huggingface(path: str, split: str, subset: str | None) -> Iterable[Any]:
    import datasets

    path = str(Path(path).expanduser()) if path.startswith("~") else path
    saved = Path(path)
    try:
        if (saved / "dataset_dict.json").exists() or (saved / "state.json").exists():
            loaded = datasets.load_from_disk(path)
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise ConfigError(f"{path} has no split {split!r}; it has {', '.join(map(str, loaded))}")
                return loaded[split]
            return loaded
        return datasets.load_dataset(path, subset, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise ConfigError(
            f"cannot load data set {path!r}: {error}; give a local folder that exists, or a name on a hub within reach"
        ) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ConfigError(
            f"data set {path!r} is a script, which is not run ({error}); save its rows as Parquet or JSON lines"
        ) from error


def _files(path: str | Sequence[str]) -> tuple[Path, ...]:
    """The files, checked to be there before anything heavy starts."""
    paths = tuple(Path(one).expanduser() for one in ([path] if isinstance(path, str) else path))
    if not paths:
        raise ConfigError("`path` is an empty list; name at least one file")
    for one in paths:
        if not one.is_file():
            raise ConfigError(f"{one} is not a file (looked from {Path.cwd()}); check `path`")
    return paths


def _label(kind: str, paths: Sequence[Path]) -> str:
    return f"{kind} {', '.join(map(str, paths))}"

"""The registry of data sources, and those that read files.

A builder takes the options of its `Spec` and returns a `Source`; options are checked against its signature. A builder
with a parameter `seed` gets the run's where the user gives none; so does one from outside (`name: python`).
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from v05ray.data.files import json_records, parquet_records, record_name
from v05ray.data.hub import numbered_records
from v05ray.data.paths import data_files, local_path
from v05ray.data.rows import BadRow, Fields, Row, read_record
from v05ray.data.tables import SUFFIXES, csv_records
from v05ray.registry import Form, Registry
from v05ray.storage.lfs import check_no_pointer


@dataclass(frozen=True)
class Source:
    """Rows to read, once, in a stable order."""

    rows: Iterable[Row | BadRow]
    label: str
    """Its name in error messages."""
    size: int | None = None
    """How many good rows are wanted; None means all. Fewer are an error: only generated sources ask for a size."""


sources: Registry[Source] = Registry(
    "data source",
    Form(
        attributes={"rows": None, "label": None, "size": None},
        fix="return a v05ray.data.sources.Source(rows, label)",
    ),
)
_SUFFIXES = {"jsonl": (".jsonl", ".json", ".ndjson"), "parquet": (".parquet",), "csv": SUFFIXES}
"""By format, the endings of the files that are read where `path` is a folder."""


def _fields(
    question_field: str | None = None,
    answer_field: str | None = None,
    id_field: str | None = None,
    answer_after: str | None = None,
    require_answer: bool = True,
    source: str | None = None,
) -> Fields:
    """The options of every source that reads files: where to look in a row; see `rows` for shapes that need none."""
    return Fields(question_field, answer_field, id_field, answer_after, require_answer, source or "")


def _with_fields(build: Callable[..., Source]) -> Callable[..., Source]:
    """A builder that takes the options of `_fields` in place of `build`'s parameter `fields`.

    Its signature has them all, for the registry reads the options and their types from there.
    """
    own, shared = inspect.signature(build).parameters, inspect.signature(_fields).parameters

    @functools.wraps(build)
    def builder(*args: Any, **options: Any) -> Source:
        fields = _fields(**{name: options.pop(name) for name in shared if name in options})
        return build(*args, **options, fields=fields)

    parameters = [
        *(one for one in own.values() if one.name != "fields"),
        *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shared.values()),
    ]
    builder.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return builder


@sources.register("jsonl")
@_with_fields
def jsonl(path: str | Sequence[str], fields: Fields) -> Source:
    """One JSON object a line, or a JSON array of them, also packed (gz, zst, bz2, xz).

    `path` is a file, a pattern such as `data/*.jsonl`, a folder of such files, or a list of these.
    """
    return _of_files("jsonl", path, json_records, fields)


@sources.register("parquet")
@_with_fields
def parquet(path: str | Sequence[str], fields: Fields) -> Source:
    """verl's format (`prompt`, `reward_model.ground_truth`, `data_source`, `extra_info`), or plain columns."""
    return _of_files("parquet", path, parquet_records, fields)


@sources.register("csv")
@_with_fields
def csv(path: str | Sequence[str], fields: Fields) -> Source:
    """A table whose first line names the fields, with commas, tabs, semicolons or bars; values are the text there."""
    return _of_files("csv", path, csv_records, fields)


@sources.register("huggingface")
@_with_fields
def huggingface(path: str, fields: Fields, split: str = "train", subset: str | None = None) -> Source:
    """A data set of Hugging Face's `datasets`: a folder of `save_to_disk`, a folder of files, or a name on the hub.

    `split` may be a slice or a sum, as `datasets` writes them: `train[:100]`, `train[10%:]+test`. A file is read like
    those of `jsonl` and `parquet`; its rows are the split `train`.
    """
    local = local_path(path)
    fields = replace(fields, source=fields.source or (record_name(local) if local.is_file() else local.name))
    label = f"{path}[{split}]"
    rows = (_row(record, fields, where) for where, record in numbered_records(local, path, split, subset))
    return Source(rows, f"huggingface {label}")


def _of_files(
    kind: str,
    path: str | Sequence[str],
    read: Callable[[Path], Iterator[tuple[str, object]]],
    fields: Fields,
) -> Source:
    """The rows of one file after the other; where the fields name no source, it is the file's name."""
    paths = data_files(path, _SUFFIXES[kind])
    for file in paths:
        check_no_pointer(file)
    rows = (
        _row(record, replace(fields, source=fields.source or record_name(file)), where)
        for file in paths
        for where, record in read(file)
    )
    return Source(rows, _label(kind, paths))


def _row(record: object, fields: Fields, where: str) -> Row | BadRow:
    return record if isinstance(record, BadRow) else read_record(record, fields, where)


def _label(kind: str, paths: Sequence[Path]) -> str:
    return f"{kind} {', '.join(map(str, paths))}"

"""Records of a data set that Hugging Face's `datasets` reads, with the split that was asked for, slices included."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from v05ray.data.files import check_no_pointer, is_parquet, json_records, one_line, parquet_records
from v05ray.registry import ConfigError

_DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".arrow", ".csv", ".gz", ".zst")

_TABLES = (".csv", ".tsv", ".arrow")
"""Files that `datasets` reads in a folder, and that are not read alone."""


def numbered_records(local: Path, path: str, split: str, subset: str | None) -> Iterator[tuple[str, object]]:
    """(place and row, record or `BadRow`) of a split, one after the other; raises `ConfigError` when it is called."""
    if local.is_file():
        return _of_file(local, split, subset)
    return _of_dataset(load(local, path, split, subset), f"{path}[{split}]")


def _of_dataset(dataset: Any, label: str) -> Iterator[tuple[str, object]]:
    records = iter(dataset)
    number = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except _failures() as error:
            raise ConfigError(f"{label}: cannot be read after row {number}: {one_line(error)}") from error
        number += 1
        yield f"{label}:{number}", record


def _of_file(file: Path, split: str, subset: str | None) -> Iterator[tuple[str, object]]:
    if subset is not None:
        raise ConfigError(f"{file} is one file, which has no subset {subset!r}; leave `subset` out")
    check_no_pointer(file)
    if file.suffix.casefold() in _TABLES:
        raise ConfigError(
            f"{file} cannot be read alone; give `path` the folder that holds it, or save it as JSON lines"
        )
    read = parquet_records if is_parquet(file) else json_records
    if split == "train":
        return read(file)
    records = list(read(file))
    parts = _slices(split, {"train": len(records)}, f"{file}, one file,")
    return (record for _, start, end in parts for record in islice(records, start, end))


def load(local: Path, path: str, split: str, subset: str | None) -> Any:
    """The rows of a split; raises `ConfigError` for whatever keeps them from being read."""
    import datasets

    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            return _saved(datasets.load_from_disk(str(local)), path, split, subset)
        if local.is_dir():
            _check_folder(local)
        return datasets.load_dataset(str(local) if local.exists() else path, subset, split=split)
    except ConfigError:
        raise
    except (FileNotFoundError, ConnectionError) as error:
        raise ConfigError(
            f"cannot load data set {path!r}: {one_line(error)}; give a local folder that exists, or a name on a "
            "hub within reach"
        ) from error
    except _failures() as error:
        if "scripts are no longer supported" in str(error):
            raise ConfigError(
                f"data set {path!r} is a script, which is not run ({one_line(error)}); save its rows as Parquet "
                "or JSON lines"
            ) from error
        cause = f" ({one_line(error.__cause__)})" if error.__cause__ is not None else ""
        raise ConfigError(
            f"cannot load data set {path!r}, split {split!r}: {one_line(error)}{cause}; check `path`, `split` and "
            "`subset`, or give its files with `name: jsonl` or `name: parquet`"
        ) from error


def _saved(loaded: Any, path: str, split: str, subset: str | None) -> Any:
    """The rows of a split of what `save_to_disk` left: splits by name, or one without a name, which is `train`."""
    import datasets

    if subset is not None:
        raise ConfigError(f"{path} was saved by save_to_disk, which has no subsets; leave `subset` out")
    if not isinstance(loaded, datasets.DatasetDict):
        own = str(loaded.split).partition("[")[0] if loaded.split is not None else "train"
        loaded = {own: loaded}
    parts = _slices(split, {str(name): len(rows) for name, rows in loaded.items()}, path)
    chosen = [loaded[name].select(range(start, end)) for name, start, end in parts]
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)


def _slices(split: str, sizes: Mapping[str, int], what: str) -> Sequence[tuple[str, int, int]]:
    """(name, first row, end) of each part of a split such as `train[:3]` or `train+test[10%:]`."""
    import datasets

    try:
        wanted = datasets.ReadInstruction.from_spec(split)
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"{what}: cannot read split {split!r}: {one_line(error)}; write it like train, train[:100] or train[10%:]"
        ) from error
    for name in re.findall(r"(?:^|\+)\s*([\w.-]+)", split):
        if name not in sizes:
            raise ConfigError(f"{what} has no split {name!r}; it has {', '.join(sizes)}")
    try:
        parts = wanted.to_absolute(dict(sizes))
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"{what}: split {split!r} does not fit its {sizes} rows: {one_line(error)}") from error
    return [(one.splitname, one.from_, one.to) for one in parts]


def _check_folder(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.suffix.casefold() in _DATA_SUFFIXES and file.is_file():
            check_no_pointer(file)


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets` and those below it raise for data that they cannot read."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    return (DatasetsError, pa.ArrowException, OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError)

"""Records of a data set as Hugging Face's `datasets` knows it, with the split that was asked for, slices included.

Of a local folder, `datasets` says which files belong to which split, and the files are read as those of `jsonl`,
`parquet` and `csv` are: `datasets` itself would guess types (dates, numbers) and give up a file for one bad row.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from v05ray.data.files import is_parquet, json_records, one_line, parquet_records
from v05ray.data.paths import check_shards
from v05ray.data.tables import SUFFIXES, csv_records
from v05ray.errors import ConfigError
from v05ray.storage.lfs import check_no_pointer

_DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst")

Read = Callable[[Path], Iterator[tuple[str, object]]]
_READERS: Mapping[str, Read] = {"json": json_records, "parquet": parquet_records, "csv": csv_records}
"""By the name of the `datasets` module that would read them."""


def numbered_records(local: Path, path: str, split: str, subset: str | None) -> Iterator[tuple[str, object]]:
    """(place and row, record or `BadRow`) of a split, one after the other; raises `ConfigError` when it is called."""
    split = "".join(split.split())
    if local.is_file():
        if subset is not None:
            raise ConfigError(f"{local} is one file, which has no subset {subset!r}; leave `subset` out")
        check_no_pointer(local)
        return _of_files({"train": [local]}, _reader(local), split, f"the file {local}")
    if local.is_dir():
        _check_folder(local)
        if not _is_saved(local):
            found = _files_by_split(local, subset)
            if found is not None:
                return _of_files(*found, split, path)
    elif looks_local(path):
        raise ConfigError(f"{path} does not exist (looked from {Path.cwd()}); check `path`")
    return _of_dataset(load(local, path, split, subset), f"{path}[{split}]")


def looks_local(path: str) -> bool:
    """Whether it is no name on a hub, which has the form `name` or `owner/name`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is None or path.startswith(".")


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _reader(file: Path) -> Read:
    if is_parquet(file):
        return parquet_records
    return csv_records if file.suffix.casefold() in SUFFIXES else json_records


def _files_by_split(folder: Path, subset: str | None) -> tuple[Mapping[str, Sequence[Path]], Read] | None:
    """The files of each split and what reads them; None for files of a kind that `datasets` has to read."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(str(folder), subset)
        read = _READERS.get(type(builder).__module__.rpartition(".")[2])
        listed: Mapping[Any, Sequence[str]] = builder.config.data_files or {}  # pyright: ignore[reportAssignmentType]
    except _failures() as error:
        raise _refused(str(folder), error) from error
    found = {str(name): [Path(file) for file in files] for name, files in listed.items()}
    if read is None or not found or not all(file.is_file() for files in found.values() for file in files):
        return None
    return found, read


def _of_files(files: Mapping[str, Sequence[Path]], read: Read, split: str, what: str) -> Iterator[tuple[str, object]]:
    """The rows of the files of one split, or of slices and sums of splits."""
    if split == "all":
        split = "+".join(files)
    names = _names(split, files, what)
    for name in names:
        check_shards(files[name])
    if len(names) == 1 and split == names[0]:
        return chain.from_iterable(map(read, files[split]))
    rows = {name: list(chain.from_iterable(map(read, files[name]))) for name in names}
    parts = _slices(split, {name: len(records) for name, records in rows.items()}, what)
    return (record for name, start, end in parts for record in rows[name][start:end])


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


def load(local: Path, path: str, split: str, subset: str | None) -> Any:
    """The rows of a split; raises `ConfigError` for whatever keeps them from being read."""
    import datasets

    try:
        if _is_saved(local):
            return _saved(_from_disk(local), path, split, subset)
        return datasets.load_dataset(str(local) if local.exists() else path, subset, split=split)
    except ConfigError:
        raise
    except (FileNotFoundError, ConnectionError) as error:
        raise ConfigError(
            f"cannot load data set {path!r}: {one_line(error)}; give a local folder that exists, or a name on a "
            "hub within reach"
        ) from error
    except _failures() as error:
        raise _refused(path, error, f", split {split!r}") from error


def _refused(path: str, error: Exception, what: str = "") -> ConfigError:
    if "scripts are no longer supported" in str(error):
        return ConfigError(
            f"data set {path!r} is a script, which is not run ({one_line(error)}); save its rows as Parquet or JSON "
            "lines"
        )
    if "any data file" in str(error):
        return ConfigError(f"the folder {path!r} holds no data files; give one that does, or its files' `path`")
    cause = f" ({one_line(error.__cause__)})" if error.__cause__ is not None else ""
    return ConfigError(
        f"cannot load data set {path!r}{what}: {one_line(error)}{cause}; check `path`, `split` and `subset`, or give "
        "its files with `name: jsonl` or `name: parquet`"
    )


def _from_disk(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except _failures() as error:
        raise ConfigError(
            f"{folder}, saved by save_to_disk, is damaged or not whole ({one_line(error)}); copy or save it again"
        ) from error


def _saved(loaded: Any, path: str, split: str, subset: str | None) -> Any:
    """The rows of a split of what `save_to_disk` left: splits by name, or one without a name, which is `train`."""
    import datasets

    if subset is not None:
        raise ConfigError(f"{path} was saved by save_to_disk, which has no subsets; leave `subset` out")
    if not isinstance(loaded, datasets.DatasetDict):
        own = str(loaded.split).partition("[")[0] if loaded.split is not None else "train"
        loaded = {own: loaded}
    loaded = {str(name): rows for name, rows in loaded.items()}
    if split == "all":
        split = "+".join(loaded)
    names = _names(split, loaded, path)
    parts = _slices(split, {name: len(loaded[name]) for name in names}, path)
    chosen = [loaded[name].select(range(start, end)) for name, start, end in parts if start < end]
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)


def _names(split: str, known: Mapping[str, object], what: str) -> list[str]:
    """The splits that `train[:3]+test` names, each once; raises `ConfigError` for one that is not there."""
    import datasets

    try:
        datasets.ReadInstruction.from_spec(split)
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"{what}: cannot read split {split!r}: {one_line(error)}; write it like train, train[:100] or train[10%:]"
        ) from error
    names = list(dict.fromkeys(re.findall(r"(?:^|\+)([\w.-]+)", split)))
    for name in names:
        if name not in known:
            raise ConfigError(f"{what} has no split {name!r}; it has {', '.join(known)}")
    return names


def _slices(split: str, sizes: Mapping[str, int], what: str) -> Sequence[tuple[str, int, int]]:
    """(name, first row, end) of each part of a split such as `train[:3]` or `train+test[10%:]`."""
    import datasets

    has = ", ".join(f"{name} has {size} rows" for name, size in sizes.items())
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(dict(sizes))
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"{what}: split {split!r} does not fit: {one_line(error)} ({has})") from error
    found = [(one.splitname, one.from_, one.to) for one in parts]
    if all(start >= end for _, start, end in found):
        raise ConfigError(f"{what}: split {split!r} holds no rows; {has}")
    return found


def _check_folder(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.suffix.casefold() in _DATA_SUFFIXES and file.is_file():
            check_no_pointer(file)


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets` and those below it raise for data that they cannot read."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    return (DatasetsError, pa.ArrowException, OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError)

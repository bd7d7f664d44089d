"""Records of local files, as people have them: JSON lines, a JSON array or object, Parquet; packed or not.

A file's kind is read from its first bytes, not from its name. A record that cannot be read is a `BadRow`; a file that
cannot be read is a `ConfigError` that names it.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from v05ray.data.rows import CONVERSATION_FIELDS, QUESTION_FIELDS, BadRow
from v05ray.errors import ConfigError
from v05ray.storage.lfs import check_no_pointer

_PARQUET = b"PAR1"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"[\0", b"\0[", b"\0\0\xfe\xff", b"\0\0\0{", b"\0\0\0[")
"""How such a file begins, with a mark or without; UTF-32 begins in the same way."""
PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save its rows as JSON lines",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a rar archive; unpack it",
    b"\x04\x22\x4d\x18": "packed with lz4; unpack it",
    b"\x1f\x8b": "packed twice; unpack it once",
    b"\x28\xb5\x2f\xfd": "packed twice; unpack it once",
    b"ARROW1": "an Arrow file; give the folder that holds it to `name: huggingface`, or save it as Parquet",
    b"SQLite format 3": "a database; save its rows as JSON lines",
    b"%PDF": "a PDF; save its rows as JSON lines",
    b"\x89HDF": "an HDF5 file; save its rows as JSON lines",
    b"\x93NUMPY": "a NumPy file; save its rows as JSON lines",
    b"\x80\x02": "a pickle, which can run code and is not read; save its rows as JSON lines",
    b"\x80\x03": "a pickle, which can run code and is not read; save its rows as JSON lines",
    b"\x80\x04": "a pickle, which can run code and is not read; save its rows as JSON lines",
    b"\x80\x05": "a pickle, which can run code and is not read; save its rows as JSON lines",
    b"PARE": "an encrypted Parquet file; decrypt it",
    _PARQUET: "a Parquet file; read it with `name: parquet`, unpacked",
    b"<!doctype": "a web page, not the data; a download failed: fetch it once more",
    b"<html": "a web page, not the data; a download failed: fetch it once more",
    b"<?xml": "XML; save its rows as JSON lines",
}
"""By their first bytes, files that are no text, or another text; what to do about each."""
_TAR_MARK = slice(257, 262)
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


def record_name(file: Path) -> str:
    """The file's name without its endings: `sums` of `sums.jsonl.gz`."""
    return Path(file.stem).stem if file.suffix.casefold() in PACKED_SUFFIXES else file.stem


def is_parquet(file: Path) -> bool:
    """Whether the file is Parquet, by its first bytes."""
    return _start(file).startswith(_PARQUET)


def json_records(file: Path) -> Iterator[tuple[str, object]]:
    """(file and row, record or `BadRow`) of JSON lines, of one JSON array, or of one JSON object that spans lines."""
    check_no_pointer(file)
    if is_parquet(file):
        raise ConfigError(f"{file} is a Parquet file; read it with `name: parquet`")
    if file.suffix.casefold() in (".csv", ".tsv"):
        raise ConfigError(f"{file} is a table; read it with `name: csv`")
    try:
        with unpacked(file) as lines:
            yield from _json_records(file, lines)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ConfigError(
            f"{file} cannot be read: {one_line(error)}; the file is damaged or cut off, fetch it once more"
        ) from error


def _json_records(file: Path, lines: BinaryIO) -> Iterator[tuple[str, object]]:
    first, before = _first_line(lines)
    check_is_text(file, first)
    following, between = b"", 0
    if first.startswith(b"{") and _is_json(first):
        following, between = _first_line(lines)
    if first.startswith(b"[") or (first.startswith(b"{") and not following):
        whole = first + lines.read()
        records = _records_of_whole(file, whole)
        if records is not None:
            for number, record in enumerate(records, start=1):
                yield f"{file}:{number}", record
            return
        if first.startswith(b"[") and not _is_json(first):
            raise ConfigError(f"{file} begins a JSON array that {_broken(whole)}; the file is damaged or cut off")
        first, *rest = whole.splitlines(keepends=True)
        lines = cast(BinaryIO, io.BytesIO(b"".join(rest)))
    yield from _json_lines(file, first, before + 1)
    yield from _json_lines(file, following or lines.readline(), before + between + 2, lines)


def _first_line(lines: BinaryIO) -> tuple[bytes, int]:
    """The next line that is not empty, without a byte order mark, and the number of lines before it."""
    for number, line in enumerate(lines):
        text = _without_mark(line)
        if text.strip():
            return text.lstrip(b" \t") if text.lstrip()[:1] in (b"[", b"{") else text, number
    return b"", 0


def _without_mark(line: bytes) -> bytes:
    """Files that were put together from several have such marks in between, too."""
    while line.startswith(_UTF8_MARK):
        line = line.removeprefix(_UTF8_MARK)
    return line


def check_is_text(file: Path, first: bytes) -> None:
    """Raises `ConfigError` for a file that begins as none with JSON or a table does, and says what it is instead."""
    if first.startswith(_UTF16):
        raise ConfigError(f"{file} is UTF-{32 if bytes(2) in first[:4] else 16} text; save it as UTF-8")
    if first[_TAR_MARK] == b"ustar":
        raise ConfigError(f"{file} is a tar archive; unpack it")
    for magic, what in _OTHERS.items():
        if first[: len(magic)].lower() == magic.lower():
            raise ConfigError(f"{file} is {what}")


def _json_lines(file: Path, first: bytes, number: int, rest: BinaryIO | None = None) -> Iterator[tuple[str, object]]:
    # Bytes, not text: a line that is not UTF-8 is one bad row, not the end of the file.
    line = first
    while line:
        where = f"{file}:{number}"
        line = _without_mark(line)
        if line.strip():
            try:
                yield where, json.loads(line.decode())
            except UnicodeDecodeError as error:
                yield where, BadRow(where, f"not UTF-8: {error}")
            except (ValueError, RecursionError) as error:  # also numbers of too many digits, and too deep nesting
                yield where, BadRow(where, f"not JSON: {one_line(error)}")
        line, number = (rest.readline() if rest else b""), number + 1


def _records_of_whole(file: Path, content: bytes) -> list[Any] | None:
    """The elements of an array, or of the one array that an object holds; else the objects; None if broken."""
    try:
        values = _values(content.decode())
    except (ValueError, RecursionError):
        return None
    if len(values) > 1:
        return values
    (whole,) = values
    if isinstance(whole, dict) and not _ROW_FIELDS & {str(name).casefold() for name in whole}:
        lists = {
            name: value for name, value in whole.items() if _holds_rows(value) or (value == [] and len(whole) == 1)
        }
        if len(lists) > 1:
            raise ConfigError(
                f"{file} holds several lists of rows ({', '.join(lists)}); save each as a file of its own"
            )
        if lists:
            return next(iter(lists.values()))
    return whole if isinstance(whole, list) else [whole]


_ROW_FIELDS = {*QUESTION_FIELDS, *CONVERSATION_FIELDS}


def _holds_rows(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(one, dict) for one in value)


def _values(text: str) -> list[Any]:
    """One JSON value after the other, as `jq .` writes them; raises `ValueError` where one is broken."""
    decoder, values, position = json.JSONDecoder(), list[Any](), 0
    while match := _NOT_SPACE.search(text, position):
        value, position = decoder.raw_decode(text, match.start())
        values.append(value)
    return values


_NOT_SPACE = re.compile(r"[^ \t\r\n]")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _broken(content: bytes) -> str:
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"does not parse ({one_line(error)})"
    return "does not parse"


def parquet_records(file: Path) -> Iterator[tuple[str, object]]:
    """(file and row, record) of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_no_pointer(file)
    failures = (pa.ArrowException, OSError, ValueError)
    if not is_parquet(file):
        with unpacked(file) as content:
            check_is_text(file, content.read(1024))
        raise ConfigError(f"{file} is not a Parquet file; read JSON with `name: jsonl`, a table with `name: csv`")
    try:
        table = pq.ParquetFile(file)
    except failures as error:
        raise ConfigError(
            f"{file} is a Parquet file that is damaged or cut off ({one_line(error)}); fetch the file once more"
        ) from error
    number = 0
    with table:
        names = table.schema_arrow.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{file} has two columns named {twice[0]!r}; rename one")
        batches = iter(table.iter_batches(batch_size=1024))
        while True:
            try:
                batch = next(batches, None)
                records = [] if batch is None else batch.to_pylist(maps_as_pydicts="lossy")
            except failures as error:
                raise ConfigError(
                    f"{file}: damaged after row {number}: {one_line(error)}; fetch the file once more"
                ) from error
            if batch is None:
                return
            for record in records:
                number += 1
                yield f"{file}:{number}", record


def unpacked(file: Path) -> BinaryIO:
    """The file's bytes, unpacked by what its first ones say; raises `ConfigError` for an ending that says otherwise."""
    start = _start(file)
    openers: dict[bytes, Callable[[Path], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"\x28\xb5\x2f\xfd": _open_zstd,
        b"BZh": bz2.open,
        b"\xfd7zXZ": lzma.open,
    }
    for magic, opener in openers.items():
        if start.startswith(magic):
            return opener(file)
    if _ZSTD_SKIPPABLE.match(start):  # written by tools that pack in parallel, before the first frame
        return _open_zstd(file)
    if file.suffix.casefold() in PACKED_SUFFIXES and start:
        raise ConfigError(f"{file} is not packed as its ending {file.suffix} says; rename it, or fetch it once more")
    return file.open("rb")


def _open_zstd(file: Path) -> io.BytesIO:
    import pyarrow as pa

    with pa.input_stream(str(file), compression="zstd") as stream:
        return io.BytesIO(stream.read())


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(64)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """A library's message on one line; its name where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__

"""Records of a CSV or TSV file, every value as the text that is there: `007` stays `007`, `NA` stays `NA`."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from v05ray.data.files import check_is_text, one_line, unpacked
from v05ray.data.rows import BadRow
from v05ray.errors import ConfigError
from v05ray.storage.lfs import check_no_pointer

SUFFIXES = (".csv", ".tsv")
_DELIMITERS = (",", "\t", ";", "|")


def csv_records(file: Path) -> Iterator[tuple[str, object]]:
    """(file and row, record or `BadRow`) of a table whose first line names the fields; rows count from 1 after it.

    The delimiter is what the first line holds most of: comma, tab, semicolon or bar. Raises `ConfigError` for a file
    that is no such table.
    """
    check_no_pointer(file)
    csv.field_size_limit(sys.maxsize)
    try:
        with unpacked(file) as opened:
            content = opened.read()
    except (OSError, EOFError) as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}; fetch it once more") from error
    check_is_text(file, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
    yield from _rows(file, text)


def _rows(file: Path, text: str) -> Iterator[tuple[str, object]]:
    first = text.lstrip("\r\n").partition("\n")[0]
    table = csv.reader(text.splitlines(keepends=True), delimiter=max(_DELIMITERS, key=first.count), strict=True)
    names: list[str] | None = None
    number = 0
    while True:
        where = f"{file}:{number}"
        try:
            cells = next(table, None)
        except csv.Error as error:
            raise ConfigError(f"{file}: not CSV after row {number}: {error}; correct its quotes") from error
        if cells is None:
            return
        if not cells:
            continue
        if names is None:
            names = _names(file, cells)
            continue
        number += 1
        where = f"{file}:{number}"
        if len(cells) != len(names):
            yield where, BadRow(where, f"{len(cells)} values, and the first line names {len(names)} fields")
        else:
            yield where, dict(zip(names, cells, strict=True))


def _names(file: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{file} has two columns named {twice[0]!r}; rename one")
    return names

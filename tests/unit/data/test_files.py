"""Files as people have them: packed, with a byte order mark, as one array, damaged, or not there at all."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v05ray.data.rows import BadRow, Row
from v05ray.data.sources import sources
from v05ray.errors import ConfigError

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def packed(content: bytes) -> bytes:
    """Without the time: cases are named after their contents, and two processes have to find the same ones."""
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def rows_of(file: Path, name: str = "jsonl", **options) -> list[Row | BadRow]:
    return list(sources.build(name, {"path": str(file), **options}).rows)


def questions(rows) -> list[str]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.question for row in rows]


def saved(tmp_path: Path, name: str, content: bytes) -> Path:
    file = tmp_path / name
    file.write_bytes(content)
    return file


CONTENTS = {
    "lines.jsonl": LINES,
    "mark.jsonl": b"\xef\xbb\xbf" + LINES,
    "windows.jsonl": LINES.replace(b"\n", b"\r\n"),
    "empty_lines.jsonl": b"\n\n" + LINES.replace(b"\n", b"\n\n"),
    "array.json": json.dumps(ROWS).encode(),
    "mark_array.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": b" \n" + json.dumps(ROWS, indent=1).encode() + b"\n\n",
    "wrapped.json": json.dumps({"data": ROWS}, indent=2).encode(),
    "wrapped_line.json": json.dumps({"data": ROWS}).encode(),
    "wrapped_beside.json": json.dumps({"version": "1.1", "data": ROWS}, indent=2).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "objects_line.json": "".join(map(json.dumps, ROWS)).encode(),
    "returns.jsonl": LINES.replace(b"\n", b"\r"),
    "marks.jsonl": b"".join(b"\xef\xbb\xbf" + line for line in LINES.splitlines(keepends=True)),
    "two_packed.jsonl.gz": b"".join(map(packed, LINES.splitlines(keepends=True))),
    "two_packed.jsonl.zst": b"".join(map(zstd, LINES.splitlines(keepends=True))),
    "packed_in_parallel.jsonl.zst": b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(LINES),
    "lines.jsonl.gz": packed(LINES),
    "array.json.gz": packed(json.dumps(ROWS, indent=2).encode()),
    "lines.jsonl.zst": zstd(LINES),
    "lines.jsonl.bz2": bz2.compress(LINES),
    "lines.jsonl.xz": lzma.compress(LINES),
    "packed_without_saying.jsonl": packed(LINES),
}


@pytest.mark.parametrize("source", ["jsonl", "huggingface"])
@pytest.mark.parametrize("name", CONTENTS)
def test_json_is_read_in_every_form_and_rows_are_counted_from_one(tmp_path, name, source):
    rows = rows_of(saved(tmp_path, name, CONTENTS[name]), source)
    assert questions(rows) == ["1+1?", "2+2?"]
    assert [row.source for row in rows if isinstance(row, Row)] == [name.partition(".")[0]] * 2
    if "empty" not in name:
        assert [row.where.rpartition(":")[2] for row in rows] == ["1", "2"]


TABLE = b'question,answer\n1+1?,007\n2+2?,NA\n\n3+3?,"1,""000"""\n4+4?,2.50\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", TABLE),
        ("mark.csv", b"\xef\xbb\xbf" + TABLE.replace(b"\n", b"\r\n")),
        ("x.csv.gz", packed(TABLE)),
        ("x.tsv", b'question\tanswer\n1+1?\t007\n2+2?\tNA\n3+3?\t"1,""000"""\n4+4?\t2.50\n'),
        ("semicolons.csv", b'question;answer\n1+1?;007\n2+2?;NA\n3+3?;"1,""000"""\n4+4?;2.50\n'),
    ],
)
def test_values_of_a_table_are_the_text_that_is_there(tmp_path, name, content):
    # One packed file is read as JSON lines by `huggingface`.
    for source in ("csv",) if ".gz" in name else ("csv", "huggingface"):
        check_table(tmp_path, source, name, content)


def check_table(tmp_path, source, name, content):
    rows = rows_of(saved(tmp_path, name, content), source)
    assert questions(rows) == ["1+1?", "2+2?", "3+3?", "4+4?"]
    assert [row.answer for row in rows if isinstance(row, Row)] == ["007", "NA", '1,"000"', "2.50"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"question,answer\n1+1?\n", "1 values, and the first line names 2 fields"),
        (b'question,answer\n"1+1?,2\n', "not CSV after row 0: .*correct its quotes"),
        (b"question,answer,answer\na,1,2\n", "two columns named 'answer'; rename one"),
        (b"question,answer\ncaf\xe9,2\n", "not UTF-8 text .*save it as UTF-8"),
        (TABLE.decode().encode("utf-16"), "UTF-16 text"),
        (POINTER, "Git LFS pointer"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path, content, said):
    file = saved(tmp_path, "x.csv", content)
    if said.startswith("1 values"):
        (bad,) = rows_of(file, "csv")
        assert isinstance(bad, BadRow)
        assert bad.reason.startswith(said)
        return
    with pytest.raises(ConfigError, match=said):
        rows_of(file, "csv")


def test_one_object_over_several_lines_is_one_row(tmp_path):
    assert questions(rows_of(saved(tmp_path, "one.json", json.dumps(ROWS[0], indent=2).encode()))) == ["1+1?"]


@pytest.mark.parametrize("name", ["array.json", "pretty.json"])
def test_elements_of_an_array_that_are_no_rows_are_bad_rows(tmp_path, name):
    content = json.dumps([ROWS[0], 7, ROWS[1]], indent=2 if name == "pretty.json" else None)
    good, bad, other = rows_of(saved(tmp_path, name, content.encode()))
    assert isinstance(bad, BadRow)
    assert bad.where.endswith(f"{name}:2")
    assert questions([good, other]) == ["1+1?", "2+2?"]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' * 100_000, "9" * 5_000, '{"question": '])
def test_a_line_that_cannot_be_parsed_is_one_bad_row(tmp_path, line):
    good, bad = rows_of(saved(tmp_path, "x.jsonl", LINES.splitlines()[0] + b"\n" + line.encode()))
    assert questions([good]) == ["1+1?"]
    assert isinstance(bad, BadRow)
    assert bad.where.endswith("x.jsonl:2")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.json", json.dumps(ROWS, indent=2).encode()[:-20], "begins a JSON array that does not parse"),
        ("cut.jsonl.gz", packed(LINES)[:-12], "cannot be read: .*damaged or cut off"),
        ("bad.jsonl.gz", packed(LINES)[:20] + b"\0\1\2" + packed(LINES)[23:], "cannot be read"),
        ("cut.jsonl.zst", zstd(LINES)[:-9], "cannot be read"),
        ("cut.jsonl.xz", lzma.compress(LINES)[:-12], "cannot be read"),
        ("not.jsonl.gz", b"<html>", "not packed as its ending .gz says"),
        ("utf16_without_mark.jsonl", LINES.decode().encode("utf-16-le"), "UTF-16 text; save it as UTF-8"),
        ("utf16_other_way.jsonl", LINES.decode().encode("utf-16-be"), "UTF-16 text; save it as UTF-8"),
        ("utf32.jsonl", LINES.decode().encode("utf-32"), "UTF-32 text; save it as UTF-8"),
        ("page.jsonl", b"<!DOCTYPE html>\n<html>", "is a web page, not the data"),
        ("sheet.xlsx", b"PK\x03\x04", "a zip archive or a spreadsheet; unpack it"),
        ("twice.jsonl.gz", packed(packed(LINES)), "packed twice"),
        ("tar.jsonl.gz", packed(b"a" + b"\0" * 256 + b"ustar" + LINES), "is a tar archive; unpack it"),
        ("table.csv", b"question,answer\n", "is a table; read it with `name: csv`"),
        (
            "two_lists.json",
            json.dumps({"train": ROWS, "test": ROWS}).encode(),
            r"several lists of rows \(train, test\)",
        ),
        ("utf16.jsonl", LINES.decode().encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("pointer.jsonl", POINTER, "Git LFS pointer.*git lfs pull"),
        ("pointer.jsonl.gz", POINTER, "Git LFS pointer"),
        ("table.jsonl", b"PAR1....", "is a Parquet file; read it with `name: parquet`"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_the_fix(tmp_path, name, content, said):
    with pytest.raises(ConfigError, match=rf"{name}.*{said}"):
        rows_of(saved(tmp_path, name, content))


def test_pointers_are_named_for_every_source_before_rows_are_read(tmp_path):
    file = saved(tmp_path, "x.parquet", POINTER)
    for name, path in (("parquet", file), ("huggingface", file), ("huggingface", tmp_path)):
        with pytest.raises(ConfigError, match=r"x\.parquet is a Git LFS pointer"):
            sources.build(name, {"path": str(path)})


def test_damaged_parquet_pages_are_refused_with_the_file(tmp_path):
    file = tmp_path / "x.parquet"
    rows = [{"question": f"{i}+1? {i * 7919}", "answer": str(i)} for i in range(3_000)]
    pq.write_table(pa.Table.from_pylist(rows), file, compression="snappy", row_group_size=1_500)
    content = bytearray(file.read_bytes())
    content[len(content) // 8 : len(content) // 3] = b"\xff" * (len(content) // 3 - len(content) // 8)
    file.write_bytes(content)
    for name in ("parquet", "huggingface"):
        with pytest.raises(ConfigError, match=r"x\.parquet: damaged after row \d+: .*fetch the file once more"):
            rows_of(file, name)


def saved_dataset(tmp_path: Path, **splits: int | None) -> Path:
    import datasets

    def made(name: str, size: int, split: str | None = None):
        records = [{"question": f"{name}{i}", "answer": "1"} for i in range(size)]
        return datasets.Dataset.from_list(records, split=datasets.NamedSplit(split) if split else None)

    folder = tmp_path / "saved"
    parts: dict[Any, Any] = {name: made(name, size or 0) for name, size in splits.items()}
    if set(parts) == {"alone"}:
        parts["alone"].save_to_disk(str(folder))
    elif set(parts) == {"only_test"}:
        made("only_test", splits["only_test"] or 0, "test").save_to_disk(str(folder))
    else:
        datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train", ["train0", "train1", "train2", "train3"]),
        ("test", ["test0", "test1"]),
        ("train[:3]", ["train0", "train1", "train2"]),
        ("train[-1:]", ["train3"]),
        ("train[50%:]", ["train2", "train3"]),
        ("test[:1]+train[:1]", ["test0", "train0"]),
    ],
)
def test_saved_splits_and_their_slices_are_obeyed(tmp_path, split, wanted):
    assert questions(rows_of(saved_dataset(tmp_path, train=4, test=2), "huggingface", split=split)) == wanted


def test_a_saved_data_set_without_splits_is_train_and_nothing_else(tmp_path):
    folder = saved_dataset(tmp_path, alone=4)
    assert len(rows_of(folder, "huggingface")) == 4
    assert questions(rows_of(folder, "huggingface", split="train[:3]")) == ["alone0", "alone1", "alone2"]
    with pytest.raises(ConfigError, match="saved has no split 'test'; it has train"):
        rows_of(folder, "huggingface", split="test")
    with pytest.raises(ConfigError, match="has no subsets; leave `subset` out"):
        rows_of(folder, "huggingface", subset="main")


def test_a_saved_data_set_of_one_named_split_is_that_split(tmp_path):
    folder = saved_dataset(tmp_path, only_test=2)
    assert len(rows_of(folder, "huggingface", split="test")) == 2
    with pytest.raises(ConfigError, match="has no split 'train'; it has test"):
        rows_of(folder, "huggingface")


def test_slices_of_one_file_are_obeyed(tmp_path):
    file = saved(tmp_path, "x.json", json.dumps(ROWS).encode())
    assert questions(rows_of(file, "huggingface", split="train[1:]")) == ["2+2?"]
    with pytest.raises(ConfigError, match="has no split 'test'; it has train"):
        rows_of(file, "huggingface", split="test")


@pytest.mark.parametrize("split", ["train[5:]", "train[:0]+test[9:]"])
def test_a_slice_without_rows_is_refused_with_what_there_is(tmp_path, split):
    with pytest.raises(ConfigError, match="holds no rows; train has 2 rows"):
        rows_of(saved_dataset(tmp_path, train=2, test=1), "huggingface", split=split)


def test_all_splits_and_spaces_in_a_split_are_understood(tmp_path):
    folder = saved_dataset(tmp_path, train=2, test=1)
    assert questions(rows_of(folder, "huggingface", split="all")) == ["train0", "train1", "test0"]
    assert questions(rows_of(folder, "huggingface", split=" test + train [ :1]")) == ["test0", "train0"]


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        (victim, damage)
        for victim in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow")
        for damage in ("cut", "gone", "pointer")
        if (victim, damage) != ("state.json", "gone")  # then it is a folder of files
    ],
)
def test_a_saved_data_set_that_is_not_whole_is_refused(tmp_path, victim, damage):
    file = saved_dataset(tmp_path, alone=3) / victim
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else POINTER)
    if damage == "gone":
        file.unlink()
    with pytest.raises(ConfigError, match=r"not whole .*; copy or save it again|Git LFS pointer") as caught:
        rows_of(file.parent, "huggingface")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train[", "train[a:b]", ""])
def test_a_split_that_cannot_be_read_is_refused(tmp_path, split):
    with pytest.raises(ConfigError, match="split"):
        rows_of(saved_dataset(tmp_path, train=2, test=1), "huggingface", split=split)


def test_a_bad_row_of_a_folder_is_named_by_its_file(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    saved(tmp_path, "folder/train.jsonl", json.dumps({"question": "x \ud83d", "answer": "2"}).encode())
    (bad,) = rows_of(tmp_path / "folder", "huggingface")
    assert isinstance(bad, BadRow)
    assert bad.where.endswith("train.jsonl:1")
    assert "lone surrogate" in bad.reason


@pytest.mark.parametrize("question", ["1+1? \\ud83d", "1+1?"])
def test_half_a_surrogate_pair_in_a_line_is_a_bad_row_and_a_whole_one_is_text(tmp_path, question):
    answer = "2" if question != "1+1?" else "\\ud83d"
    line = f'{{"question": "{question}", "answer": "{answer}"}}\n{{"question": "\\ud83d\\ude00?", "answer": "2"}}\n'
    bad, good = rows_of(saved(tmp_path, "x.jsonl", line.encode()))
    assert isinstance(bad, BadRow)
    assert "lone surrogate" in bad.reason
    assert questions([good]) == ["\U0001f600?"]


@pytest.mark.parametrize("content", [b"{broken\n", b'{"question": "a"}\n[1]\n', b"\x00\x01\x02"])
def test_what_the_data_set_library_cannot_read_is_refused_in_a_line(tmp_path, monkeypatch, content):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    saved(tmp_path, "folder/train.parquet", content)
    with pytest.raises(ConfigError, match=r"train\.parquet is not a Parquet file; read JSON with") as raised:
        rows_of(tmp_path / "folder", "huggingface")
    assert "\n" not in str(raised.value)


def parquet(rows, names=None) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.rename_columns(names) if names else table, sink)
    return sink.getvalue().to_pybytes()


def folder_of(tmp_path, **files: bytes) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".").replace("_of_", "-of-").replace("train_", "train-")).write_bytes(content)
    return folder


def test_a_folder_of_files_keeps_every_value_and_names_its_files(tmp_path):
    lines = b'{"question": "when?", "answer": "2025-11-25"}\n{"question": "n?", "answer": 3}\n{"question": "x?"}\n'
    folder = folder_of(tmp_path, train__jsonl=lines, test__jsonl=LINES)
    rows = rows_of(folder, "huggingface")
    assert [row.answer for row in rows if isinstance(row, Row)] == ["2025-11-25", "3"]
    assert isinstance(rows[2], BadRow)
    assert rows[2].where.endswith("train.jsonl:3")
    assert questions(rows_of(folder, "huggingface", split="test[1:]")) == ["2+2?"]
    with pytest.raises(ConfigError, match="folder has no split 'dev'; it has train, test"):
        rows_of(folder, "huggingface", split="dev")


@pytest.mark.parametrize("kind", ["huggingface", "parquet", "pattern"])
def test_shards_are_read_in_order_and_a_missing_one_is_named(tmp_path, kind):
    first, second = (parquet([row]) for row in ROWS)
    folder = folder_of(tmp_path, train_00000_of_00002__parquet=first, train_00001_of_00002__parquet=second)
    path, name = (folder / "*.parquet", "parquet") if kind == "pattern" else (folder, kind)
    assert questions(rows_of(path, name)) == ["1+1?", "2+2?"]
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(ConfigError, match=r"holds 1 of the 2 files train-\*-of-00002\.parquet; fetch the others"):
        rows_of(path, name)
    assert questions(rows_of(folder / "train-00001-of-00002.parquet", "parquet")) == ["2+2?"]


def test_a_folder_of_several_splits_is_not_read_as_one(tmp_path):
    folder = folder_of(tmp_path, train__jsonl=LINES, test__jsonl=LINES)
    with pytest.raises(ConfigError, match=r"holds several splits \(test, train\)"):
        rows_of(folder)
    assert questions(rows_of(folder / "train*")) == ["1+1?", "2+2?"]
    with pytest.raises(ConfigError, match="no file matches"):
        rows_of(folder / "dev*")
    with pytest.raises(ConfigError, match=r"a folder without \.parquet files"):
        rows_of(folder, "parquet")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x" * 5000, "cannot be read"),
        ("~no-such-user/x", "no home folder is known"),
        ("$NO_SUCH_VARIABLE/x", "the environment has no variable"),
        ("s3://bucket/x", "is an address"),
        ("", "an empty path"),
        ("a\0b", "NUL"),
        (None, "path: expected text or a list of text, got None"),
        ([3], "path: expected text or a list of text"),
    ],
)
def test_a_path_that_is_none_is_refused(path, said):
    with pytest.raises(ConfigError, match=said):
        sources.build("jsonl", {"path": path})


def test_a_parquet_file_says_what_it_is_instead(tmp_path):
    whole = parquet(ROWS)
    with pytest.raises(ConfigError, match=r"damaged or cut off .*fetch the file once more"):
        rows_of(saved(tmp_path, "cut.parquet", whole[:-20]), "parquet")
    with pytest.raises(ConfigError, match=r"is a Parquet file; read it with `name: parquet`, unpacked"):
        rows_of(saved(tmp_path, "x.parquet.gz", packed(whole)), "parquet")
    with pytest.raises(ConfigError, match="two columns named 'answer'; rename one"):
        rows_of(
            saved(
                tmp_path,
                "twice.parquet",
                parquet([{"question": "q", "a": "1", "b": "2"}], ["question", "answer", "answer"]),
            ),
            "parquet",
        )


def test_bytes_and_maps_of_a_table_are_what_they_hold(tmp_path):
    schema = pa.schema([("question", pa.binary()), ("reward_model", pa.map_(pa.string(), pa.string()))])
    table = pa.Table.from_pylist([{"question": b"1+1?", "reward_model": [("ground_truth", "2")]}], schema=schema)
    pq.write_table(table, tmp_path / "x.parquet")
    (row,) = rows_of(tmp_path / "x.parquet", "parquet")
    assert isinstance(row, Row)
    assert (row.question, row.answer) == ("1+1?", "2")

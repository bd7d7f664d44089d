"""The agreement of a file's references with themselves, over the formats that files have."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.verifier_agreement import FORMS, measure, written
from tests.unit.rewards.cases import EQUAL

ROWS = [
    {"answer": r"\frac{1}{2}"},
    {"reward_model": {"ground_truth": r"\$36"}},
    {"final_answer": ["$5$;$10$"], "solution": ["First, we see that ..."]},
    {"answer": "12 + 22 = 34\n#### 34"},
    {"answer": True},
    {"answer": float("nan")},
    {"question": "no answer at all"},
]


def test_every_usual_reference_is_right_in_all_forms(tmp_path):
    references = sorted({reference for group in EQUAL.values() for reference, _ in group})
    path = tmp_path / "references.jsonl"
    path.write_text("".join(json.dumps({"answer": reference}) + "\n" for reference in references))
    report = measure(path)
    assert report.unreadable == []
    assert report.wrong == {form: [] for form in FORMS}
    assert report.num_readable == len(references)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
def test_unreadable_references_are_listed_and_not_counted(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    text = json.dumps(ROWS) if suffix == ".json" else "\n".join(map(json.dumps, ROWS))
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode("utf-8-sig"))
    report = measure(path)
    assert [line.split(": ")[0] for line in report.unreadable] == [f"{path}:6", f"{path}:7"]
    assert [report.share(form) for form in FORMS] == [1.0] * len(FORMS)


def test_parquet_and_a_field_of_ones_own(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"answer": "unused", "mine": {"value": "7"}}]), path)
    assert measure(path, "mine.value").num_readable == 1


def test_what_is_not_right_is_listed_with_its_row(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMS, "boxed", "\\boxed{%s}, no: \\boxed{0}")  # type: ignore[arg-type]
    path = tmp_path / "rows.jsonl"
    path.write_text('{"answer": "7"}\n{"answer": "0"}\n')
    report = measure(path)
    assert report.wrong["boxed"] == [f"{path}:1: '7'"]
    assert report.share("boxed") == 0.5


def test_dollars_within_dollars_go():
    assert written("dollars", "$5$;$10$") == "5;10"
    assert written("boxed", "$5$") == "$5$"

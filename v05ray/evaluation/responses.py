"""What is kept of an evaluation: every response with its extracted answer and verdict, one Parquet file each.

RUN/evaluations/step-000010.parquet   of the evaluation after step 10 of a training run
OUT/responses.parquet                 of `v05ray eval`, once it is whole
OUT/parts.jsonl                       until then: a line per answered draw, by which an interrupted one is continued
OUT/fingerprint.json                  what it evaluates and how: only the same evaluation is continued
OUT/metrics.json                      what it found
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from v05ray.errors import ConfigError, RunError
from v05ray.evaluation.evaluate import Draw, EvalReport, EvalRow
from v05ray.ledger.columns import COMPONENT
from v05ray.storage import durable
from v05ray.types import ComponentScore, Prompt

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),  # the reference
        ("kind", pa.string()),  # greedy | sampled
        ("sample_index", pa.int32()),
        ("text", pa.string()),  # the response
        ("extracted", pa.string()),  # the answer that the verifier read; null where it found none
        ("answer_key", pa.string()),  # what votes in maj@k
        ("reward", pa.float64()),
        ("verdict", pa.string()),
        ("verifier", pa.string()),
        ("message", pa.string()),  # why there is no verdict; empty where there is one
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("components", pa.list_(pa.struct(COMPONENT))),  # one of each of several verifiers; empty where there is one
    ],
    metadata={"v05ray.responses.version": "1"},
)
_ROW_FIELDS = tuple(field.name for field in fields(EvalRow))


def write_responses(path: Path, prompts: Sequence[Prompt], rows: Sequence[EvalRow]) -> None:
    """Rows of `SCHEMA`, in the order given; makes the folder. Raises `RunError` when the disk refuses."""
    of_id = {prompt.prompt_id: prompt for prompt in prompts}
    records = [
        asdict(row) | {"prompt": of_id[row.prompt_id].text, "answer": of_id[row.prompt_id].answer} for row in rows
    ]
    table = pa.Table.from_pylist(records, schema=SCHEMA)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace_file(path, lambda hidden: pq.write_table(table, hidden, compression="zstd"))
    except OSError as error:
        raise RunError(f"cannot write the responses to {path}: {error.strerror or error}; free some space") from error


def read_responses(path: Path) -> list[EvalRow]:
    """The rows that `write_responses` wrote; raises `ConfigError` for a file that is none of its."""
    try:
        records = pq.read_table(path).to_pylist()
        return [_row(record) for record in records]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ConfigError(
            f"{path} does not hold the responses of an evaluation ({type(error).__name__}: {error}); delete it, or "
            "give another --out"
        ) from error


def _row(record: Mapping[str, Any]) -> EvalRow:
    # Files of earlier versions have no components.
    components = tuple(ComponentScore(**one) for one in record.get("components") or ())
    return EvalRow(**{name: record[name] for name in _ROW_FIELDS if name != "components"}, components=components)


class EvaluationFolder:
    """The output folder of one evaluation, that grows draw by draw and can be continued after a kill."""

    def __init__(self, path: Path) -> None:
        """Makes the folder; raises `ConfigError` where that cannot be."""
        self.path = path
        self._parts, self._fingerprint = path / "parts.jsonl", path / "fingerprint.json"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the output folder {path}: {error.strerror or error}") from error
        if not os.access(path, os.W_OK):
            raise ConfigError(f"cannot write to the output folder {path}; give another --out")

    @property
    def responses(self) -> Path:
        """Every response, once all are there."""
        return self.path / "responses.parquet"

    @property
    def metrics(self) -> Path:
        """The metrics of the evaluation, as JSON."""
        return self.path / "metrics.json"

    def claim(self, fingerprint: Mapping[str, Any]) -> None:
        """Makes the folder that of this evaluation, or checks that it is: `ConfigError` says what differs."""
        wanted = json.loads(json.dumps(fingerprint))
        if not self._fingerprint.exists():
            try:
                durable.replace_text(self._fingerprint, json.dumps(wanted, indent=1))
            except OSError as error:
                raise ConfigError(f"cannot write to {self.path}: {error.strerror or error}") from error
            return
        try:
            saved = json.loads(self._fingerprint.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._fingerprint} cannot be read ({error}); give another --out") from error
        names = [name for name in dict.fromkeys((*saved, *wanted)) if saved.get(name) != wanted.get(name)]
        if names:
            what = "; ".join(f"{name}: {saved.get(name)!r} there, {wanted.get(name)!r} here" for name in names)
            raise ConfigError(
                f"{self.path} holds another evaluation ({what}); give another --out, or the same model, benchmarks, "
                "sampling and seed"
            )

    def is_of(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether an evaluation of this fingerprint was begun here and is not done."""
        try:
            saved = json.loads(self._fingerprint.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return saved == json.loads(json.dumps(fingerprint)) and not self.responses.exists()

    def known(self) -> dict[Draw, list[EvalRow]]:
        """The rows of every draw that was answered and scored."""
        if self.responses.exists():
            return _by_draw(read_responses(self.responses))
        found: dict[Draw, list[EvalRow]] = {}
        for line in self._whole_lines():
            rows = [_row(record) for record in json.loads(line)]
            found[rows[0].prompt_id, rows[0].kind] = rows
        return found

    def _whole_lines(self) -> list[bytes]:
        """The lines of the parts; one that a kill cut off is also removed from the file, which is appended to."""
        if not self._parts.exists():
            return []
        content = self._parts.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._parts, len(whole))
        return whole.splitlines()

    def keep(self, rows: Sequence[EvalRow]) -> None:
        """The rows of one draw, on disk when this returns; raises `RunError` when the disk refuses."""
        line = json.dumps([asdict(row) for row in rows]) + "\n"
        try:
            with self._parts.open("ab") as parts:
                parts.write(line.encode())
                parts.flush()
        except OSError as error:
            raise RunError(
                f"cannot write to {self._parts}: {error.strerror or error}; free some space and give the same command "
                "again: what is there is not drawn again"
            ) from error

    def finish(self, prompts: Sequence[Prompt], report: EvalReport) -> None:
        """Everything is there: Parquet in place of the parts, and the metrics."""
        write_responses(self.responses, prompts, report.rows)
        durable.replace_text(self.metrics, json.dumps(dict(report.metrics), indent=1, sort_keys=True))
        self._parts.unlink(missing_ok=True)


def _by_draw(rows: Iterable[EvalRow]) -> dict[Draw, list[EvalRow]]:
    found: dict[Draw, list[EvalRow]] = {}
    for row in rows:
        found.setdefault((row.prompt_id, row.kind), []).append(row)
    return found

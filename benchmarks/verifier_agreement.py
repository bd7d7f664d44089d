r"""What share of a file's reference answers does the `math` verifier call right, boxed and in five other usual forms?

    python -m benchmarks.verifier_agreement FILE... [--answer-field NAME] [--json]

FILE is JSON (lines or an array), gzipped or not, CSV or Parquet; the answer is the first of the usual fields that a row
has (`--answer-field` names another one, dotted where it is nested). Forms: `\boxed{x}`, `\fbox{x}`, `Answer: x`,
`**x**`, `$x$`, and x at the end of a response. References that are no answers (empty, NaN, braces that do not match,
prose) are listed as unreadable and not counted; readable ones that are not right in a form are listed with their row.
"""

import argparse
import csv
import gzip
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from v05ray.rewards.references import UnreadableReference, read_reference
from v05ray.rewards.verifiers import verifiers
from v05ray.types import Prompt

FORMS: Mapping[str, str] = {
    "boxed": "So we get\n$\\boxed{%s}$.",
    "fbox": "So we get \\fbox{%s}",
    "Answer:": "We add them up.\n\nAnswer: %s",
    "bold": "The answer is **%s**.",
    "dollars": "The answer is $%s$.",
    "at the end": "We add them up, and find that the answer is %s",
}
ANSWER_FIELDS = (
    "final_answer",
    "answer",
    "reward_model.ground_truth",
    "ground_truth",
    "Answer",
    "ANSWER",
    "expected_answer",
    "label",
    "target",
    "solution",
    "problem_answer",
)
_LISTED = 20


@dataclass
class Agreement:
    """What one file showed."""

    file: str
    num_rows: int = 0
    unreadable: list[str] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=lambda: {form: [] for form in FORMS})
    seconds: float = 0.0

    @property
    def num_readable(self) -> int:
        """Rows whose reference is an answer."""
        return self.num_rows - len(self.unreadable)

    def share(self, form: str) -> float:
        """Of the readable references that are right in a form, in [0, 1]; 1 where there are none."""
        return 1 - len(self.wrong[form]) / self.num_readable if self.num_readable else 1.0


def main() -> int:
    """0 where every readable reference is right in every form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--answer-field", help="where the answer is; the usual names are tried without it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    reports = [measure(path, arguments.answer_field) for path in arguments.files]
    if arguments.json:
        print(json.dumps([_as_json(report) for report in reports], indent=1))
    else:
        for report in reports:
            _print(report)
    return 0 if all(report.share(form) == 1 for report in reports for form in FORMS) else 1


def measure(path: Path, answer_field: str | None = None) -> Agreement:
    """Judges every reference of a file in every form."""
    verify = verifiers.build("math", {})
    report, start = Agreement(str(path)), time.perf_counter()
    for number, record in enumerate(read_records(path), start=1):
        report.num_rows += 1
        answer = answer_of(record, answer_field)
        try:
            alternatives = read_reference(answer)
        except UnreadableReference as error:
            report.unreadable.append(f"{path}:{number}: {error}")
            continue
        prompt = Prompt(f"{number}", "", (), answer, path.stem)
        for form, template in FORMS.items():
            if not all(_is_right(verify, prompt, template % written(form, one)) for one in alternatives):
                report.wrong[form].append(f"{path}:{number}: {answer!r:.100}")
    report.seconds = time.perf_counter() - start
    return report


def written(form: str, answer: str) -> str:
    """Within dollars an answer has none of its own."""
    return answer.replace("$", "") if form == "dollars" and "\\$" not in answer else answer


def _is_right(verify: Any, prompt: Prompt, response: str) -> bool:
    try:
        return bool(verify(prompt, response))
    except TimeoutError:
        return False


def answer_of(record: Any, answer_field: str | None) -> str:
    """The reference as text; lists and other JSON values as JSON. Empty where the row has none."""
    if not isinstance(record, Mapping):
        return ""
    for name in (answer_field,) if answer_field else ANSWER_FIELDS:
        value: Any = record
        for key in (name,) if name in record else name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            if isinstance(value, list):
                value = [item if isinstance(item, str) else json.dumps(item) for item in value]
            return value if isinstance(value, str) else json.dumps(value, default=str)
    return ""


def read_records(path: Path) -> Iterator[Any]:
    """The rows of a file, whatever of the formats it is in."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        yield from pq.read_table(path).to_pylist()
        return
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data.decode("utf-8-sig")
    if name.endswith(".csv"):
        yield from csv.DictReader(io.StringIO(text))
        return
    try:
        whole = json.loads(text)
    except ValueError:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())
        return
    if isinstance(whole, Mapping) and whole and all(isinstance(value, Mapping) for value in whole.values()):
        whole = list(whole.values())  # rows by their ids
    yield from whole if isinstance(whole, list) else [whole]


def _print(report: Agreement) -> None:
    rate = report.num_readable * len(FORMS) / report.seconds if report.seconds else 0.0
    print(
        f"{report.file}: {report.num_rows} references, {len(report.unreadable)} unreadable; "
        f"{report.seconds:.1f} s, {rate:,.0f} verdicts/s"
    )
    for form in FORMS:
        print(f"  {form:<12} {report.share(form):8.2%}")
        for line in report.wrong[form][:_LISTED]:
            print(f"    wrong: {line}")
    for line in report.unreadable[:_LISTED]:
        print(f"  unreadable: {line}")


def _as_json(report: Agreement) -> dict[str, Any]:
    return {
        "file": report.file,
        "references": report.num_rows,
        "unreadable": report.unreadable,
        "share": {form: report.share(form) for form in FORMS},
        "wrong": report.wrong,
        "seconds": report.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())

"""Config files of the tests."""

from pathlib import Path

MINIMAL = {"model": {"path": "m"}, "data": {"train": "jsonl"}}
SHORT = "model: {path: m}\ndata: {train: {name: jsonl, path: x}}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path

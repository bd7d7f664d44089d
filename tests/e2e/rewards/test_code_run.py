"""A run whose reward is a program's tests: what the tiny model writes is run, in sandboxes beside real engines."""

import ast
import json
from pathlib import Path

from tests.e2e.test_run import train
from v05ray.ledger import LedgerReader

_HARMLESS = (
    ast.Module,
    ast.Expr,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.UAdd,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Tuple,
)
_HARMLESS += (ast.Load, ast.Mult)
QUESTION = "State the final answer to the following arithmetic problem: {} + {} ="


def rows(path: Path, first: range) -> Path:
    """A bare number is a program that prints nothing, and most of what the tiny model writes is none."""
    tests = {"inputs": ["", "1"], "outputs": ["", ""]}
    listed = [{"question": QUESTION.format(a, b), "ground_truth": tests} for a in first for b in range(1, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    return path


def test_programs_are_rewarded_by_their_tests(tiny_model: Path, tmp_path: Path):
    verifier = "{name: code, extract: whole, packages: none, imports: none}"
    done = train(
        tiny_model,
        tmp_path,
        f"data.train={{name: jsonl, path: {rows(tmp_path / 'train.jsonl', range(1, 5))}}}",
        f"data.eval={{name: jsonl, path: {rows(tmp_path / 'eval.jsonl', range(5, 7))}}}",
        f"rewards.verifier={verifier}",
        *("rewards.num_workers=2", "run.num_steps=2", "run.prompts_per_step=8", "evaluation.every=0"),
    )
    assert "failures of the verifier" not in done.stdout + done.stderr
    ledger = LedgerReader(tmp_path / "tiny" / "ledger")
    assert list(ledger.steps) == [1, 2]
    rollouts = ledger.rollouts().to_pylist()
    assert len(rollouts) >= 2 * 8 * 4
    assert {one["verdict"] for one in rollouts} <= {"correct", "wrong"}
    for one in rollouts:
        is_program = _prints_nothing(one["response"])
        assert one["verdict"] == ("correct" if is_program else "wrong"), one
        assert bool(one["message"]) != is_program, one


def _prints_nothing(text: str) -> bool:
    """Whether a response is a program that ends well: numbers, and nothing in front of them."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return bool(text.strip()) and all(isinstance(node, _HARMLESS) for node in ast.walk(tree))

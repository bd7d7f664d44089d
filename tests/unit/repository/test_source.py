"""A fence beside the behavioural tests: the calls that turn data into running code are nowhere in the source."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for folder in ("v05ray", "clusters", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
SANDBOX = ROOT / "v05ray" / "rewards" / "code" / "inside"
RUNS_DATA = {
    *("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "marshal.loads"),
    *("shelve.open", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen"),
}
"""Whatever their arguments."""
SAFE_WITH = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
}
"""Only with this keyword, written out."""
IMPORTS = {"import_module", "__import__", "spec_from_file_location", "run_path", "run_module"}
"""They make code of a name or a path."""


def findings(source: str) -> list[str]:
    """The calls that must not be, each as `line: what`."""
    return [f"{call.lineno}: {name}" for call, name in calls(source) if is_unsafe(call, name)]


@cache  # each file is asked for twice
def calls(source: str) -> list[tuple[ast.Call, str]]:
    return [(node, ast.unparse(node.func)) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def is_unsafe(call: ast.Call, name: str) -> bool:
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    last = name.rpartition(".")[2]
    if name in RUNS_DATA or last in IMPORTS or given.get("shell") == "True":
        return True
    if name in SAFE_WITH:
        return any(given.get(word) != str(value) for word, value in SAFE_WITH[name].items())
    if last == "from_pretrained":  # left to itself, transformers asks at the terminal
        return "trust_remote_code" not in given and None not in given
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_turns_data_into_code(path: Path):
    found = findings(path.read_text())
    if path == ROOT / "v05ray" / "registry.py":
        # The one place where a name that a job gives becomes code; `job.preflight.outside_code` reports it.
        assert [entry.partition(" ")[2] for entry in found] == ["importlib.import_module"]
    elif path.parent == SANDBOX:
        # A response's program and its row's tests, in a process that is shut in; never imported outside of it.
        assert {entry.partition(" ")[2] for entry in found} <= {"exec"}
    else:
        assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("pickle.loads(x)", 1),
        ("torch.load(p)", 1),
        ("torch.load(p, weights_only=False)", 1),
        ("torch.load(p, weights_only=True)", 0),
        ("np.load(p, allow_pickle=True)", 1),
        ("np.load(p, allow_pickle=False)", 0),
        ("yaml.load(t)", 1),
        ("yaml.safe_load(t)", 0),
        ("eval(t)", 1),
        ("model.eval()", 0),
        ("importlib.import_module(name)", 1),
        ("subprocess.run(command, shell=True)", 1),
        ("AutoModel.from_pretrained(p)", 1),
        ("AutoModel.from_pretrained(p, trust_remote_code=False)", 0),
    ],
)
def test_the_fence_finds_what_it_is_for(source: str, found: int):
    assert len(findings(source)) == found


def test_trust_is_only_ever_what_the_job_says():
    for path in SOURCES:
        for call, _ in calls(path.read_text()):
            for word in call.keywords:
                if word.arg == "trust_remote_code":
                    assert ast.unparse(word.value).rpartition(".")[2] in ("False", "trust_remote_code"), path

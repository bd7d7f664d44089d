"""The Python paths that a job names are the only code from outside that is loaded, and its log names them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
JOB = """
recipe: v05
run: {{output_dir: {folder}/runs, prompts_per_step: 2}}
model: {{path: {folder}/model, dtype: float32, max_length: 256}}
data:
  train: {{name: jsonl, path: {folder}/data/prompts.jsonl}}
  chat_template: false
sampling: {{max_tokens: 8}}
rewards: {{verifier: {{name: python, path: "mine:strict"}}}}
"""
USE = """
import json, sys
from pathlib import Path
import torch
from v05ray.job.config_files import load_config
from v05ray.learning.loading import load_policy
from v05ray.job.preflight import prepare
from v05ray.rewards.verifiers import verifiers
from v05ray.value.model import ValueModel

config = load_config(Path(sys.argv[1]), [])
prepare(config)
load_policy(config.model, 1.0, torch.device("cpu"), share_prefix=False, checkpointing=False)
ValueModel.load(config.value)
verifiers.build(config.rewards.verifier.name, config.rewards.verifier.options)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
print(json.dumps(sorted(file for file in files if file and Path(file).is_file())))  # torch makes up two names
"""


@pytest.fixture
def folder(random_tiny_model: Path, tmp_path: Path) -> Path:
    """A job whose model, data and working folder are full of Python files that the job does not name."""
    shutil.copytree(random_tiny_model, tmp_path / "model")
    for name in ("data", "code"):
        (tmp_path / name).mkdir()
    rows = [json.dumps({"question": f"{i} + 1 =", "answer": str(i + 1)}) for i in range(8)]
    (tmp_path / "data" / "prompts.jsonl").write_text("\n".join(rows))
    for trap in ("data/prompts.py", "data/sitecustomize.py", "model/modeling_qwen3.py", "model/tokenization.py"):
        (tmp_path / trap).write_text("raise SystemExit('a file was run that the job does not name')\n")
    (tmp_path / "code" / "mine.py").write_text("def strict(prompt, response):\n    return False\n")
    (tmp_path / "code" / "other.py").write_text("raise SystemExit('a file was run that the job does not name')\n")
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path))
    return tmp_path


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(folder / "code"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    # -P: where a command is started says nothing about whose code it may load.
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder / "data", env=env, timeout=120)


def test_of_a_jobs_folders_the_named_file_alone_is_loaded(folder: Path):
    done = run(folder, "-c", USE, str(folder / "job.yaml"))
    assert done.returncode == 0, done.stderr
    loaded = [Path(name) for name in json.loads(done.stdout.splitlines()[-1])]
    assert [path for path in loaded if path.is_relative_to(folder)] == [folder / "code" / "mine.py"]
    homes = [Path(home) for home in {sys.prefix, sys.base_prefix, str(ROOT / "v05ray"), str(folder / "code")}]
    homes += [home.resolve() for home in homes]
    assert [path for path in loaded if not any(path.is_relative_to(home) for home in homes)] == []
    # What libraries only might want is left out, as it takes seconds at each start.
    idle = {"sklearn", "scipy", "pandas", "matplotlib", "mlflow"}
    assert [path for path in loaded if idle & set(path.parts)] == []


@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_log_names_it_before_it_runs(folder: Path, command: str):
    # The run is refused right after: no actor, and so no verifier, has been started by then.
    done = run(folder, "-m", "v05ray.cli", command, str(folder / "job.yaml"), "run.prompts_per_step=9")
    assert done.returncode == 2, done.stderr
    named = done.stderr.index("code from outside of v05ray: rewards.verifier runs mine:strict")
    assert named < done.stderr.index("fewer than run.prompts_per_step 9")

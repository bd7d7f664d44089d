"""What only vLLM finds wrong with a job: the run ends at once, its reason is one line, and no actor is restarted."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.e2e.test_run import command


def test_a_model_that_vllm_cannot_serve_ends_the_run_at_once(random_tiny_model: Path, tmp_path: Path):
    roomy = Path(shutil.copytree(random_tiny_model, tmp_path / "roomy"))
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 99_999}))
    settings = ("model.max_length=90000", "learner.micro_batch_tokens=90000", "generators.kv_cache_mib=16")
    done = subprocess.run(
        command(roomy, tmp_path, *settings), capture_output=True, text=True, timeout=200, env=dict(os.environ)
    )
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("v05ray: ")]
    assert said.startswith(f"v05ray: vLLM cannot serve model.path {roomy}: ")
    assert "KV cache" in said
    assert len(said) < 700
    for word in ("Traceback", "restart", "ray::", "fresh actors"):
        assert word not in done.stdout + done.stderr

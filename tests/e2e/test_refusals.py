"""What only vLLM finds wrong with a job: the run ends at once, its reason is one line, and no actor is restarted."""

import json
import shutil
import time
from pathlib import Path

from tests.chaos.tiny_run import TinyRun
from v05ray.stopping.exit_codes import ExitCode


def test_a_model_that_vllm_cannot_serve_ends_the_run_at_once(random_tiny_model: Path, tmp_path: Path):
    roomy = Path(shutil.copytree(random_tiny_model, tmp_path / "roomy"))
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 99_999}))
    settings = ("model.max_length=90000", "learner.micro_batch_tokens=90000", "generators.kv_cache_mib=16")
    with TinyRun(roomy, tmp_path, *settings) as run:
        run.wait_for("starting the actors")
        while run.process.poll() is None:
            run.children()  # the family is known while it lives
            time.sleep(0.2)
        assert run.end() == ExitCode.USER_ERROR, run.printed
        run.assert_gone()
    (said,) = [text for _, text in run.lines if text.startswith("v05ray: ")]
    assert said.startswith(f"v05ray: vLLM cannot serve model.path {roomy}: ")
    assert "KV cache" in said
    assert len(said) < 700
    for word in ("Traceback", "restart", "ray::", "fresh actors"):
        assert word not in run.printed

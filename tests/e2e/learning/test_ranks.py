import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.learning.conftest import free_port
from tests.e2e.learning.rank import CASES, OPTIONS, STEPS
from tests.e2e.learning.tiny import make_samples
from v05ray.learning.learner import Learner


def test_two_ranks_equal_one(make_learner: Callable[..., Learner], tied_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.e2e.learning.rank"]
    rest = ["2", str(free_port()), str(tied_folder), str(tmp_path)]
    gang = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(2)]
    try:
        one, expected = {}, {}
        for case, options in CASES.items():
            one[case], expected[case] = make_learner(tied_folder, **{**OPTIONS, **options, "zero_stage": 1}), []
            for num_prompts, seed in STEPS:
                one[case].accumulate(make_samples(num_prompts, seed))
                one[case].accumulate(make_samples(1, seed + 10))
                expected[case].append(one[case].step())
        assert [process.wait(timeout=200) for process in gang] == [0, 0]
    finally:
        for process in gang:
            process.kill()

    for rank in range(2):
        imported = json.loads((tmp_path / f"imported-{rank}.json").read_text())
        assert not {"sklearn", "scipy", "mlflow", "pandas", "torch._inductor.compile_fx"} & set(
            imported
        )  # seconds of every start, for nothing
    for case, learner in one.items():
        found = json.loads((tmp_path / f"metrics{case}.json").read_text())
        for ours, theirs in zip(found, expected[case], strict=True):
            # Ranks may repeat a prompt, so the number of input tokens differs; every result is the same.
            for name in theirs.keys() - {"actor/num_input_tokens"}:
                if name.startswith("actor/"):
                    assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), (case, name)
        for position, share_prefix in enumerate((True, False)):
            shares = [json.loads((tmp_path / f"logprobs{case}-{rank}.json").read_text()) for rank in range(2)]
            got = {int(index): logprobs for share in shares for index, logprobs in share[position].items()}
            assert all(share[position] for share in shares)  # both ranks had a part of the work
            for index, logprobs in learner.logprobs(make_samples(*STEPS[0]), share_prefix=share_prefix).items():
                assert got.pop(index) == pytest.approx(logprobs, abs=1e-2)  # after two updates, as the weights below
            assert not got
        weights = load_file(tmp_path / f"weights{case}.safetensors")
        for name, tensor in learner.export_weights():
            torch.testing.assert_close(weights.pop(name), tensor, atol=2e-4, rtol=0, msg=name)
        assert not weights

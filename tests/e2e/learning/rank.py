"""One rank of a gang, as a process: `python -m tests.e2e.learning.rank RANK WORLD PORT MODEL OUT`."""

import json
import os
import sys
from pathlib import Path

from v05ray.config import LearnerConfig
from v05ray.learning.environment import environment

OPTIONS = {"learning_rate": 1e-2, "max_grad_norm": 0.5, "micro_batch_tokens": 64, "kl_coefficient": 0.2}
CASES = {
    **{str(stage): {"zero_stage": stage} for stage in (1, 2, 3)},
    "several": {"zero_stage": 3, "mini_batch_prompts": 3, "epochs": 2},
}
"""What each learner has besides `OPTIONS`, by the name of its files."""
STEPS = ((7, 0), (1, 1))
"""(number of prompts, seed) of two steps; the second is too small to keep two ranks equally busy."""


def main(rank: int, world_size: int, port: int, folder: Path, out: Path) -> None:
    """Two steps of each case; rank 0 writes metrics and weights, each the modules it imported."""
    os.environ.update(environment(LearnerConfig()))
    from safetensors.torch import save_file

    from tests.e2e.learning.tiny import make_samples, model_config
    from v05ray.learning.learner import Learner

    for case, options in CASES.items():
        config = LearnerConfig.model_validate({**OPTIONS, **options, "num_ranks": world_size})
        learner = Learner(rank, world_size, model_config(folder), config, seed=1)
        learner.setup("127.0.0.1", port)
        metrics = []
        for num_prompts, seed in STEPS:
            learner.accumulate(make_samples(num_prompts, seed))
            learner.accumulate(make_samples(1, seed + 10))
            metrics.append(learner.step())
        shares = [learner.logprobs(make_samples(*STEPS[0]), share_prefix=share) for share in (True, False)]
        (out / f"logprobs{case}-{rank}.json").write_text(json.dumps(shares))
        weights = {name: tensor.clone() for name, tensor in learner.export_weights()}
        learner.save(out / f"checkpoint{case}")
        learner.load(out / f"checkpoint{case}")
        if rank == 0:
            (out / f"metrics{case}.json").write_text(json.dumps(metrics))
            save_file(weights, out / f"weights{case}.safetensors")
    (out / f"imported-{rank}.json").write_text(json.dumps(list(sys.modules)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))

"""What a rank's process has to find in its environment before torch is imported; so this file imports no torch."""

from v05ray.config import LearnerConfig
from v05ray.config.section import count_threads


def environment(learner: LearnerConfig) -> dict[str, str]:
    """Variables for the process of one rank. OpenMP reads its own when torch loads it, and never again."""
    variables = {
        "LOCAL_RANK": "0",  # every rank is a process of its own that sees its own devices only
        "LOCAL_SIZE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if learner.num_gpus == 0:
        variables |= {
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(count_threads(learner.num_threads)),
            # Threads that spin as they wait take a busy machine's cores: ten times the CPU time was measured for two.
            "OMP_WAIT_POLICY": "PASSIVE",
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",  # of 1024 shapes, whose code grows a rank over hundreds of steps
            "THP_MEM_ALLOC_ENABLE": "1",  # huge pages for large tensors: fewer page faults
        }
    return variables

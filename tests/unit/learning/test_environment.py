import subprocess
import sys

from v05ray.config import LearnerConfig
from v05ray.learning.environment import environment


def test_environment_is_for_the_device() -> None:
    cpu = environment(LearnerConfig(num_threads=3))
    assert cpu["DS_ACCELERATOR"] == "cpu"
    assert cpu["OMP_NUM_THREADS"] == "3"
    gpu = environment(LearnerConfig(num_gpus=1))
    assert gpu["LOCAL_RANK"] == "0"
    assert not {"DS_ACCELERATOR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"} & gpu.keys()


def test_environment_can_be_had_before_torch() -> None:
    code = "import sys; import v05ray.learning.environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""A generator's environment, and that its light half stays light."""

import subprocess
import sys

from v05ray.config import GeneratorsConfig
from v05ray.generation.environment import environment


def test_on_cpu_threads_are_limited_and_nothing_is_compiled():
    variables = environment(GeneratorsConfig(num_threads=3))
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["TORCHDYNAMO_DISABLE"] == "1"
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_on_gpu_the_cpus_variables_are_left_out():
    variables = environment(GeneratorsConfig(num_gpus=1))
    assert not {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHDYNAMO_DISABLE"} & variables.keys()
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_parts_start_afresh_and_are_bound_to_no_node():
    one, two = (environment(GeneratorsConfig(tensor_parallel=parts)) for parts in (1, 2))
    assert two.items() - one.items() == {
        ("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),
        ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
    }
    assert one.items() <= two.items()


def test_importing_the_engine_and_the_weights_loads_neither_torch_nor_vllm():
    code = (
        "import sys, v05ray.generation.engine, v05ray.generation.environment, v05ray.generation.core, v05ray.weights;"
        "print([name for name in ('torch', 'vllm', 'ray', 'transformers') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"

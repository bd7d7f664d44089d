"""Environment variables of a generator's process."""

from v05ray.config import GeneratorsConfig
from v05ray.config.section import count_threads


def environment(generators: GeneratorsConfig) -> dict[str, str]:
    """What must be set before the process imports torch or vLLM (the actor's `runtime_env`).

    With `num_gpus` > 0 the ones that only the CPU build wants are left out.
    """
    variables = {
        # The engine core runs in this process: without tensor parallelism there are no children to orphan, and a weight
        # update is a function call.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # `core` gives vLLM's logger its one handler; vLLM's own would write to stdout.
        "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # One process talks to itself alone.
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if generators.tensor_parallel > 1:
        # The parts are started, not forked: this process has threads, and a fork could find a lock taken for good.
        variables["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if generators.num_gpus == 0:
        threads = str(count_threads(generators.num_threads))
        variables |= {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            # Threads that spin as they wait take the cores from those that work: with a busy neighbour, two of them
            # were measured at a tenth of one thread's speed.
            "OMP_WAIT_POLICY": "PASSIVE",
            # oneDNN keeps the code it compiles for every shape of a product, and a batch is of another shape at each
            # step: its own limit of 1024 is half a gigabyte.
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
            # Some of vLLM's functions are compiled even in eager mode: 2 to 9 s at the first request, for nothing.
            "TORCHDYNAMO_DISABLE": "1",
        }
        if generators.tensor_parallel > 1:
            # vLLM would bind each part to a NUMA node of its own, and refuse where there are fewer nodes than parts.
            variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return variables

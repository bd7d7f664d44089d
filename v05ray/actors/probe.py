"""Measures a machine of a joined cluster: where the generators will be, not where the driver is."""

import ray
from ray.exceptions import GetTimeoutError

from v05ray.actors.placement import join
from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.machine import layout
from v05ray.machine.probe import Machine, here


def measure_generator_node(config: Config) -> Machine:
    """Joins `cluster.address`, measures in the place of one generator, and leaves again.

    Waits up to `cluster.wait_s` for such a place, which an autoscaler may still have to bring. Raises `ConfigError`
    where none comes.
    """
    assert config.cluster.address is not None
    bundle = dict(layout.generator_role(config, 0).bundles[0])
    num_cpus = bundle.pop("CPU")
    num_gpus = bundle.pop("GPU", 0.0)
    join(config.cluster.address)
    try:
        task = ray.remote(here).options(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=bundle,
            max_calls=1,  # its process has loaded torch and the GPU, and ends with it
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
        )
        return ray.get(task.remote(max(1, int(num_cpus))), timeout=config.cluster.wait_s + 60)
    except GetTimeoutError as error:
        raise ConfigError(
            "model.dtype is auto, but no place for a generator came up within cluster.wait_s "
            f"({config.cluster.wait_s:g} s) to measure it on; set model.dtype by hand, or raise cluster.wait_s"
        ) from error
    finally:
        ray.shutdown()

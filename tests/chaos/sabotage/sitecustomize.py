"""Put on a run's PYTHONPATH, damages the next weight update of a generator once there is a file in the folder that
`V05RAY_SABOTAGE` names: with `fail-load` it raises, with `change-weight` one element of what it serves is wrong."""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ENGINE = "v05ray.generation.engine"


class _Sabotage(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the engine's module as ever, and wraps one method."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None):
        if name != ENGINE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            self._real = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec):
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        load_weights = module.Engine.load_weights

        async def sometimes_failing(engine, version, buckets):
            if _asked("fail-load"):
                raise RuntimeError(f"bucket 0 of version {version} does not fit the model (sabotage)")
            loaded = await load_weights(engine, version, buckets)
            if _asked("change-weight"):
                await engine._do(lambda: engine._core._engine.collective_rpc(_change_weight))
            return loaded

        module.Engine.load_weights = sometimes_failing


def _asked(name: str) -> bool:
    try:
        (Path(os.environ["V05RAY_SABOTAGE"]) / name).unlink()
    except FileNotFoundError:
        return False
    return True


def _change_weight(worker) -> None:
    model = worker.model_runner.get_model()
    model.model.layers[0].input_layernorm.weight.data[3] *= 1.001


if "V05RAY_SABOTAGE" in os.environ:
    sys.meta_path.insert(0, _Sabotage())

"""Put on a run's PYTHONPATH, makes the next weight update of a generator raise once there is a file `fail-load` in the
folder that `V05RAY_SABOTAGE` names."""

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
            try:
                (Path(os.environ["V05RAY_SABOTAGE"]) / "fail-load").unlink()
            except FileNotFoundError:
                return await load_weights(engine, version, buckets)
            raise RuntimeError(f"bucket 0 of version {version} does not fit the model (sabotage)")

        module.Engine.load_weights = sometimes_failing


if "V05RAY_SABOTAGE" in os.environ:
    sys.meta_path.insert(0, _Sabotage())

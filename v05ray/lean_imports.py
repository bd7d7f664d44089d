"""Packages that a library imports with itself and that nothing here uses of it: seconds in every process of a run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Inside, an import of these packages fails as where they are not installed, unless they were imported before.

    For libraries that do without them. Afterwards they can be imported by whatever wants them.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own mark for it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def bare(*packages: str) -> Iterator[None]:
    """Inside, modules of these packages can be imported without what the packages' own `__init__` imports.

    Give each package after the one it is in. One that was imported before stays as it is; the others can be imported
    whole afterwards, and share the modules that are there by then.
    """
    made = []
    try:
        for name in packages:
            spec = None if name in sys.modules else find_spec(name)
            if spec is None or spec.submodule_search_locations is None:
                continue
            sys.modules[name] = package = ModuleType(name)
            package.__path__ = list(spec.submodule_search_locations)
            made.append(name)
        yield
    finally:
        for name in made:
            del sys.modules[name]


def lean_transformers() -> bool:
    """To be called before a process imports models or tokenizers of transformers.

    transformers then does without scikit-learn and SciPy, whose imports take a second and a half: it wants them for one
    way of assisted decoding and for the losses of object detection. False where something made it look for them
    before: then they must stay importable, or those of its modules fail.
    """
    with without("sklearn", "scipy"):
        from transformers.utils.import_utils import is_scipy_available, is_sklearn_available

        # transformers keeps the answers.
        return not any([is_sklearn_available(), is_scipy_available()])

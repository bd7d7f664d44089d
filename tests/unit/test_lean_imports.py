import subprocess
import sys
from pathlib import Path

import pytest

from v05ray.lean_imports import bare, without


def test_a_package_is_missing_inside_and_there_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seldom_wanted.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with without("seldom_wanted"), pytest.raises(ImportError):
        import seldom_wanted  # type: ignore[import-not-found]
    import seldom_wanted  # type: ignore[import-not-found]

    with without("seldom_wanted"):  # by now others hold on to it
        import seldom_wanted as again  # type: ignore[import-not-found]
    assert again is seldom_wanted
    del sys.modules["seldom_wanted"]


def test_a_module_comes_without_its_package_which_can_still_come_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("laden", "laden/inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("loaded = True\n")
    (tmp_path / "laden" / "inner" / "part.py").write_text("from laden.other import value\n")
    (tmp_path / "laden" / "other.py").write_text("value = object()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with bare("laden", "laden.inner"):
        from laden.inner import part  # type: ignore[import-not-found]
    assert {name for name in sys.modules if name.startswith("laden")} == {"laden.inner.part", "laden.other"}
    import laden.inner  # type: ignore[import-not-found]

    with bare("laden", "laden.inner"):  # whole by now, and so it stays
        from laden.inner import part as again  # type: ignore[import-not-found]
    assert laden.loaded
    assert laden.inner.loaded
    assert again is part
    for name in [name for name in sys.modules if name.startswith("laden")]:
        del sys.modules[name]


@pytest.mark.parametrize(("before", "lean"), [("", True), ("import transformers.utils\n", False)])
def test_transformers_does_without_scipy_unless_it_has_found_it_before(before: str, lean: bool) -> None:
    program = (
        f"{before}from v05ray.lean_imports import lean_transformers\nlean = lean_transformers()\n"
        "from transformers.utils.import_utils import is_scipy_available\nprint(lean, is_scipy_available())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(lean), str(not lean)]

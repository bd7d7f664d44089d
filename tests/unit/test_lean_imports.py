import sys
from pathlib import Path

import pytest

from v05ray.lean_imports import without


def test_a_package_is_missing_inside_and_there_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seldom_wanted.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with without("seldom_wanted"), pytest.raises(ImportError):
        import seldom_wanted  # type: ignore[import-not-found]
    import seldom_wanted

    with without("seldom_wanted"):  # by now others hold on to it
        import seldom_wanted as again
    assert again is seldom_wanted
    del sys.modules["seldom_wanted"]

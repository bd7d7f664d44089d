import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "vllm", "deepspeed", "mlflow", "transformers", "tabpfn", "datasets"}


@pytest.mark.parametrize(
    "statement", ["import v05ray", "import v05ray.config", "import v05ray.cli; v05ray.cli.command._parser()"]
)
def test_light_entrances_load_nothing_heavy(statement: str):
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY & set(loaded) == set()

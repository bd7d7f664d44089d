import pytest

from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.job.preflight import prepare


def test_an_output_dir_that_cannot_be_made_is_refused_before_model_and_data_are_looked_at():
    nowhere = {"model": {"path": "no/model"}, "data": {"train": {"name": "jsonl", "path": "no/data"}}}
    with pytest.raises(ConfigError, match=r"run.output_dir '/proc/runs' cannot be made"):
        prepare(make_config({**nowhere, "run": {"output_dir": "/proc/runs"}}))

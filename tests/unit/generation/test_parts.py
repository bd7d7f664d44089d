"""Over how many parts a model can be split, refused before anything is loaded."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from v05ray.config import GeneratorsConfig
from v05ray.errors import ConfigError
from v05ray.generation.parts import check_parts


@pytest.mark.parametrize(
    ("settings", "parts", "fits"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, 4, True),  # two parts share a key-value head
        ({"text_config": {"num_attention_heads": 8}}, 8, True),
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, 3, False),
        ({"num_attention_heads": 12, "num_key_value_heads": 4}, 6, False),  # 6 parts cannot share 4 heads evenly
        ({"num_attention_heads": 9, "num_key_value_heads": 3}, 1, True),
    ],
)
def test_parts_that_do_not_divide_the_models_heads_are_refused(
    settings: dict[str, object], parts: int, fits: bool, tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if fits:
        check_parts(tmp_path, parts)
    else:
        with pytest.raises(ConfigError, match=rf"tensor_parallel is {parts}, which does not divide .* set it to a div"):
            check_parts(tmp_path, parts)


@pytest.mark.parametrize("num_gpus", [0.5, 2])
def test_a_part_has_a_whole_gpu_or_none(num_gpus: float):
    with pytest.raises(ValidationError, match=r"a part has one whole GPU, or on CPU none; set it to 1 or 0"):
        GeneratorsConfig(tensor_parallel=2, num_gpus=num_gpus)


def test_an_engine_in_one_part_has_one_gpu_at_most():
    with pytest.raises(ValidationError, match=r"num_gpus is 2, .* set it to 1 and raise count, or tensor_parallel"):
        GeneratorsConfig(num_gpus=2)

"""DeepSpeed's checkpoint files are pickles: nothing in them may run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.learning.tiny import make_samples, model_config
from v05ray.config import LearnerConfig
from v05ray.errors import ConfigError
from v05ray.learning.learner import Learner

MakeLearner = Callable[..., Learner]
OPTIONS = {"micro_batch_tokens": 64, "learning_rate": 1e-2}


class Sabotage:
    """Runs a command in the process that unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def alone(file: Path, sabotage: Sabotage) -> None:
    torch.save(sabotage, file)


def beside_what_was_there(file: Path, sabotage: Sabotage) -> None:
    torch.save({**torch.load(file, weights_only=False), "more": sabotage}, file)


def by_names_put_together(file: Path, sabotage: Sabotage) -> None:
    """Protocol 4 takes module and name off the stack, where a reader of the bytes alone does not see them."""
    torch.save(sabotage, file, pickle_protocol=4)


def in_the_old_format(file: Path, sabotage: Sabotage) -> None:
    torch.save(sabotage, file, _use_new_zipfile_serialization=False)


@pytest.fixture(scope="module")
def checkpoints(port: int, tied_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By dtype: in float32 one rank writes one file, in bfloat16 the optimiser has its own."""
    folders = {}
    for dtype in ("float32", "bfloat16"):
        learner = Learner(0, 1, model_config(tied_folder, dtype), LearnerConfig.model_validate(OPTIONS), seed=1)
        learner.setup("127.0.0.1", port)
        learner.accumulate(make_samples(2))
        learner.step()
        folders[dtype] = tmp_path_factory.mktemp("checkpoint")
        learner.save(folders[dtype])
    return folders


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", [alone, beside_what_was_there, by_names_put_together, in_the_old_format])
@pytest.mark.parametrize(
    ("dtype", "which"), [("float32", "model_states"), ("bfloat16", "model_states"), ("bfloat16", "optim_states")]
)
def test_a_checkpoint_file_that_would_run_code_is_refused_and_runs_none(
    make_learner: MakeLearner,
    tied_folder: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    dtype: str,
    which: str,
    how: Callable[[Path, Sabotage], None],
) -> None:
    checkpoint = checkpoints[dtype]
    (file,) = checkpoint.glob(f"zero/*{which}.pt")
    whole, marker = file.read_bytes(), tmp_path / "it-ran"
    try:
        how(file, Sabotage(marker))
        with pytest.raises(
            ConfigError, match=r"is refused: .*(system|operand).* could run code; .* resume from an older"
        ):
            make_learner(tied_folder, dtype, **OPTIONS).load(checkpoint)
        assert not marker.exists()
        # The file is what it is taken for: the process that unpickles it does run the command.
        torch.load(file, weights_only=False)
        assert marker.exists()
    finally:
        file.write_bytes(whole)
    make_learner(tied_folder, dtype, **OPTIONS).load(checkpoint)  # and the file as it was written is taken

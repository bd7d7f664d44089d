import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from v05ray.config import Config
from v05ray.job.config_files import make_config, to_yaml
from v05ray.machine.fit import fit, is_open, take_over
from v05ray.machine.fitting import fit_to_machine
from v05ray.machine.probe import Machine, from_json, thread_counts

# As measured: two cores of AMD Zen 3, which emulates bfloat16, and two with AMX.
AVX2 = Machine(2, "AVX2", {"float32": {1: 45.0, 2: 88.0}, "bfloat16": {1: 7.0, 2: 13.0}})
AMX = Machine(2, "AMX bf16", {"float32": {1: 156.0, 2: 300.0}, "bfloat16": {1: 610.0, 2: 1100.0}})
BUSY = Machine(2, "AVX2", {"float32": {1: 45.0, 2: 47.0}, "bfloat16": {1: 7.0, 2: 7.0}})


def config(**sections: object) -> Config:
    spec = {"name": "reasoning_gym", "task": "chain_sum"}
    sections = {"model": {"path": "m"}, "data": {"train": spec}} | sections
    return make_config(sections)


def test_bfloat16_is_taken_where_it_is_faster() -> None:
    assert fit(config(), AMX).config.model.dtype == "bfloat16"


def test_float32_is_taken_where_bfloat16_is_emulated_and_the_reason_says_so() -> None:
    fitted = fit(config(), AVX2)
    assert fitted.config.model.dtype == "float32"
    assert "bfloat16 runs at 0.15 of its speed" in fitted.reason
    assert not fitted.warning


def test_an_emulated_dtype_that_was_asked_for_is_obeyed_with_a_warning_that_names_the_ratio() -> None:
    fitted = fit(config(model={"path": "m", "dtype": "bfloat16"}), AVX2)
    assert fitted.config.model.dtype == "bfloat16"
    assert "0.15" in fitted.warning
    assert "set model.dtype: float32, or auto" in fitted.warning


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_suits_the_machine_is_obeyed_without_a_word(dtype: str) -> None:
    fitted = fit(config(model={"path": "m", "dtype": dtype}), AMX)
    assert (fitted.config.model.dtype, fitted.warning) == (dtype, "")


def test_all_cores_are_used_and_shared_by_the_processes_of_a_role() -> None:
    fitted = fit(config(generators={"count": 2}), AVX2).config
    assert (fitted.generators.num_threads, fitted.learner.num_threads) == (1, 2)


def test_threads_that_gain_nothing_are_left_out() -> None:
    fitted = fit(config(), BUSY).config
    assert (fitted.generators.num_threads, fitted.learner.num_threads) == (1, 1)


def test_threads_that_were_asked_for_are_kept() -> None:
    fitted = fit(config(generators={"num_threads": 1}, learner={"num_threads": 5}), AVX2).config
    assert (fitted.generators.num_threads, fitted.learner.num_threads) == (1, 5)


def test_on_a_joined_cluster_a_role_has_the_threads_that_it_reserves() -> None:
    fitted = fit(config(cluster={"address": "auto"}, generators={"num_cpus": 4}, learner={"num_cpus": 0.5}), AMX).config
    assert (fitted.generators.num_threads, fitted.learner.num_threads) == (4, 1)


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_on_a_gpu_the_card_decides(has_bfloat16: bool, dtype: str) -> None:
    machine = Machine(2, "AVX2", AVX2.gflops, gpu="a card", gpu_has_bfloat16=has_bfloat16)
    assert fit(config(generators={"num_gpus": 1}), machine).config.model.dtype == dtype


def test_a_fitted_config_leaves_nothing_open() -> None:
    assert is_open(config())
    assert not is_open(fit(config(), AVX2).config)


def test_a_resumed_run_keeps_what_its_first_start_chose(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(fit(config(), AVX2).config))
    settled = fit_to_machine(config(), saved=saved).config
    assert (settled.model.dtype, settled.generators.num_threads) == ("float32", 2)
    assert not is_open(take_over(config(), yaml.safe_load(saved.read_text())))


def test_what_the_command_asks_outright_wins_over_the_saved_choice() -> None:
    saved = {"model": {"dtype": "float32"}}
    assert take_over(config(model={"path": "m", "dtype": "bfloat16"}), saved).model.dtype == "bfloat16"


def test_a_command_that_starts_nothing_leaves_a_cluster_to_decide() -> None:
    fitted = fit_to_machine(config(cluster={"address": "auto"}))
    assert fitted.config.model.dtype == "auto"
    assert "on a node of the cluster" in fitted.reason


def test_a_machine_survives_its_way_through_json() -> None:
    assert from_json(json.dumps(asdict(AMX))) == AMX


def test_thread_counts_are_powers_of_two_and_all_cpus() -> None:
    assert [thread_counts(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]

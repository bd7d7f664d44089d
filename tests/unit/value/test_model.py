import json
import math
from pathlib import Path

import pytest
import torch

from tests.unit.value.fakes import HashEncoder
from v05ray.config import ValueConfig
from v05ray.errors import ConfigError
from v05ray.types import Prompt, SupportExample
from v05ray.value.bundle import HEADER_KEY, BundleInfo, load_bundle, save_bundle
from v05ray.value.embedding import EmbeddingCache
from v05ray.value.features import FeatureMap
from v05ray.value.head import HeadConfig, ValueHead
from v05ray.value.model import BaseRateBackend, EmbeddedBackend, ValueModel, base_rate, sample_support


def make_parts() -> tuple[FeatureMap, ValueHead, BundleInfo]:
    torch.manual_seed(0)
    features = FeatureMap(16, 4, bottleneck=8)
    head = ValueHead(HeadConfig(num_columns=features.num_columns, width=16, num_layers=2, num_heads=2))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    info = BundleInfo("hash", 16, 4, 8, head.head_config, (1.0, 0.0), False, 0, "a test")
    return features.eval(), head.eval(), info


def make_model(encoder: HashEncoder | None = None, **changes) -> ValueModel:
    encoder = encoder or HashEncoder()
    cache = EmbeddingCache(lambda: encoder, None, model_id="hash", width=16)
    options = {"support_size": 32, "min_support": 8, "choice": "test", **changes}
    return ValueModel(EmbeddedBackend(*make_parts(), cache), **options)


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(f"id {i}", text, (), "", "test") for i, text in enumerate(texts)]


def support(count: int, score: float | None = None) -> list[SupportExample]:
    return [
        SupportExample(f"s{i}", f"question {i}", (1 - 2 * (i % 2)) if score is None else score, 1) for i in range(count)
    ]


def test_one_prior_per_prompt_in_order_within_bounds():
    priors = make_model().predict(prompts("a", "b", "c"), support(20), policy_version=7, seed=0)
    assert [prior.prompt_id for prior in priors] == ["id 0", "id 1", "id 2"]
    assert {prior.policy_version for prior in priors} == {7}
    assert {prior.origin for prior in priors} == {"v0"}
    assert all(abs(prior.value) <= 0.95 for prior in priors)
    assert len({prior.value for prior in priors}) == 3


def test_a_text_met_before_is_neither_embedded_nor_mapped_again():
    encoder = HashEncoder()
    model = make_model(encoder)
    (first,) = model.predict(prompts("a"), support(20), policy_version=0, seed=0)
    assert len(encoder.asked) == 21
    (second,) = model.predict(prompts("a"), support(20, 1.0), policy_version=0, seed=0)
    (third,) = model.predict(prompts("a"), support(20), policy_version=0, seed=0)
    assert len(encoder.asked) == 21
    assert first.value == third.value != second.value


def test_a_small_support_gives_its_base_rate_and_says_so():
    model = make_model()
    # Laplace: (6 * 1 + 1) / (6 + 2) = .875, V = .75.
    (prior,) = model.predict(prompts("a"), support(6, 1.0), policy_version=0, seed=0)
    assert (prior.value, prior.origin) == (0.75, "base_rate")
    (prior,) = model.predict(prompts("a"), [], policy_version=0, seed=0)
    assert (prior.value, prior.origin) == (0.0, "base_rate")
    assert base_rate([-1, -1]) == 0.25


@pytest.mark.parametrize("score", [-1.0, 1.0])
def test_a_support_of_one_class_is_answered_with_a_finite_clipped_prior(score: float):
    priors = make_model().predict(prompts("a", "b"), support(40, score), policy_version=0, seed=0)
    assert all(math.isfinite(prior.value) and abs(prior.value) <= 0.95 for prior in priors)


def test_equal_texts_get_equal_priors_and_are_counted():
    model = make_model()
    one, two, other = model.predict(prompts("a", "a", "b"), support(20), policy_version=0, seed=0)
    assert one.value == two.value != other.value
    assert model.metrics()["v05/value_duplicates"] == 1


def test_the_seed_decides_the_sample_of_a_large_support():
    model = make_model()
    first, again, other = (
        model.predict(prompts("a"), support(100), policy_version=0, seed=seed)[0].value for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(sample_support(support(100), 32, 1)) == 32
    assert sample_support(support(10), 32, 1) == support(10)


def test_an_unchanged_support_is_conditioned_on_once_and_a_changed_label_again():
    model = make_model()
    pairs = support(20)
    first = model.predict(prompts("a"), pairs, policy_version=0, seed=0)
    second = model.predict(prompts("a"), pairs, policy_version=1, seed=9)
    assert model.metrics()["v05/value_support_cache_hits"] == 1
    assert first[0].value == second[0].value
    pairs[3] = SupportExample("s3", "question 3", 0.5, 1)
    assert model.predict(prompts("a"), pairs, policy_version=1, seed=9)[0].value != first[0].value
    assert model.metrics()["v05/value_support_cache_hits"] == 1


@pytest.mark.parametrize("score", [1.5, -1.01, math.nan])
def test_scores_off_the_scale_are_refused_by_name(score: float):
    pairs = [*support(20), SupportExample("odd", "text", score, 0)]
    with pytest.raises(ValueError, match=r"'odd' has score .*expected a mean reward in \[-1, 1\]"):
        make_model().predict(prompts("a"), pairs, policy_version=0, seed=0)


def test_nan_from_the_backbone_is_an_error_not_a_prior():
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_model(HashEncoder(nan_for="a")).predict(prompts("a"), support(20), policy_version=0, seed=0)


def test_nan_from_the_head_is_an_error_not_a_prior():
    model = make_model()
    assert isinstance(model.backend, EmbeddedBackend)
    with torch.no_grad():
        last = model.backend.head.output_projection[2]
        assert isinstance(last, torch.nn.Linear)
        last.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="gave nan"):
        model.predict(prompts("a"), support(20), policy_version=0, seed=0)
    assert model.metrics()["v05/value_nonfinite"] == 1


def test_long_prompts_are_counted():
    model = make_model()
    model.predict(prompts("long " * 50, "short"), support(20), policy_version=0, seed=0)
    assert model.metrics()["v05/value_truncated"] == 1


def test_no_prompts_no_priors():
    assert make_model().predict([], support(20), policy_version=0, seed=0) == []


def test_a_bundle_comes_back_as_it_was(tmp_path: Path):
    features, head, info = make_parts()
    path = tmp_path / "b.safetensors"
    save_bundle(path, features, head, info)
    loaded_features, loaded_head, loaded_info = load_bundle(path)
    assert loaded_info == info
    for one, other in ((features, loaded_features), (head, loaded_head)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])


def rewrite(path: Path, change) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, header)
    save_file(tensors, str(path), metadata={HEADER_KEY: json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.pop("head.target_embedder.weight"), r"missing: target_embedder\.weight"),
        (lambda t, h: t.update({"head.more": torch.zeros(1)}), "unexpected: more"),
        (lambda t, h: t.update({"other.more": torch.zeros(1)}), r"unknown tensors: other\.more"),
        (lambda t, h: t.update({"features.mean_H": torch.zeros(3)}), r"mean_H \(3,\), expected \(16,\)"),
        (lambda t, h: t["features.mean_H"].fill_(math.nan), "NaN or infinity: mean_H"),
        (lambda t, h: h.update(format=1), "has format 1, this version of v05ray reads 2"),
        (lambda t, h: h.update(statistics=[]), "text statistics"),
        (lambda t, h: h.update(info={}), "unreadable header"),
        (lambda t, h: h["info"]["head"].update(num_columns=22), "21 columns"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused_by_name(tmp_path: Path, change, message: str):
    path = tmp_path / "b.safetensors"
    save_bundle(path, *make_parts())
    rewrite(path, change)
    with pytest.raises(ConfigError, match=message):
        load_bundle(path)


def test_a_missing_or_foreign_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.safetensors does not exist; make one with"):
        load_bundle(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_text("hello")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        load_bundle(tmp_path / "x.safetensors")


def test_auto_takes_the_shipped_bundle_and_says_so():
    model = ValueModel.load(ValueConfig())
    assert model.choice.startswith("value model: bundle v0-minilm.safetensors (auto)")
    assert isinstance(model.backend, EmbeddedBackend)


def test_the_base_rate_backend_answers_the_base_rate_for_any_support():
    model = ValueModel.load(ValueConfig.model_validate({"backend": "base_rate"}))
    assert isinstance(model.backend, BaseRateBackend)
    (prior,) = model.predict(prompts("a"), support(98, 0.0), policy_version=0, seed=0)
    assert (prior.value, prior.origin) == (0.0, "base_rate")


def test_a_named_bundle_that_is_missing_is_an_error_even_for_auto(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        ValueModel.load(ValueConfig(bundle=tmp_path / "none.safetensors"))

"""The published architecture on random weights: strict loads, no pickles, and the ensemble's arithmetic."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tabpfn.architectures import tabpfn_v2_5
from torch import Tensor, nn

from v05ray.config import PublishedValueConfig, ValueConfig
from v05ray.errors import ConfigError
from v05ray.value.adapter import AdapterConfig, TokenAdapter
from v05ray.value.model import ValueModel
from v05ray.value.published import PublishedEmbedding, PublishedHead, load_embedding, load_head

ADAPTER = AdapterConfig(hidden_width=8, num_queries=4, query_width=6, bottleneck=5)
HEAD = tabpfn_v2_5.TabPFNV2p5Config(
    max_num_classes=10, emsize=16, nlayers=2, nhead=2, features_per_group=3, num_thinking_rows=4
)


def scatter(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module


def trained() -> PublishedEmbedding:
    model = PublishedEmbedding(nn.Linear(3, 8), TokenAdapter(ADAPTER))
    scatter(model)
    return model


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model_state_dict": state}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_fills_backbone_and_adapter(tmp_path: Path, prefix: str):
    source = trained().state_dict()
    path = write(tmp_path / "v0.pt", {prefix + name: tensor for name, tensor in source.items()})
    loaded = load_embedding(path, nn.Linear(3, 8), TokenAdapter(ADAPTER))
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, source[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("adapter_layer.generator.4.weight"), r"missing: adapter_layer\.generator\.4\.weight"),
        (lambda s: s.pop("backbone.weight"), r"missing: backbone\.weight"),
        (lambda s: s.update({"adapter_layer.more": torch.zeros(1)}), r"unexpected: adapter_layer\.more"),
        (
            lambda s: s.update({"adapter_layer.proj_kv.weight": torch.zeros(6, 9)}),
            r"proj_kv\.weight \(6, 9\), expected",
        ),
        (lambda s: s["adapter_layer.static_queries"].fill_(torch.nan), r"NaN or infinity: adapter_layer\.static"),
    ],
)
def test_a_checkpoint_that_does_not_match_is_refused(tmp_path: Path, change, message: str):
    state = trained().state_dict()
    change(state)
    with pytest.raises(ConfigError, match=message):
        load_embedding(write(tmp_path / "v0.pt", state), nn.Linear(3, 8), TokenAdapter(ADAPTER))


class Sabotage:
    def __reduce__(self):
        return (Path.touch, (Path("pickle-was-run"),))


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Sabotage()}, "v0.pt")
    with pytest.raises(ConfigError, match="not a torch file of plain tensors"):
        load_embedding(Path("v0.pt"), nn.Linear(3, 8), TokenAdapter(ADAPTER))
    Path("head.ckpt").write_bytes(pickle.dumps(Sabotage(), protocol=2))
    with pytest.raises(ConfigError, match="not a torch file of plain tensors"):
        load_head(Path("head.ckpt"))
    assert not Path("pickle-was-run").exists()


def test_a_file_of_another_kind_is_named(tmp_path: Path):
    torch.save({"weights": 1}, tmp_path / "v0.pt")
    with pytest.raises(ConfigError, match=r"no V0 checkpoint: .*got \['weights'\]"):
        load_embedding(tmp_path / "v0.pt", nn.Linear(3, 8), TokenAdapter(ADAPTER))


def make_head() -> tabpfn_v2_5.TabPFNV2p5:
    head = tabpfn_v2_5.get_architecture(HEAD)
    scatter(head)
    return head.eval()


def save_head(path: Path, head: nn.Module, **changes) -> Path:
    content = {
        "state_dict": {**head.state_dict(), "criterion.weight": torch.ones(10)},
        "config": dataclasses.asdict(HEAD),
        "architecture_name": "tabpfn_v2_5",
        **changes,
    }
    if path.suffix == ".safetensors":
        from tabpfn.checkpoint import save_as_safetensors

        save_as_safetensors(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["head.ckpt", "head.safetensors"])
def test_both_of_tabpfns_formats_load(tmp_path: Path, name: str):
    head = make_head()
    loaded = load_head(save_head(tmp_path / name, head))
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, head.state_dict()[key])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture_name": "tabpfn_v3"}, "holds the architecture 'tabpfn_v3'"),
        ({"config": {**dataclasses.asdict(HEAD), "max_num_classes": -1}}, "not a classifier"),
        ({"state_dict": {}}, "missing: "),
        ({"config": {**dataclasses.asdict(HEAD), "emsize": 32}}, "misshapen: "),
    ],
)
def test_another_head_is_refused(tmp_path: Path, changes, message: str):
    with pytest.raises(ConfigError, match=message):
        load_head(save_head(tmp_path / "head.ckpt", make_head(), **changes))


def test_files_that_are_no_head_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.ckpt does not exist"):
        load_head(tmp_path / "none.ckpt")
    save_file({"a": torch.zeros(1)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(ConfigError, match="no TabPFN checkpoint"):
        load_head(tmp_path / "a.safetensors")


def task(num_columns: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(30, num_columns, generator=generator),
        torch.rand(30, generator=generator),
        torch.randn(6, num_columns, generator=generator),
    )


def margins(head: PublishedHead, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    with torch.inference_mode():
        return head.cached_margins(head.condition(support, labels), queries)


def test_one_member_is_the_bare_architecture_at_tabpfns_temperature():
    model = make_head()
    support, labels, queries = task()
    with torch.inference_mode():
        rows = torch.cat([support, queries])[:, None]
        logits = model(rows, (labels >= 0.5).float()[:, None])[:, 0]
    expected = (logits[:, 1] - logits[:, 0]) / 0.9
    assert torch.allclose(margins(PublishedHead(model, 24, 1), support, labels, queries), expected, atol=1e-5)


def test_two_members_average_the_plain_and_the_swapped_view():
    model = make_head()
    support, labels, queries = task()
    head = PublishedHead(model, 24, 2)
    order = head._members[1].order_D
    plain = margins(PublishedHead(model, 24, 1), support, labels, queries)
    other = margins(PublishedHead(model, 24, 1), support[:, order], (labels < 0.5).float(), queries[:, order])
    assert torch.allclose(margins(head, support, labels, queries), (plain - other) / 2, atol=1e-5)


@pytest.mark.parametrize("column", range(24))
def test_no_column_is_dropped(column: int):
    model = make_head()
    support, labels, queries = task()
    changed = queries.clone()
    changed[:, column] += 1
    head = PublishedHead(model, 24, 1)
    assert float((margins(head, support, labels, changed) - margins(head, support, labels, queries)).abs().min()) > 1e-6


def test_the_published_backend_without_files_says_what_it_needs(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"value\.published\.checkpoint, \.backbone and \.head.*non-commercial"):
        ValueModel.load(ValueConfig.model_validate({"backend": "published"}))
    files = PublishedValueConfig(checkpoint=tmp_path / "v0.pt", backbone=tmp_path, head=tmp_path / "h.ckpt")
    with pytest.raises(ConfigError, match=r"v0\.pt does not exist; the weights are gated"):
        ValueModel.load(ValueConfig(published=files))

import pytest
import torch

from v05ray.value.head import HeadConfig, ValueHead, head_config_from

CONFIG = HeadConfig(num_columns=6, width=16, num_layers=2, num_heads=2, num_thinking_rows=2)


@pytest.fixture
def head() -> ValueHead:
    """Random weights throughout: the architecture starts with zeroed output layers, which would hide everything."""
    torch.manual_seed(0)
    head = ValueHead(CONFIG)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return head.eval()


def rows(num_support: int = 20, num_queries: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(num_support, 6, generator=generator),
        torch.rand(num_support, generator=generator),
        torch.randn(num_queries, 6, generator=generator),
    )


def margins(head: ValueHead, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return head.margins(support[None], labels[None], queries[None])[0]


def test_the_cached_answer_is_the_full_one(head: ValueHead):
    support, labels, queries = rows()
    with torch.inference_mode():
        cached = head.cached_margins(head.condition(support, labels), queries)
    assert torch.allclose(cached, margins(head, support, labels, queries), atol=1e-6)


@pytest.mark.parametrize("column", range(6))
def test_every_column_of_a_query_changes_its_answer(head: ValueHead, column: int):
    support, labels, queries = rows()
    changed = queries.clone()
    changed[:, column] += 0.5
    difference = (margins(head, support, labels, changed) - margins(head, support, labels, queries)).abs()
    assert float(difference.min()) > 1e-5


@pytest.mark.parametrize("column", range(6))
def test_every_column_of_the_support_changes_the_answer(head: ValueHead, column: int):
    support, labels, queries = rows()
    changed = support.clone()
    changed[0, column] += 0.5
    difference = (margins(head, changed, labels, queries) - margins(head, support, labels, queries)).abs()
    assert float(difference.max()) > 1e-6


def test_soft_labels_are_not_thresholded(head: ValueHead):
    support, labels, queries = rows()
    changed = labels.clone()
    changed[0] = 0.9 * labels[0]
    assert not torch.equal(margins(head, support, changed, queries), margins(head, support, labels, queries))


def test_a_query_does_not_depend_on_the_queries_beside_it(head: ValueHead):
    support, labels, queries = rows()
    alone = margins(head, support, labels, queries[:1])
    assert torch.allclose(alone, margins(head, support, labels, queries)[:1], atol=1e-6)


def test_the_order_of_the_support_does_not_matter(head: ValueHead):
    support, labels, queries = rows()
    order = torch.randperm(len(support))
    shuffled = margins(head, support[order], labels[order], queries)
    assert torch.allclose(shuffled, margins(head, support, labels, queries), atol=1e-5)


def test_a_column_constant_in_the_support_is_ignored_and_moves_no_other(head: ValueHead):
    support, labels, queries = rows()
    support[:, 2] = 3.0
    changed = queries.clone()
    changed[:, 2] = 100.0
    answer = margins(head, support, labels, queries)
    assert torch.equal(margins(head, support, labels, changed), answer)
    other = queries.clone()
    other[:, 4] += 0.5
    assert not torch.allclose(margins(head, support, labels, other), answer, atol=1e-6)


def test_columns_may_have_any_offset_and_all_but_the_difficulty_any_scale(head: ValueHead):
    support, labels, queries = rows()
    scale = torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0, 50.0])
    plain = margins(head, support, labels, queries)
    assert torch.allclose(margins(head, support * scale + 7, labels, queries * scale + 7), plain, atol=1e-4)
    scale[0] = 2.0
    assert not torch.allclose(margins(head, support * scale, labels, queries * scale), plain, atol=1e-4)


def test_gradients_reach_support_labels_and_queries(head: ValueHead):
    support, labels, queries = (tensor.clone().requires_grad_() for tensor in rows())
    head.margins(support[None], labels[None], queries[None]).sum().backward()
    for tensor in (support, labels, queries):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().sum()) > 0


def test_another_number_of_columns_is_refused(head: ValueHead):
    support, labels, queries = rows()
    with pytest.raises(ValueError, match="the head takes 6 columns, got 5"):
        margins(head, support[:, :5], labels, queries[:, :5])


def test_a_head_config_with_other_names_is_refused():
    with pytest.raises(ValueError, match="expected"):
        head_config_from({"num_columns": 6})

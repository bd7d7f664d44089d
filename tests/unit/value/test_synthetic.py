import torch

from v05ray.value.synthetic import TaskSampler


def sampler(seed: int = 0, *, families: bool = True) -> TaskSampler:
    generator = torch.Generator().manual_seed(99)
    tables = [torch.randn(20, 10, generator=generator) + 3 * i for i in range(6)] if families else []
    return TaskSampler(tables, 6, 10, torch.Generator().manual_seed(seed))


def test_shapes_and_ranges():
    for families in (True, False):
        batch = sampler(families=families).draw(12, 24, 8)
        assert batch.columns_BND.shape == (12, 32, 11)
        assert batch.labels_BS.shape == (12, 24)
        assert batch.rates_BQ.shape == (12, 8)
        assert bool(batch.columns_BND.isfinite().all())
        assert float(batch.labels_BS.min()) >= 0
        assert float(batch.labels_BS.max()) <= 1
        assert float(batch.rates_BQ.min()) > 0
        assert float(batch.rates_BQ.max()) < 1


def test_equal_seeds_draw_equal_tasks():
    one, other = sampler(3).draw(4, 16, 4), sampler(3).draw(4, 16, 4)
    assert torch.equal(one.columns_BND, other.columns_BND)
    assert torch.equal(one.labels_BS, other.labels_BS)
    assert torch.equal(one.rates_BQ, other.rates_BQ)


def test_the_difficulty_column_is_absent_in_half_of_the_tasks_and_a_hint_in_the_rest():
    batch = sampler().draw(100, 8, 32, clarity=1.0)
    hints = batch.columns_BND[:, 8:, 0]
    absent = (hints == 0).all(dim=1)
    assert 30 < int(absent.sum()) < 70
    correlations = [
        float(torch.corrcoef(torch.stack([hint, rate]))[0, 1])
        for hint, rate, no in zip(hints, batch.rates_BQ, absent, strict=True)
        if not no
    ]
    assert 0.2 < sum(correlations) / len(correlations) < 0.9

"""Made-up value-estimation tasks for pretraining the head: which prompts does this policy solve?

Each task draws a hidden success rate p(x) over the columns of some prompts and shows the head, for the support rows, a
mean score of few rollouts (or that mean thresholded). The columns come from Gaussian mixtures in half of the tasks and
from real questions of procedural families in the other half. The difficulty column, first of all, is constant in many
tasks and a hint of any quality in the others. Legend: B tasks, N = S + Q rows, D columns with the difficulty, F = D - 1
without, P the projected ones among them (they come first), C clusters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

NUM_ROLLOUTS = (1, 4, 4, 5, 8, 10, 16)
"""Rollouts behind one support score, drawn per task; 4 (the cold start) twice."""


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Some tasks of one shape."""

    columns_BND: Tensor
    labels_BS: Tensor
    """In [0, 1]: the support's mean success of a few rollouts."""
    rates_BQ: Tensor
    """In (0, 1): the queries' true success rate, the target."""


class TaskSampler:
    """Draws task batches; everything random comes from `generator`."""

    def __init__(self, families: Sequence[Tensor], num_projected: int, num_columns: int, generator: Generator) -> None:
        """`families`: columns [n_f, F] of each family's questions; empty means Gaussian columns only.

        `num_columns` is F. A batch's first column, the difficulty, is made here.
        """
        kept = [family for family in families if len(family) >= 8]
        self.num_families = len(kept)
        self._table = torch.cat(kept) if kept else torch.zeros(0, num_columns)
        self._sizes = torch.tensor([len(family) for family in kept])
        self._offsets = self._sizes.cumsum(0) - self._sizes
        self.num_projected = num_projected
        self.num_columns = num_columns
        self._generator = generator

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator)

    def _integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self._generator))

    def _gaussian_columns(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """One task's columns [N, F] and clusters [N]: a mixture, sometimes with mixed or skewed columns."""
        num_clusters = self._integer(1, 12)
        cluster_N = torch.randint(0, num_clusters, (num_rows,), generator=self._generator)
        columns_NF = self._normal(num_rows, self.num_columns)
        if num_clusters > 1:
            centres_CF = self._normal(num_clusters, self.num_columns) * self._uniform(1) * 1.5
            columns_NF = 0.7 * columns_NF + centres_CF[cluster_N]
        if float(self._uniform(1)) < 0.3:
            columns_NF = columns_NF @ self._normal(self.num_columns, self.num_columns) / math.sqrt(self.num_columns)
        return columns_NF, cluster_N

    def _family_columns(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """One task's columns from one, a few or many families, and the family of each row.

        A row is a random point between two questions of its family: the bank is small, and rows that come twice would
        teach the head to look for duplicates instead of trends.
        """
        ceiling = self.num_families + 1
        num_families = (1, self._integer(2, min(9, ceiling)), self._integer(2, ceiling))[self._integer(0, 3)]
        chosen = torch.randperm(self.num_families, generator=self._generator)[:num_families]
        cluster_N = torch.randint(0, num_families, (num_rows,), generator=self._generator)
        family_N = chosen[cluster_N]
        rows_2N = self._offsets[family_N] + (self._uniform(2, num_rows) * self._sizes[family_N]).long()
        share_N1 = self._uniform(num_rows, 1)
        between_NF = share_N1 * self._table[rows_2N[0]] + (1 - share_N1) * self._table[rows_2N[1]]
        return between_NF + 0.05 * self._normal(num_rows, self.num_columns), cluster_N

    def _score(self, columns_NF: Tensor, cluster_N: Tensor) -> Tensor:
        """One hidden function, standardised over the rows [N]: linear + smooth + stepped + per-cluster parts."""
        z_NF = (columns_NF - columns_NF.mean(0)) / (columns_NF.std(0) + 1e-3)
        z_NF = z_NF.clamp(-6, 6)
        num_columns = self.num_columns
        # Leading components matter more, by a random power law; the statistics behind them have a law of their own,
        # and in some tasks only a few of all columns matter at all.
        ranks_F = torch.arange(1, num_columns + 1).float()
        relevance_F = ranks_F ** -(1.5 * float(self._uniform(1)))
        relevance_F[self.num_projected :] = relevance_F[0] * float(self._uniform(1)) * 1.5
        relevance_F = relevance_F * (0.2 + self._uniform(num_columns))
        if float(self._uniform(1)) < 0.3:
            relevance_F = relevance_F * (self._uniform(num_columns) < 0.2)
        relevance_F = relevance_F / (relevance_F.norm() + 1e-6)
        linear_N = z_NF @ (self._normal(num_columns) * relevance_F)
        frequencies_FM = self._normal(num_columns, 128) * relevance_F[:, None]
        length_scale = math.exp(0.5 * float(self._normal(1)) + math.log(1.5))
        phases_M = self._uniform(128) * 2 * math.pi
        smooth_N = torch.cos(z_NF @ frequencies_FM / length_scale * 1.5 + phases_M) @ self._normal(128)
        hidden_NM = torch.tanh(
            z_NF @ (self._normal(num_columns, 16) * relevance_F[:, None]) * 2 + self._normal(16) * 0.5
        )
        stepped_N = hidden_NM @ self._normal(16)
        cluster_effect_N = self._normal(int(cluster_N.max()) + 1)[cluster_N]
        parts = torch.stack([_standardise(part) for part in (linear_N, smooth_N, stepped_N, cluster_effect_N)])
        weights = torch.tensor([1.2, 1.0, 1.0, 0.8]) * self._normal(4).abs()
        weights = weights * (self._uniform(4) < torch.tensor([0.85, 0.6, 0.5, 0.5])) + 1e-3
        return _standardise(weights @ parts)

    def _difficulty(
        self,
        columns_NF: Tensor,
        cluster_N: Tensor,
        score_N: Tensor,
        luck_N: Tensor,
        logit_N: Tensor,
        num_support: int,
    ) -> Tensor:
        """The hint [N] in log-odds: nothing, or part truth, part what other policies found hard, part noise.

        A little of what the other columns cannot explain is in it too, for a fitted direction sees all H dimensions;
        more of it in the support in half of the tasks, as where the direction was fitted on those very prompts. The
        slope of the true log-odds on the hint is 1 up to a log-normal factor.
        """
        if float(self._uniform(1)) < 0.5:
            return torch.zeros_like(score_N)
        other_N = self._score(columns_NF, cluster_N)
        truth, wrong, noise = self._uniform(3) * torch.tensor([1.0, 1.0, 0.7])
        hidden = 0.3 * self._uniform(1)
        hint_N = truth * score_N + wrong * other_N + hidden * luck_N + noise * self._normal(len(score_N))
        hint_N = hint_N - hint_N.mean()
        slope = (hint_N @ (logit_N - logit_N.mean())) / (hint_N @ hint_N + 1e-6)
        factor = math.exp(0.35 * float(self._normal(1)))
        if float(self._uniform(1)) < 0.5:
            hint_N[:num_support] += 0.3 * self._uniform(1) * luck_N[:num_support]
        return slope.clamp_min(0) * hint_N / factor

    def draw(self, num_tasks: int, num_support: int, num_queries: int, *, clarity: float = 0.0) -> TaskBatch:
        """A batch of tasks with S support and Q query rows each.

        `clarity` in [0, 1] takes away what the columns cannot explain: at 1 the tasks are as easy as they come.
        """
        num_rows = num_support + num_queries
        columns, labels, rates = [], [], []
        for _ in range(num_tasks):
            real = self.num_families > 1 and float(self._uniform(1)) < 0.5
            columns_NF, cluster_N = (self._family_columns if real else self._gaussian_columns)(num_rows)
            # How much of the difficulty the columns can explain, how much they cannot, and how good the policy is.
            explained = 0.15 * math.exp(float(self._uniform(1)) * math.log(20)) * (1 + 2 * clarity)
            unexplained = 3.5 * float(self._uniform(1)) * (1 - clarity)
            level = 1.3 * float(self._normal(1))
            score_N = self._score(columns_NF, cluster_N)
            luck_N = self._normal(num_rows)
            logit_N = explained * score_N + unexplained * luck_N
            rate_N = torch.sigmoid(level + logit_N)
            difficulty_N = self._difficulty(columns_NF, cluster_N, score_N, luck_N, logit_N, num_support)
            num_rollouts = float(NUM_ROLLOUTS[self._integer(0, len(NUM_ROLLOUTS))])
            counts_S = torch.binomial(
                torch.full((num_support,), num_rollouts), rate_N[:num_support], generator=self._generator
            )
            label_S = counts_S / num_rollouts
            if float(self._uniform(1)) < 0.2:
                label_S = (label_S >= 0.5).float()
            columns.append(torch.cat([difficulty_N[:, None], columns_NF], dim=1))
            labels.append(label_S)
            rates.append(rate_N[num_support:])
        return TaskBatch(torch.stack(columns), torch.stack(labels), torch.stack(rates))


def _standardise(values_N: Tensor) -> Tensor:
    return (values_N - values_N.mean()) / (values_N.std() + 1e-6)

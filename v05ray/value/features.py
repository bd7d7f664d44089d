"""From a prompt to the columns that the head sees: a projected embedding beside plain statistics of the text.

x = [ u . c,  W (e - m) / s + r(e),  t' ]     t' = (t - t_mean) / t_scale,  c = [ (e - m) / s_e, t' / sqrt(S), g ]

e: pooled embedding, t: `text_statistics`, g: `text_ngrams`, W: projection (principal components), r: residual
bottleneck whose last layer starts at zero (V0's residual query adapter, pooled), u: a difficulty direction that `value
train` fits over all policies, zero until then (a constant column says nothing to the head). The three parts of c have
mean squared length 1 each, so a ridge on u weighs them alike. What a sentence embedding blurs (length, digits, how much
notation, the wording itself) carries difficulty too, so it is fed beside it. Legend of shapes: N prompts, H embedding
width, P projected columns, S statistics, G n-gram buckets, C = H + S + G inputs of the difficulty, D = 1 + P + S
columns.
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from v05ray.value.ngrams import NUM_BUCKETS

STATISTICS = (
    "log_chars",
    "log_words",
    "log_digits",
    "log_numbers",
    "log_longest_number",
    "log_sum_of_number_lengths_squared",
    "log_operators",
    "log_latex_commands",
    "log_math_marks",
    "log_punctuation",
    "log_lines",
    "share_of_non_ascii",
    "share_of_capitals",
    "mean_word_length",
    "log_questions",
    "log_symbols",
)
"""Columns of `text_statistics`, in order."""

_NUMBER = re.compile(r"\d+")
_LATEX = re.compile(r"\\[A-Za-z]+")
_OPERATOR = re.compile(r"[-+*/^=<>×÷±≤≥]")
_MATH_MARK = re.compile(r"[$_^{}]")
_PUNCTUATION = re.compile(r"[.,;:!]")
_SYMBOL = re.compile(r"[^\w\s]")


def text_statistics(text: str) -> list[float]:
    """The S surface statistics of one prompt, each at least 0: logs are log(1 + count), shares lie in [0, 1]."""
    numbers = [len(match) for match in _NUMBER.findall(text)]
    words = text.split()
    num_chars = max(1, len(text))
    counts = (
        len(text),
        len(words),
        sum(numbers),
        len(numbers),
        max(numbers, default=0),
        sum(length * length for length in numbers),
        len(_OPERATOR.findall(text)),
        len(_LATEX.findall(text)),
        len(_MATH_MARK.findall(text)),
        len(_PUNCTUATION.findall(text)),
        text.count("\n"),
    )
    return [
        *(math.log1p(count) for count in counts),
        sum(not character.isascii() for character in text) / num_chars,
        sum(character.isupper() for character in text) / num_chars,
        math.log1p(sum(map(len, words)) / max(1, len(words))),
        math.log1p(text.count("?")),
        math.log1p(len(_SYMBOL.findall(text))),
    ]


def statistics_tensor(texts: Sequence[str]) -> Tensor:
    """float32 [N, S]."""
    return torch.tensor([text_statistics(text) for text in texts], dtype=torch.float32).reshape(-1, len(STATISTICS))


class FeatureMap(nn.Module):
    """Pooled residual adapter; see the module docstring for its equation.

    Projection, residual and difficulty are trained; the means and scales are buffers that `fit` sets.
    """

    mean_H: Tensor
    scale: Tensor
    spread: Tensor
    statistics_mean_S: Tensor
    statistics_scale_S: Tensor

    def __init__(self, width: int, num_projected: int, *, bottleneck: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        num_statistics = len(STATISTICS)
        self.width = width
        self.num_projected = num_projected
        self.bottleneck = bottleneck
        self.projection = nn.Linear(width, num_projected, bias=False)
        last = nn.Linear(bottleneck, num_projected)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(
            nn.Linear(width, bottleneck), nn.LayerNorm(bottleneck), nn.GELU(), nn.Dropout(dropout), last
        )
        self.difficulty = nn.Linear(self.num_inputs, 1, bias=False)
        nn.init.zeros_(self.difficulty.weight)
        self.register_buffer("mean_H", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("statistics_mean_S", torch.zeros(num_statistics))
        self.register_buffer("statistics_scale_S", torch.ones(num_statistics))

    @property
    def num_inputs(self) -> int:
        """C, the width of a row of `inputs`."""
        return self.width + len(STATISTICS) + NUM_BUCKETS

    @property
    def num_columns(self) -> int:
        """D, the number of columns."""
        return 1 + self.num_projected + len(STATISTICS)

    @torch.no_grad()
    def fit(self, embeddings_NH: Tensor, statistics_NS: Tensor) -> None:
        """Sets projection, means and scales from a corpus: its first P principal components, signs fixed.

        Raises `ValueError` for fewer than P + 1 rows.
        """
        if len(embeddings_NH) <= self.num_projected:
            raise ValueError(f"{self.num_projected} components need more rows than that, got {len(embeddings_NH)}")
        self.mean_H.copy_(embeddings_NH.mean(0))
        centred_NH = (embeddings_NH - self.mean_H).double()
        _, vectors_HH = torch.linalg.eigh(centred_NH.T @ centred_NH)
        components_PH = vectors_HH.flip(1)[:, : self.num_projected].T
        # An eigenvector's sign is arbitrary: make its largest entry positive, so that machines agree.
        largest_P = components_PH.gather(1, components_PH.abs().argmax(1, keepdim=True))
        components_PH = components_PH * largest_P.sign()
        self.projection.weight.copy_(components_PH.float())
        self.scale.copy_((centred_NH @ components_PH.T).std().float())
        self.spread.copy_(centred_NH.square().sum(1).mean().sqrt().float())
        self.statistics_mean_S.copy_(statistics_NS.mean(0))
        self.statistics_scale_S.copy_(statistics_NS.std(0).clamp_min(1e-3))

    def standardised(self, statistics_NS: Tensor) -> Tensor:
        """t' [N, S]."""
        return (statistics_NS - self.statistics_mean_S) / self.statistics_scale_S

    def inputs(self, embeddings_NH: Tensor, statistics_NS: Tensor, ngrams_NG: Tensor) -> Tensor:
        """c [N, C]."""
        statistics_NS = self.standardised(statistics_NS) / math.sqrt(len(STATISTICS))
        return torch.cat([(embeddings_NH - self.mean_H) / self.spread, statistics_NS, ngrams_NG], dim=-1)

    def forward(self, embeddings_NH: Tensor, statistics_NS: Tensor, ngrams_NG: Tensor) -> Tensor:
        """[N, H], [N, S] and [N, G] to columns [N, D]."""
        difficulty_N1 = self.difficulty(self.inputs(embeddings_NH, statistics_NS, ngrams_NG))
        centred_NH = embeddings_NH - self.mean_H
        # Unit vectors of H dimensions have entries near 1 / sqrt(H): the bottleneck gets them at unit size.
        residual_NP = self.residual(centred_NH * math.sqrt(self.width))
        projected_NP = self.projection(centred_NH) / self.scale + residual_NP
        return torch.cat([difficulty_N1, projected_NP, self.standardised(statistics_NS)], dim=-1)

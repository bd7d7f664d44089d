"""V0 beside simpler predictors on recorded scores: held-out prompts, and policies it never saw.

Three protocols, all with support and queries of one policy and no text in both:

- `evaluate_pool`: a fixed pool of context records, queries from another file. V0 is taken as it is.
- `evaluate_splits`: several seeded splits by text, everything trained on each split's training prompts.
- `evaluate_unseen_policies`: as one of those splits, and the policy that is asked about is left out of all training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed
from v05ray.value.baselines import Predictor, all_baselines
from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.head import ValueHead
from v05ray.value.model import Backend
from v05ray.value.predicting import predict_rows, probabilities, sample_rows
from v05ray.value.pretrain import Report, stderr_line
from v05ray.value.records import held_out_texts
from v05ray.value.scores import HIGHER_IS_BETTER, METRICS, Interval, ReliabilityBin, Split, bootstrap, reliability
from v05ray.value.train import fit
from v05ray.value.trainer import RowSplit, TrainOptions

MakePredictors = Callable[[], Sequence[Predictor]]


class BackendPredictor:
    """Any backend of the value model, as it is."""

    name = "v0"

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Does nothing: the backend is trained already."""

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """The backend's own answers."""
        support = [data.texts[i] for i in data.text_N[support_rows]]
        queries = [data.texts[i] for i in data.text_N[query_rows]]
        labels = data.rate_N[support_rows].tolist()
        return np.array(self._backend.probabilities(queries, support, labels, (tuple(support), tuple(labels))))


class TrainedPredictor:
    """The embedded V0, trained from `start` on the training rows."""

    name = "v0"

    def __init__(
        self, start: tuple[FeatureMap, ValueHead], options: TrainOptions, report: Report = stderr_line
    ) -> None:
        self._start = start
        self._options = options
        self._report = report

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Trains a copy; a share of the training prompts stops it early and calibrates it."""
        options = replace(self._options, seed=seed)
        texts = np.unique(data.text_N[train_rows])
        shuffled = np.random.default_rng(derive_seed("value validation", seed)).permutation(texts)
        validating = np.isin(data.text_N[train_rows], shuffled[: round(options.validation_share * len(shuffled))])
        split = RowSplit(train_rows[~validating], train_rows[validating], np.zeros(0, int))
        self._trained = fit(self._start, data, split, options, report=self._report)

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """Calibrated success rates."""
        trained = self._trained
        margins = predict_rows(trained.features, trained.head, data, support_rows, query_rows)
        return probabilities(margins, trained.calibration)


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Metrics of each method with intervals, and what was left out."""

    protocol: str
    num_queries: int
    """Query rows of one split, on average."""
    num_policies: int
    num_splits: int
    support_size: int
    num_leaking: int
    """Query rows left out because their own prompt is in the context of the same policy."""
    methods: dict[str, dict[str, Interval]]
    """`[method][metric]`, and `METHOD - v0` for the paired differences."""
    reliability: dict[str, list[ReliabilityBin]]
    """Over the rows of all splits."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def to_text(self) -> str:
        """The table a person reads: one line per method, 95 % intervals; then what V0 said and what came."""
        lines = [
            f"{self.protocol}: {self.num_queries} queries, {self.num_policies} policies, {self.num_splits} split(s), "
            f"support {self.support_size}, {self.num_leaking} left out for being in the context",
            f"{'':<22}" + "".join(f"{name:>24}" for name in METRICS),
        ]
        for method, metrics in self.methods.items():
            lines.append(f"{method:<22}" + "".join(f"{metrics[name]!s:>24}" for name in METRICS))
        lines.append("better: higher for " + ", ".join(sorted(HIGHER_IS_BETTER)) + "; lower for the others")
        lines.append(f"\n{'v0 says':>12}{'count':>8}{'predicted':>12}{'observed':>12}")
        for one in self.reliability.get("v0", []):
            lines.append(
                f"{one.low:>7.1f}-{one.high:.1f}{one.count:>9}{one.mean_predicted:>11.3f}{one.mean_observed:>12.3f}"
            )
        return "\n".join(lines)


def predict_split(
    data: EncodedRecords,
    predictors: Sequence[Predictor],
    support_rows: np.ndarray,
    query_rows: np.ndarray,
    *,
    support_size: int,
    seed: int,
) -> Split:
    """Everyone's answers to the same queries, each policy's from the same seeded sample of its support rows.

    Raises `ConfigError` where a queried policy has no support at all.
    """
    answers = {predictor.name: np.zeros(len(query_rows)) for predictor in predictors}
    for policy in np.unique(data.policy_N[query_rows]):
        pool = data.rows_of(int(policy), support_rows)
        if len(pool) == 0:
            raise ConfigError(f"there is no context for {data.policies[policy]}; add its records to --context")
        chosen = sample_rows(pool, support_size, seed, int(policy))
        places = np.flatnonzero(data.policy_N[query_rows] == policy)
        for predictor in predictors:
            answers[predictor.name][places] = predictor.predict(data, chosen, query_rows[places])
    return Split(data.text_N[query_rows], data.policy_N[query_rows], data.rate_N[query_rows], answers)


def summarise(
    protocol: str,
    data: EncodedRecords,
    splits: Sequence[Split],
    *,
    support_size: int,
    num_leaking: int = 0,
    num_resamples: int = 1000,
    seed: int = 0,
) -> EvaluationReport:
    """Metrics with intervals, and reliability, of some splits."""
    observed = np.concatenate([split.y for split in splits])
    return EvaluationReport(
        protocol=protocol,
        num_queries=round(len(observed) / len(splits)),
        num_policies=len(np.unique(np.concatenate([split.group for split in splits]))),
        num_splits=len(splits),
        support_size=support_size,
        num_leaking=num_leaking,
        methods=bootstrap(splits, num_resamples=num_resamples, seed=seed),
        reliability={
            name: reliability(np.concatenate([split.predictions[name] for split in splits]), observed)
            for name in splits[0].predictions
        },
    )


def evaluate_pool(
    data: EncodedRecords,
    context_rows: np.ndarray,
    query_rows: np.ndarray,
    backend: Backend,
    *,
    baselines: MakePredictors = all_baselines,
    support_size: int = 256,
    num_resamples: int = 1000,
    seed: int = 0,
) -> EvaluationReport:
    """V0 as it is and all baselines; queries whose prompt is in their policy's context are left out and counted."""
    known = set(zip(data.policy_N[context_rows].tolist(), data.text_N[context_rows].tolist(), strict=True))
    pairs = zip(data.policy_N[query_rows].tolist(), data.text_N[query_rows].tolist(), strict=True)
    leaking = np.array([pair in known for pair in pairs], bool)
    kept = query_rows[~leaking]
    if len(kept) == 0:
        raise ConfigError("every query's prompt is in the context; hold some prompts out")
    # The pooled regression must not see a query's text either, under whatever policy.
    unseen = context_rows[~np.isin(data.text_N[context_rows], data.text_N[kept])]
    predictors: list[Predictor] = [BackendPredictor(backend), *baselines()]
    for predictor in predictors:
        predictor.fit(data, unseen, seed)
    split = predict_split(data, predictors, context_rows, kept, support_size=support_size, seed=seed)
    return summarise(
        "context pool",
        data,
        [split],
        support_size=support_size,
        num_leaking=int(leaking.sum()),
        num_resamples=num_resamples,
        seed=seed,
    )


def evaluate_splits(
    data: EncodedRecords,
    make_predictors: MakePredictors,
    *,
    num_splits: int = 3,
    share: float = 0.2,
    support_size: int = 256,
    num_resamples: int = 1000,
    seed: int = 0,
    report: Report = stderr_line,
) -> EvaluationReport:
    """`share` of the prompts held out by text, `num_splits` times; support from the others."""
    splits = []
    for index in range(num_splits):
        split_seed = derive_seed("value evaluation", seed, index)
        held = data.rows_with(held_out_texts(data.texts, share, split_seed))
        train_rows, query_rows = np.flatnonzero(~held), np.flatnonzero(held)
        predictors = make_predictors()
        for predictor in predictors:
            report(f"split {index + 1}/{num_splits}: {predictor.name}")
            predictor.fit(data, train_rows, split_seed)
        splits.append(
            predict_split(data, predictors, train_rows, query_rows, support_size=support_size, seed=split_seed)
        )
    return summarise(
        "held-out prompts", data, splits, support_size=support_size, num_resamples=num_resamples, seed=seed
    )


def evaluate_unseen_policies(
    data: EncodedRecords,
    make_predictors: MakePredictors,
    *,
    num_splits: int = 3,
    share: float = 0.2,
    support_size: int = 256,
    num_resamples: int = 1000,
    seed: int = 0,
    report: Report = stderr_line,
) -> EvaluationReport:
    """Each policy in turn is left out of training, and asked about with a support of its own; prompts held out too.

    The answers about all policies are scored together, split by split.
    """
    if len(data.policies) < 2:
        raise ConfigError("leaving one policy out needs records of at least two policies")
    splits = []
    for index in range(num_splits):
        split_seed = derive_seed("value evaluation", seed, index)
        held = data.rows_with(held_out_texts(data.texts, share, split_seed))
        others, queries = np.flatnonzero(~held), np.flatnonzero(held)
        parts = []
        for policy, name in enumerate(data.policies):
            predictors = make_predictors()
            train_rows = others[data.policy_N[others] != policy]
            for predictor in predictors:
                report(f"split {index + 1}/{num_splits} without {name}: {predictor.name}")
                predictor.fit(data, train_rows, split_seed)
            query_rows = data.rows_of(policy, queries)
            parts.append(
                predict_split(data, predictors, others, query_rows, support_size=support_size, seed=split_seed)
            )
        splits.append(_join(parts))
    return summarise("unseen policies", data, splits, support_size=support_size, num_resamples=num_resamples, seed=seed)


def _join(parts: Sequence[Split]) -> Split:
    return Split(
        np.concatenate([part.text for part in parts]),
        np.concatenate([part.group for part in parts]),
        np.concatenate([part.y for part in parts]),
        {name: np.concatenate([part.predictions[name] for part in parts]) for name in parts[0].predictions},
    )

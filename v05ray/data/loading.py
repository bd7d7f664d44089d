"""From a data source to prompts that are ready to generate from.

Policy, in one place:
- A row that cannot be used (broken, or longer than the context) is refused with file, row and reason;
  `data.skip_bad_rows` allows that many, counted and logged.
- A row whose reference answer the verifier could never call right (`rewards.self_check`) is a bad row; those of a whole
  source are counted before it is refused.
- A row that repeats an earlier question with the same answer is left out and counted (DAPO's published file holds
  each question a hundred times); with another answer, it is a bad row.
- A training question that is also in the loaded held-out prompts (same text but for case and white space) is left
  out of training and counted: the held-out set stays as it was named.
- Several sources are read one after the other, and these rules hold across them; `skip_bad_rows` holds for each. Two
  sources must not give prompts of one name, by which metrics are split: `label` renames a source's prompts.
- A prompt's id is `SOURCE-ROWID` where the source has ids, else `SOURCE-HASH` of its text: the same question has the
  same id in every run, however the file is cut or sorted.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from v05ray.config import DataConfig, SourceSpec
from v05ray.data import procedural  # noqa: F401  (registers `reasoning_gym`)
from v05ray.data.rows import BadRow, Row
from v05ray.data.sources import Source, sources
from v05ray.data.stream import PromptSource, next_source
from v05ray.data.templates import templating
from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed
from v05ray.types import Prompt

log = logging.getLogger(__name__)

_TOKENIZE_CHUNK = 512
"""Rows tokenised together: fast tokenizers work in parallel, and a limit of 200 does not tokenise the whole file."""

_MOST_NAMES = 3
"""Names of prompts that a source without a label is called by."""


ReferenceCheck = Callable[[Prompt], str | None]
"""Why a prompt's reference answer can never be right; None where it can; `rewards.self_check` has the verifiers'."""
_NAMED = 3
"""Rows with unreadable references that a message names."""


class PromptTooLong(ConfigError):
    """A prompt leaves no room for a response in the model's context."""


@dataclass(frozen=True)
class Splits:
    """Training and held-out prompts that share no question."""

    sources: tuple[PromptSource, ...]
    """Training prompts by entry of `data.train`, in its order, with their weights."""
    eval: list[Prompt]
    counts: Mapping[str, int]
    """What was left out: `train/bad_rows`, `train/repeats`, `train/in_eval`,
    `train/unreadable_references`, `eval/bad_rows`, `eval/repeats`, `eval/unreadable_references`."""

    @property
    def train(self) -> list[Prompt]:
        """All training prompts, source by source."""
        return list(chain.from_iterable(source.prompts for source in self.sources))


def load_prompts(
    specs: Sequence[SourceSpec],
    data: DataConfig,
    tokenizer: Any,
    *,
    max_prompt_tokens: int,
    seed: int,
    limit: int | None = None,
    reference_check: ReferenceCheck | None = None,
) -> list[Prompt]:
    """The usable prompts of some sources, one source after the other, of each the first `limit` (or all) in its order.

    `tokenizer` is a Hugging Face tokenizer; `max_prompt_tokens` is what the context leaves beside the response; `seed`
    is for generated sources whose spec has none. Raises `ConfigError` for a source that cannot be read, is empty, or
    has more bad rows than `data.skip_bad_rows`, and `PromptTooLong`.
    """
    loader = _Loader(data, tokenizer, max_prompt_tokens, reference_check)
    return list(chain.from_iterable(_load_all(loader, specs, seed, limit, frozenset(), "data.train")))


def load_splits(
    data: DataConfig,
    tokenizer: Any,
    *,
    max_prompt_tokens: int,
    seed: int,
    num_eval: int | None = None,
    max_eval_prompt_tokens: int | None = None,
    reference_check: ReferenceCheck | None = None,
) -> Splits:
    """Training prompts and `num_eval` held-out ones (None: all), disjoint by text; see the policy above.

    `max_eval_prompt_tokens` is what the context leaves a held-out prompt; None: as much as a training one.

    Of several held-out sources each gives the first ones of its share; see `EvaluationConfig.num_prompts`.
    """
    held_out: list[Prompt] = []
    counts: Counter[str] = Counter()
    if data.eval is not None:
        weights = _weights(data.eval, "data.eval")
        room = max_prompt_tokens if max_eval_prompt_tokens is None else max_eval_prompt_tokens
        loader = _Loader(data, tokenizer, room, reference_check)
        eval_seed = derive_seed("data", "eval", seed)
        by_source = _load_all(loader, data.eval, eval_seed, num_eval, frozenset(), "data.eval")
        parts = _parts(weights or [1.0] * len(by_source), [len(prompts) for prompts in by_source], num_eval)
        held_out = [p for prompts, part in zip(by_source, parts, strict=True) for p in prompts[:part]]
        counts.update({f"eval/{name}": count for name, count in loader.left_out.items()})
    exclude = frozenset(_text_key(prompt.text) for prompt in held_out)
    weights = _weights(data.train, "data.train")
    loader = _Loader(data, tokenizer, max_prompt_tokens, reference_check)
    by_source = _load_all(loader, data.train, derive_seed("data", "train", seed), None, exclude, "data.train")
    counts.update({f"train/{name}": count for name, count in loader.left_out.items()})
    train = tuple(
        PromptSource(_name(spec, prompts), tuple(prompts), weight)
        for spec, prompts, weight in zip(data.train, by_source, weights or map(len, by_source), strict=True)
    )
    shared = {p.prompt_id for prompts in by_source for p in prompts} & {prompt.prompt_id for prompt in held_out}
    if shared:
        raise ConfigError(
            f"{len(shared)} prompt ids belong to different questions in data.train and data.eval, such as "
            f"{min(shared)!r}; give the two sources different `source` names, or drop `id_field`"
        )
    return Splits(train, held_out, dict(counts))


def _load_all(
    loader: "_Loader", specs: Sequence[SourceSpec], seed: int, limit: int | None, exclude: frozenset[str], key: str
) -> list[list[Prompt]]:
    """The prompts of each source; raises `ConfigError` where two sources give prompts of one name, or one id."""
    by_source = [loader.load(spec, seed, limit, exclude) for spec in specs]
    first: dict[str, int] = {}
    for index, prompts in enumerate(by_source):
        for name in sorted({prompt.source for prompt in prompts}):
            if name == "all":
                raise ConfigError(
                    f"{key}: a data source must not be named 'all', which means all sources together; give it "
                    "another `label`"
                )
            if first.setdefault(name, index) != index:
                raise ConfigError(
                    f"{key}: sources {first[name] + 1} and {index + 1} of the list both give prompts named {name!r}; "
                    "give one of them a `label` of its own"
                )
    ids = Counter(prompt.prompt_id for prompts in by_source for prompt in prompts)
    twice = [prompt_id for prompt_id, count in ids.items() if count > 1]
    if twice:
        raise ConfigError(f"{key}: prompt id {twice[0]!r} comes from two sources; give one another `label`")
    return by_source


def _weights(specs: Sequence[SourceSpec], key: str) -> list[float] | None:
    """The weights as given; None where none is. Raises `ConfigError` where only some are."""
    given = [spec.weight for spec in specs if spec.weight is not None]
    if given and len(given) < len(specs):
        raise ConfigError(f"{key}: {len(given)} of {len(specs)} sources have a `weight`; give all of them one, or none")
    return given or None


def _parts(weights: Sequence[float], available: Sequence[int], total: int | None) -> list[int]:
    """How many prompts each source gives of `total` (None: all), by weight, and never more than it has."""
    if total is None:
        return list(available)
    parts = [0] * len(weights)
    open_ = {i for i, number in enumerate(available) if number}
    while open_ and sum(parts) < total:
        i = next_source(weights, parts, open_)
        parts[i] += 1
        if parts[i] == available[i]:
            open_.discard(i)
    return parts


def _name(spec: SourceSpec, prompts: Sequence[Prompt]) -> str:
    """What a source is called: its label, or the names of its prompts."""
    names = sorted({prompt.source for prompt in prompts})
    if len(names) > _MOST_NAMES:
        names = [names[0], f"{len(names) - 1} more"]
    return spec.label or " + ".join(names)


class _Loader:
    """Reads sources one after the other, each once; a question of an earlier one is a repeat in a later one."""

    def __init__(
        self, data: DataConfig, tokenizer: Any, max_prompt_tokens: int, reference_check: ReferenceCheck | None
    ) -> None:
        if max_prompt_tokens < 1:
            raise ConfigError(
                f"the context leaves {max_prompt_tokens} tokens for a prompt; "
                "model.max_length must exceed sampling.max_tokens"
            )
        self._data, self._max_prompt_tokens = data, max_prompt_tokens
        self._tokenize = templating(data, tokenizer)
        self.left_out: Counter[str] = Counter()
        """Rows left out of all sources so far, by reason."""
        self._counts: Counter[str] = Counter()
        self._answers: dict[str, tuple[str, str]] = {}
        self._reference_check = reference_check
        self._unreadable: list[BadRow] = []

    def load(self, spec: SourceSpec, seed: int, limit: int | None, exclude: frozenset[str]) -> list[Prompt]:
        """The first `limit` usable prompts of a source, or all; `exclude` holds text keys."""
        self._counts, self._unreadable = Counter(), []
        source = _build(spec, seed)
        sizes = [size for size in (source.size, limit) if size is not None]
        wanted = min(sizes) if sizes else None
        prompts: list[Prompt] = []
        rows = self._usable(source, exclude)
        if spec.label is not None:
            rows = (replace(row, source=spec.label) for row in rows)
        while wanted is None or len(prompts) < wanted:
            chunk = _TOKENIZE_CHUNK if wanted is None else min(_TOKENIZE_CHUNK, wanted - len(prompts))
            taken = list(islice(rows, chunk))
            if not taken:
                break
            prompts += self._prompts(taken)
        self._refuse_unreadable(source, len(prompts))
        self._check_enough(source, len(prompts), wanted)
        _check_ids(prompts, source)
        self._report(source, len(prompts))
        self.left_out.update(self._counts)
        return prompts

    def _usable(self, source: Source, exclude: frozenset[str]) -> Iterator[Row]:
        for row in source.rows:
            if isinstance(row, BadRow):
                self._refuse(row, ConfigError)
                continue
            key = _text_key(row.question)
            if key in exclude:
                self._counts["in_eval"] += 1
                continue
            exact = "\x1e".join(f"{role}\x1f{content}" for role, content in row.messages)
            earlier = self._answers.get(exact)
            if earlier is None:
                self._answers[exact] = (row.answer, row.where)
                yield row
            elif earlier[0] == row.answer:
                self._counts["repeats"] += 1
            else:
                reason = f"asks what {earlier[1]} asks, with answer {row.answer!r:.40}, not {earlier[0]!r:.40}"
                self._refuse(BadRow(row.where, reason), ConfigError)

    def _prompts(self, rows: Sequence[Row]) -> list[Prompt]:
        prompts = []
        for row, tokens in zip(rows, self._tokenize(rows), strict=True):
            if isinstance(tokens, BadRow):
                self._refuse(tokens, ConfigError)
                continue
            prompt = Prompt(_prompt_id(row), row.question, tokens, row.answer, row.source, row.metadata)
            if len(tokens) > self._max_prompt_tokens:
                reason = (
                    f"prompt {prompt.prompt_id!r} has {len(tokens)} tokens, and the context leaves "
                    f"{self._max_prompt_tokens}; raise model.max_length, lower max_tokens (of sampling or evaluation), "
                    "or allow its loss"
                )
                self._refuse(BadRow(row.where, reason), PromptTooLong)
            elif self._reference_check is not None and (unreadable := self._reference_check(prompt)) is not None:
                self._unreadable.append(BadRow(row.where, unreadable))
            else:
                prompts.append(prompt)
        return prompts

    def _refuse(self, row: BadRow, error: type[ConfigError]) -> None:
        """Counts a bad row, or raises when there are more than allowed."""
        self._counts["bad_rows"] += 1
        allowed = self._data.skip_bad_rows
        if self._counts["bad_rows"] > allowed:
            raise error(
                f"{row.where}: {row.reason} (bad row {self._counts['bad_rows']}; "
                f"data.skip_bad_rows allows {allowed}: correct the row, or raise it)"
            )
        log.warning("skipped %s: %s", row.where, row.reason)

    def _refuse_unreadable(self, source: Source, num_readable: int) -> None:
        """Counts the rows whose references cannot be right, or raises when bad rows are more than allowed."""
        found, allowed = self._unreadable, self._data.skip_bad_rows
        if not found:
            return
        self._counts["unreadable_references"] = len(found)
        named = "; ".join(f"{row.where}: {row.reason}" for row in found[:_NAMED])
        said = f"{len(found)} of {len(found) + num_readable} reference answers do not judge themselves correct, {named}"
        if self._counts["bad_rows"] + len(found) > allowed:
            raise ConfigError(
                f"{source.label}: {said} (data.skip_bad_rows allows {allowed}: correct the rows, raise it, or take "
                "another rewards.verifier)"
            )
        log.warning("%s: skipped: %s", source.label, said)

    def _check_enough(self, source: Source, found: int, wanted: int | None) -> None:
        left_out = ", ".join(f"{count} {name}" for name, count in self._counts.items())
        if source.size is not None and wanted is not None and found < wanted:
            raise ConfigError(
                f"{source.label}: only {found} distinct questions exist besides those left out ({left_out or 'none'}), "
                f"but {wanted} are asked for; lower `size`, or widen `parameters`"
            )
        if found == 0 and wanted != 0:
            raise ConfigError(
                f"{source.label}: no prompts (left out: {left_out or 'none'}); check that the data is not empty"
            )

    def _report(self, source: Source, found: int) -> None:
        left_out = ", ".join(f"{count} {name}" for name, count in self._counts.items())
        log.info("%s: %d prompts (left out: %s)", source.label, found, left_out or "none")


def _build(spec: SourceSpec, seed: int) -> Source:
    return sources.build(spec.name, spec.options, offered={"seed": seed})


def _text_key(text: str) -> str:
    """Two questions are the same if they differ in case and white space alone."""
    return " ".join(text.casefold().split())


def _prompt_id(row: Row) -> str:
    if row.row_id is not None:
        return f"{row.source}-{row.row_id}"
    content = "\x1e".join(f"{role}\x1f{text}" for role, text in row.messages)
    return f"{row.source}-{hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}"


def _check_ids(prompts: Sequence[Prompt], source: Source) -> None:
    twice = [prompt_id for prompt_id, count in Counter(p.prompt_id for p in prompts).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{source.label}: prompt id {twice[0]!r} belongs to several questions ({len(twice)} such ids); "
            "`id_field` must name a field without repeats, or be left out"
        )

"""What was given to an actor and has not come back: kept where it is given, asked for when nothing happens.

Outstanding   notes every call of an actor while it lasts
ask           what a role waits for; the role itself, where it does not even say that
describe      all of it for people: prompt, actor, kind of work, seconds
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from v05ray.ports import Held, RewardPool
from v05ray.types import Prompt, Rollout, ScoredRollout

ASK_S = 5.0
"""A role that does not say within so many seconds what it waits for is itself what is waited for."""
MOST = 256
"""Entries that one role tells of, those held longest: enough to name the culprit, and small for any batch."""
_NAMED = 3
"""Prompts, or actors, that a message names."""


class Waits(Protocol):
    """Whoever gives work to actors."""

    async def waiting(self) -> Sequence[Held]: ...  # noqa: D102


class Outstanding:
    """Implements `Waits`; the calls of one process, for one role."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._keys = clock, itertools.count()
        self._given: dict[int, tuple[float, str, str, int, str | None]] = {}

    @contextlib.contextmanager
    def __call__(self, actor: str, what: str, *, count: int = 1, prompt_id: str | None = None) -> Iterator[None]:
        """While the block lasts, `actor` holds this."""
        key = next(self._keys)
        self._given[key] = self._clock(), actor, what, count, prompt_id
        try:
            yield
        finally:
            del self._given[key]

    def held(self) -> list[Held]:
        """What is alike is one entry; held longest first, `MOST` at most."""
        since: dict[tuple[str, str, str | None], float] = {}
        counts: Counter[tuple[str, str, str | None]] = Counter()
        for start, actor, what, count, prompt_id in self._given.values():
            key = actor, what, prompt_id
            since[key] = min(start, since.get(key, start))
            counts[key] += count
        now = self._clock()
        longest = heapq.nsmallest(MOST, since, key=since.__getitem__)
        return [
            Held(actor, what, now - since[key], counts[key], prompt) for key in longest for actor, what, prompt in [key]
        ]

    async def waiting(self) -> Sequence[Held]:
        """`held`."""
        return self.held()


class WatchedRewards:
    """Implements `ports.RewardPool` and `Waits` over a reward pool."""

    def __init__(self, rewards: RewardPool) -> None:
        self._rewards, self._given = rewards, Outstanding()

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """The pool's verdict."""
        with self._given("the reward actor", "verdict", prompt_id=prompt.prompt_id):
            return await self._rewards.score(prompt, rollout)

    async def waiting(self) -> Sequence[Held]:
        """Verdicts asked for and not given."""
        return self._given.held()


async def ask(name: str, role: Waits, *, within_s: float = ASK_S) -> list[Held]:
    """What the role waits for."""
    try:
        return list(await asyncio.wait_for(role.waiting(), within_s))
    except TimeoutError:
        return [Held(name, "no answer", within_s)]


async def ask_all(roles: Mapping[str, Waits], *, within_s: float = ASK_S) -> list[Held]:
    """What all of them wait for, asked at the same time."""
    answers = await asyncio.gather(*(ask(name, role, within_s=within_s) for name, role in roles.items()))
    return [held for answer in answers for held in answer]


def describe(held: Sequence[Held], prompts: Collection[str] = ()) -> str:
    """`prompts 'a' (2 draws at generator-1 for 61 s), 'b' and 9 more; learner rank 0 (accumulate for 61 s)`.

    `prompts` are all that are not done, whether or not anybody holds something of theirs.
    """
    by_prompt: dict[str, list[Held]] = {}
    others: list[Held] = []
    for one in sorted(held, key=lambda one: -one.seconds):
        if one.prompt_id is None:
            others.append(one)
        else:
            by_prompt.setdefault(one.prompt_id, []).append(one)
    names = list(dict.fromkeys((*by_prompt, *prompts)))
    parts = []
    if names:
        told = ", ".join(_prompt(name, by_prompt.get(name, ())) for name in names[:_NAMED])
        parts.append(f"prompt{'s' if len(names) > 1 else ''} {told}{_more(len(names))}")
    if others:
        parts.append(", ".join(f"{one.actor} ({_work(one)})" for one in others[:_NAMED]) + _more(len(others)))
    return "; ".join(parts) or "nothing that anybody knows of"


def _prompt(name: str, held: Sequence[Held]) -> str:
    places = ", ".join(
        f"{one.count} {one.what}{'s' if one.count > 1 else ''} at {one.actor} for {one.seconds:.0f} s" for one in held
    )
    return f"{name!r} ({places})" if places else repr(name)


def _work(one: Held) -> str:
    return f"{one.what} for {one.seconds:.0f} s"


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""

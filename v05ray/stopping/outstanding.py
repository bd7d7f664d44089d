"""Calls of actors that have not returned: recorded by the caller, collected when a stage makes no progress.

Outstanding        records every call while it lasts
calls_pending_at   the calls that a role waits for; the role itself, where it does not reply in time
describe           all of it for people: prompt, actor, kind of work, seconds
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from v05ray.ports import PendingCall, RewardPool
from v05ray.types import Prompt, Rollout, ScoredRollout

REPLY_S = 5.0
"""A role that does not reply within REPLY_S seconds is reported as the blocker."""
MOST = 256
"""Entries that one role reports, the oldest ones: enough to name the culprit, and small for any batch."""
_NAMED = 3
"""Prompts, or actors, that a message names."""


class Waits(Protocol):
    """A part that calls actors."""

    async def waiting(self) -> Sequence[PendingCall]:
        """Its calls that have not returned."""
        ...


class Outstanding:
    """Implements `Waits`; the calls of one process, for one role."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._keys = clock, itertools.count()
        self._given: dict[int, tuple[float, str, str, int, str | None]] = {}

    @contextlib.contextmanager
    def __call__(self, actor: str, what: str, *, count: int = 1, prompt_id: str | None = None) -> Iterator[None]:
        """The call is pending while the block lasts, as in `with outstanding("generator-1", "draw", count=4):`."""
        key = next(self._keys)
        self._given[key] = self._clock(), actor, what, count, prompt_id
        try:
            yield
        finally:
            del self._given[key]

    def pending(self) -> list[PendingCall]:
        """The oldest first, `MOST` at most; calls of one actor for the same kind of work and prompt are one entry."""
        since: dict[tuple[str, str, str | None], float] = {}
        counts: Counter[tuple[str, str, str | None]] = Counter()
        for start, actor, what, count, prompt_id in self._given.values():
            key = actor, what, prompt_id
            since[key] = min(start, since.get(key, start))
            counts[key] += count
        now = self._clock()
        longest = heapq.nsmallest(MOST, since, key=since.__getitem__)
        return [
            PendingCall(actor, what, now - since[key], counts[key], prompt)
            for key in longest
            for actor, what, prompt in [key]
        ]

    async def waiting(self) -> Sequence[PendingCall]:
        """`pending`, as a role reports it."""
        return self.pending()


class WatchedRewards:
    """Implements `ports.RewardPool` and `Waits` over a reward pool."""

    def __init__(self, rewards: RewardPool) -> None:
        self._rewards, self._given = rewards, Outstanding()

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """The pool's verdict; pending until it is there."""
        with self._given("the reward actor", "verdict", prompt_id=prompt.prompt_id):
            return await self._rewards.score(prompt, rollout)

    async def waiting(self) -> Sequence[PendingCall]:
        """Verdicts that are out."""
        return self._given.pending()


async def calls_pending_at(name: str, role: Waits, *, within_s: float = REPLY_S) -> list[PendingCall]:
    """The calls that the role waits for; `no answer` of `name` itself, where it does not reply within `within_s`."""
    try:
        return list(await asyncio.wait_for(role.waiting(), within_s))
    except TimeoutError:
        return [PendingCall(name, "no answer", within_s)]


async def pending_calls(roles: Mapping[str, Waits], *, within_s: float = REPLY_S) -> list[PendingCall]:
    """The calls that all these roles wait for; the roles are asked at the same time."""
    answers = await asyncio.gather(*(calls_pending_at(name, role, within_s=within_s) for name, role in roles.items()))
    return [call for answer in answers for call in answer]


def describe(calls: Sequence[PendingCall], prompts: Collection[str] = ()) -> str:
    """`prompts 'a' (2 draws at generator-1 for 61 s), 'b' and 9 more; learner rank 0 (accumulate for 61 s)`.

    `prompts` are all that are not done, whether or not a call of theirs is pending.
    """
    by_prompt: dict[str, list[PendingCall]] = {}
    others: list[PendingCall] = []
    for one in sorted(calls, key=lambda one: -one.seconds):
        if one.prompt_id is None:
            others.append(one)
        else:
            by_prompt.setdefault(one.prompt_id, []).append(one)
    names = list(dict.fromkeys((*by_prompt, *prompts)))
    parts = []
    if names:
        shown = ", ".join(_prompt(name, by_prompt.get(name, ())) for name in names[:_NAMED])
        parts.append(f"prompt{'s' if len(names) > 1 else ''} {shown}{_more(len(names))}")
    if others:
        parts.append(", ".join(f"{one.actor} ({_work(one)})" for one in others[:_NAMED]) + _more(len(others)))
    return "; ".join(parts) or "no pending work reported"


def _prompt(name: str, calls: Sequence[PendingCall]) -> str:
    places = ", ".join(
        f"{one.count} {one.what}{'s' if one.count > 1 else ''} at {one.actor} for {one.seconds:.0f} s" for one in calls
    )
    return f"{name!r} ({places})" if places else repr(name)


def _work(one: PendingCall) -> str:
    return f"{one.what} for {one.seconds:.0f} s"


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""

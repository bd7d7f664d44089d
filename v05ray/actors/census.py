"""How much memory every actor of a run holds, measured in the actors themselves, on any node."""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray

MIB = 2**20


def resident_mib(_: Any) -> float:
    """Of this process and its children (an actor's verifiers), in MiB. Runs inside an actor, which it is given."""
    import psutil

    me = psutil.Process()
    held = me.memory_info().rss
    for child in me.children(recursive=True):
        try:
            held += child.memory_info().rss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it ended between the listing and the look
    return held / MIB


class Census:
    """Measures every actor again once it has replied. A busy actor replies when it has time; it is not asked twice."""

    def __init__(self, namespace: str, actors: Mapping[str, Any]) -> None:
        """`actors` by role; those named `ROLE:...` in the namespace are discovered dynamically."""
        self._namespace, self._fixed = namespace, dict(actors)
        self._found: dict[str, Any] = {}
        self._asked: dict[str, asyncio.Task[float]] = {}
        self._known: dict[str, float] = {}

    def latest(self) -> Mapping[str, float]:
        """Role to MiB, as last measured; of the actors that were alive then."""
        return self._known

    async def measure(self) -> None:
        """Takes in the replies that have come, and asks those actors again; waits for none of them."""
        self._found = await asyncio.to_thread(self._named)
        living = self._fixed | self._found
        for role, asked in list(self._asked.items()):
            if asked.done():
                del self._asked[role]
                if asked.exception() is None:
                    self._known[role] = asked.result()
                else:
                    self._known.pop(role, None)
        self._known = {role: mib for role, mib in self._known.items() if role in living}
        for role, actor in living.items():
            if role not in self._asked:
                self._asked[role] = asyncio.create_task(_resident(actor))

    def close(self) -> None:
        """Gives up the replies that have not come."""
        for asked in self._asked.values():
            asked.cancel()

    def _named(self) -> dict[str, Any]:
        """By role. A restarted actor is there under another name."""
        found = {}
        everywhere: list[Any] = ray.util.list_named_actors(all_namespaces=True)  # its hint forgets that case
        for listed in everywhere:
            role, colon, _ = listed["name"].partition(":")
            if listed["namespace"] == self._namespace and colon:
                try:
                    found[role] = ray.get_actor(listed["name"], self._namespace)
                except ValueError:
                    continue  # it ended between the listing and the look
        return found


async def _resident(actor: Any) -> float:
    return await actor.__ray_call__.remote(resident_mib)

"""Which errors mean that an actor or its node is gone, so that fresh actors can resume from the newest checkpoint."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from v05ray.errors import ConfigError, RunError
from v05ray.ports import PendingCall, RoleLost
from v05ray.scheduling.generators import NoGeneratorLeft

_CLASS = re.compile(r"class_name: (\w+)")
_CREATION = "error raised in its creation task"
_RAISED = re.compile(rf"^{re.escape(ConfigError.__module__)}\.(ConfigError|RunError): ", re.MULTILINE)
_CHAINED = re.compile(r"^(The above exception was|During handling of)", re.MULTILINE)


def describe_loss(error: BaseException) -> str | None:
    """What was lost, in a few words; None for an error that fresh actors would raise again.

    An actor whose constructor raised is no loss but a fault of code or config: it would raise again.
    """
    if isinstance(error, RayTaskError):
        return describe_loss(error.cause) if isinstance(error.cause, Exception) else None
    if isinstance(error, RoleLost | NoGeneratorLeft):
        return str(error)
    if isinstance(error, ActorDiedError) and _CREATION in str(error):
        return None
    if isinstance(error, RayActorError):
        named = _CLASS.search(str(error))
        return f"{_words(named[1]) if named else 'an actor'} is gone ({reason(error)})"
    if isinstance(error, ObjectLostError | NodeDiedError | WorkerCrashedError):
        return f"what a lost process held is gone ({reason(error)})"
    return None


def fault(error: BaseException) -> ConfigError | RunError | None:
    """The `ConfigError` or `RunError` that an actor raised, without Ray's traceback around it; None for other errors.

    Of an error in an actor's constructor Ray keeps only the text, which ends with the error's class and message.
    """
    if isinstance(error, RayTaskError):
        return fault(error.cause) if isinstance(error.cause, Exception) else None
    if isinstance(error, ConfigError | RunError):
        return error
    if isinstance(error, ActorDiedError) and _CREATION in str(error):
        last = _CHAINED.split(str(error))[-1]
        if found := _RAISED.search(last):
            kind = ConfigError if found[1] == ConfigError.__name__ else RunError
            return kind(last[found.end() :].strip())
    return None


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises what an actor has found wrong with the config or the machine as what it is, in one line."""
    try:
        yield
    except Exception as error:
        found = fault(error)
        if found is None or found is error:
            raise
        plain = ConfigError if isinstance(found, ConfigError) else RunError  # a subclass may take other arguments
        raise plain(" ".join(str(found).split())) from error


def full_store(error: BaseException) -> RunError | None:
    """The error to raise where Ray found no room for an object, neither in its store nor on the disk that it spills to.

    No fresh actor would find more room. A store that is full alone raises nothing: Ray writes to disk then. A generator
    that finds no room for new weights is only lost, as others may have room on their nodes: it counts when it was the
    last one. None for any other error.
    """
    if isinstance(error, RayTaskError):
        return full_store(error.cause) if isinstance(error.cause, Exception) else None
    last_generator = isinstance(error, NoGeneratorLeft) and error.no_room
    if not (last_generator or isinstance(error, OutOfDiskError | ObjectStoreFullError)):
        return None
    what = "the last generator found no room for new weights" if last_generator else reason(error)
    return RunError(
        f"Ray's object store is full, and so is the disk behind it ({what}): free disk space where Ray's "
        "temporary folder is, or give the nodes a larger store (`cluster.object_store_mib`, `ray start "
        "--object-store-memory`), then continue with --resume"
    )


async def pending_at(actor: Any, name: str) -> Sequence[PendingCall]:
    """The actor's pending calls; one entry that says so where the actor is gone."""
    try:
        return await actor.waiting.remote()
    except RayActorError as error:
        return [PendingCall(name, f"gone ({reason(error)})", 0.0)]


def reason(error: BaseException) -> str:
    """The error's kind, and Ray's own words on the cause where it has some."""
    said = str(error)
    for pattern in (r"(?:Worker exit type: \w+ )?Worker exit detail: ([^\n.]+)", r"cause: ([^\n.]+)"):
        if found := re.search(pattern, said):
            return f"{type(error).__name__}: {found[1].strip()}"
    return type(error).__name__


def _words(class_name: str) -> str:
    """`SchedulerActor` -> `the scheduler`."""
    return "the " + re.sub(r"(?<!^)(?=[A-Z])", " ", class_name.removesuffix("Actor")).lower()

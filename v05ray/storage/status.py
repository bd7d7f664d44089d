"""What a run reports of itself, in two files of its folder: reading them needs neither Ray nor a network.

status.json    the present state: replaced every second or two, kept when the run ends
events.jsonl   what changed, one line each: generators, nodes, and whether by hand or by backlog
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from v05ray.errors import ConfigError
from v05ray.storage.durable import replace_text

STATUS, EVENTS = "status.json", "events.jsonl"
SILENT_AFTER_S = 15.0
"""A run whose status is older than SILENT_AFTER_S seconds is stuck, cut off, or was killed."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, as `status.json` has it."""

    time: float
    """When this was written, in seconds since 1970."""
    state: str
    """`running` or `ended`; a killed run stays `running`, see `silent_s`."""
    step: int
    """Last step done, which is the weight version in service."""
    num_steps: int
    generators: Mapping[str, str] = field(default_factory=dict)
    """State by generator id; `placing` waits for a place."""
    wanted: int = 0
    """Generators that there should be."""
    fewest: int = 0
    most: int = 0
    values: Mapping[str, str] = field(default_factory=dict)
    """State by value actor; `placing` waits for a place."""
    wanted_values: int = 0
    """Value actors that there should be."""
    fewest_values: int = 0
    most_values: int = 0
    outstanding_tokens: int = 0
    """Upper bound of what is asked for and not answered."""
    backlog_s: float | None = None
    """Predicted seconds until the generators have worked that off; None while unknown."""
    tokens_per_s: float | None = None
    """Of one generator, prompts included, as measured."""
    memory_mib: Mapping[str, float] = field(default_factory=dict)
    """Resident memory of each actor, in MiB."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Live nodes of the cluster, by type."""
    ray_address: str = ""
    """The cluster's GCS, for `v05ray scale`."""
    namespace: str = ""
    scheduler: str = ""
    """The scheduler actor's name in the namespace."""

    def silent_s(self, now: float) -> float:
        """Age of the status of a run that has not ended, in seconds; 0 if it has ended."""
        return 0.0 if self.state == "ended" else max(0.0, now - self.time)


class StatusWriter:
    """Writes both files. A disk error must not end the run: the last one is kept in `error`."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self.error: OSError | None = None

    def write(self, status: RunStatus) -> None:
        """Replaces `status.json` as a whole."""
        self._try(lambda: replace_text(self._folder / STATUS, json.dumps(asdict(status), indent=1)))

    def event(self, name: str, what: Mapping[str, object]) -> None:
        """Adds a line to `events.jsonl`."""
        line = json.dumps({"time": round(self._clock(), 2), "event": name, **what})

        def write() -> None:
            with (self._folder / EVENTS).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

        self._try(write)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self.error = error


def read_status(folder: Path) -> RunStatus:
    """The status that the run wrote last.

    Raises:
        ConfigError: the folder is not a run's, or its run has not written a status yet.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{str(folder)!r} is not a run's folder (it has no config.yaml); give one, such as runs/v05")
    if not (folder / STATUS).is_file():
        raise ConfigError(f"{folder} has no {STATUS}: the run's actors have not come up yet (see {folder}/logs)")
    written = json.loads((folder / STATUS).read_text())
    return RunStatus(**{name: value for name, value in written.items() if name in RunStatus.__dataclass_fields__})


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of `events.jsonl`, in order."""
    path = folder / EVENTS
    if not path.is_file():
        return []
    # The last line may be half written, by a run that was killed or writes it now.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def describe(status: RunStatus, *, name: str, now: float) -> str:
    """The status as lines of text, for `v05ray status`."""
    silent_s = status.silent_s(now)
    state = status.state
    if silent_s > SILENT_AFTER_S:
        state = f"silent for {silent_s:.0f} s: stuck, cut off, or killed (resume a killed run with --resume)"
    lines = [f"{name}: {state}", f"  step        {status.step} of {status.num_steps}"]
    if status.state != "ended":
        ready = sum(life == "ready" for life in status.generators.values())
        bounds = _bounds(status.fewest, status.most)
        lines += [
            f"  generators  {ready} ready at weight version {status.step}, {status.wanted} wanted (allowed: {bounds})",
            *(f"    {generator:<14}{life}" for generator, life in status.generators.items()),
            f"  backlog     {_backlog(status)}",
        ]
        if status.values:
            lines += _value_lines(status)
    if status.nodes:
        lines.append("  nodes       " + ", ".join(f"{count} {kind}" for kind, count in sorted(status.nodes.items())))
    if status.memory_mib:
        lines.append("  memory      " + ", ".join(f"{r} {m:,.0f} MiB" for r, m in sorted(status.memory_mib.items())))
    return "\n".join(lines)


def _value_lines(status: RunStatus) -> list[str]:
    """One line; one more for each actor where they come and go."""
    ready = sum(life == "ready" for life in status.values.values())
    bounds = _bounds(status.fewest_values, status.most_values)
    lines = [f"  value pool  {ready} ready, {status.wanted_values} wanted (allowed: {bounds})"]
    if status.most_values > status.fewest_values:
        lines += [f"    {actor:<14}{life}" for actor, life in status.values.items()]
    return lines


def _bounds(fewest: int, most: int) -> str:
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def _backlog(status: RunStatus) -> str:
    if not status.outstanding_tokens:
        return "none"
    seconds = "unknown" if status.backlog_s is None else f"{status.backlog_s:.1f} s"
    rate = "" if status.tokens_per_s is None else f"; a generator does {status.tokens_per_s:,.0f} tokens/s"
    return f"{seconds} (at most {status.outstanding_tokens:,} tokens outstanding{rate})"


def timeline(events: Sequence[Mapping[str, Any]]) -> str:
    """The events with seconds since the first one, as a Markdown table."""
    if not events:
        return "no events yet"
    start = events[0]["time"]
    rows = ["| s | event | |", "| ---: | --- | --- |"]
    for event in events:
        what = ", ".join(f"{k}: {_short(v)}" for k, v in event.items() if k not in ("time", "event") and v is not None)
        rows.append(f"| {event['time'] - start:.0f} | {event['event']} | {what} |")
    return "\n".join(rows)


def _short(value: object) -> object:
    return ", ".join(f"{count} {kind}" for kind, count in value.items()) if isinstance(value, dict) else value

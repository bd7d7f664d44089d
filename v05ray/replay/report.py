"""A whole run, recorded against replayed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from v05ray.errors import ConfigError
from v05ray.replay.batch import Replayed, StepReplayer
from v05ray.replay.figures import Figures, figures
from v05ray.replay.settings import Changes, Settings

if TYPE_CHECKING:  # the ledger needs pyarrow, and the command line should not wait for it
    from v05ray.ledger import LedgerReader


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run, recorded and replayed."""

    recorded: Settings
    settings: Settings
    before: Figures
    """Under the recorded settings."""
    after: Figures
    steps: tuple[tuple[int, Figures, Figures], ...]
    """(step, before, after)."""
    num_same: int
    """Prompts whose decisions are the recorded ones, all of them equal in every number."""
    differing: tuple[tuple[int, str], ...]
    """(step, prompt id) of the others."""
    reproduced: bool
    """Whether the recorded settings give the recorded priors and decisions; if not, the record is damaged or another
    version's."""


def open_ledger(run: Path) -> "LedgerReader":
    """The ledger of a run's folder (or the ledger's own folder)."""
    from v05ray.ledger import LedgerReader

    return LedgerReader(run / "ledger" if (run / "ledger").is_dir() else run)


def replay(reader: "LedgerReader", changes: Changes, *, steps: Iterable[int] | None = None) -> Report:
    """Replays a run under its own settings and under changed ones.

    Steps run from the run's first, since rules and estimators may remember; `steps` limits what is reported.

    Raises:
        ConfigError: no such rule, estimator or option; the record lacks what they need; there is no step to report.
    """
    chosen = set(reader.steps if steps is None else steps)
    if not chosen & set(reader.steps):
        raise ConfigError(f"{reader.folder} has no step to replay; it has {list(reader.steps)}")
    as_it_was: StepReplayer | None = None
    changed: StepReplayer | None = None
    before: list[Replayed] = []
    after: list[Replayed] = []
    per_step: list[tuple[int, Figures, Figures]] = []
    differing: list[tuple[int, str]] = []
    reproduced = True
    for step in reader.steps:
        if step > max(chosen):
            break
        groups = reader.groups(step)
        if as_it_was is None or changed is None:
            recorded = Settings.recorded(reader.meta(step))
            as_it_was, changed = StepReplayer(recorded), StepReplayer(changes.applied(recorded))
        was, now = as_it_was.step(groups), changed.step(groups)
        reproduced &= all(one.decisions == one.group.decisions for one in was)
        reproduced &= [one.group.prior for one in was] == [group.prior for group in groups]
        if step in chosen:
            before += was
            after += now
            per_step.append((step, figures(was), figures(now)))
            differing += [(step, one.group.prompt_id) for one in now if one.decisions != one.group.decisions]
    assert as_it_was is not None  # `chosen` holds a step of the reader's
    assert changed is not None
    return Report(
        as_it_was.settings,
        changed.settings,
        figures(before),
        figures(after),
        tuple(per_step),
        len(after) - len(differing),
        tuple(differing),
        reproduced,
    )

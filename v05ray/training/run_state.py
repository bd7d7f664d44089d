"""A run's position: what the next step depends on besides the learners and the parts with a state of their own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from v05ray.training.metrics import Totals
from v05ray.training.proving import UpdateTotals


@dataclass
class RunState:
    """All that the next step depends on besides the learners; small enough for JSON, and checkpointed."""

    step: int = 0
    """Steps done; also the version of the weights that generators serve."""
    totals: Totals = field(default_factory=Totals)
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, over the whole run."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Held-out metrics: one entry per evaluation, with its `step`."""
    updates: UpdateTotals = field(default_factory=UpdateTotals)
    """Weight updates so far."""
    num_skipped_in_a_row: int = 0
    """Updates of the optimiser that were skipped since the last one that was applied."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self.step = state["step"]
        self.totals = Totals(**state["totals"])
        self.seconds = dict(state["seconds"])
        self.curve = [dict(entry) for entry in state["curve"]]
        self.updates = UpdateTotals.of(state.get("updates"))
        self.num_skipped_in_a_row = state.get("num_skipped_in_a_row", 0)

"""What a recorded run decided by, and what a replay does differently."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from v05ray.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides about budgets and advantages, given the rewards."""

    rule: str
    rule_options: Mapping[str, Any]
    halt_fraction: float
    dispatch_multiple: int
    mode: Literal["async", "rounds"]
    on_halt: Literal["drain", "abort"]
    advantage: str
    advantage_options: Mapping[str, Any]
    prior_options: Mapping[str, Any] | None = None
    """How the value pool's answers were repaired; None where there were none, or the ledger is of format 1, which has
    the repaired priors alone. A replay then takes the priors as they were recorded."""
    overlong: Mapping[str, int] | None = None
    """`advantages.overlong.Overlong` of the run; None where long responses were not punished. Estimators that cannot
    use such rewards get the verifier's."""

    @classmethod
    def recorded(cls, meta: Mapping[str, Any]) -> "Settings":
        """Those of a step, from its ledger. Raises `ConfigError` where the ledger does not hold them."""
        try:
            rule, advantage = dict(meta["rule"]), dict(meta["advantage"])
            return cls(
                rule.pop("name"),
                rule,
                meta["halt_fraction"],
                meta["dispatch_multiple"],
                meta["mode"],
                meta["on_halt"],
                advantage.pop("name"),
                advantage,
                meta.get("priors"),
                meta.get("overlong"),
            )
        except KeyError as error:
            raise ConfigError(f"the ledger does not say the run's {error}; it cannot be replayed") from None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a replay does differently; None and empty mean: as recorded."""

    rule: str | None = None
    """Another rule starts from its own defaults; the same one keeps the recorded options."""
    rule_options: Mapping[str, Any] = field(default_factory=dict)
    halt_fraction: float | None = None
    dispatch_multiple: int | None = None
    mode: Literal["async", "rounds"] | None = None
    on_halt: Literal["drain", "abort"] | None = None
    advantage: str | None = None
    advantage_options: Mapping[str, Any] = field(default_factory=dict)
    prior_options: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, to: Settings) -> Settings:
        """`to` with these changes. Raises `ConfigError` for changed repair of priors whose answers are not recorded."""
        if self.prior_options and to.prior_options is None:
            raise ConfigError(
                "the ledger does not have the value model's own answers (the run had none, or an earlier v05ray wrote "
                f"it), so priors cannot be repaired again; leave out {', '.join(self.prior_options)}"
            )
        rule, advantage = self.rule or to.rule, self.advantage or to.advantage
        kept = to.rule_options if rule == to.rule else {}
        kept_advantage = to.advantage_options if advantage == to.advantage else {}
        return Settings(
            rule,
            {**kept, **self.rule_options},
            to.halt_fraction if self.halt_fraction is None else self.halt_fraction,
            to.dispatch_multiple if self.dispatch_multiple is None else self.dispatch_multiple,
            self.mode or to.mode,
            self.on_halt or to.on_halt,
            advantage,
            {**kept_advantage, **self.advantage_options},
            None if to.prior_options is None else {**to.prior_options, **self.prior_options},
            to.overlong,
        )

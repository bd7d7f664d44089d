"""The one config tree: frozen, unknown keys refused, every field documented and bounded.

`job.config_files.load_config` makes it from a YAML file. Choices with a name (`advantage`, `budget.rule`,
`rewards.verifier`, `data.train`) are `Spec`s: a name and the options of what bears it, checked against its registry.
"""

from pydantic import model_validator

from v05ray.config.roles import (
    GeneratorsConfig,
    LearnerConfig,
    PublishedValueConfig,
    RewardsConfig,
    ValueConfig,
    WeightsConfig,
)
from v05ray.config.run import (
    BudgetConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    SourceSpec,
    TrackingConfig,
)
from v05ray.config.section import Fraction, Section, Spec
from v05ray.config.verifier import Component, VerifierSpec

__all__ = [
    "BudgetConfig",
    "ClusterConfig",
    "Component",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "Fraction",
    "GeneratorsConfig",
    "LearnerConfig",
    "ModelConfig",
    "PublishedValueConfig",
    "RewardsConfig",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "SourceSpec",
    "Spec",
    "TrackingConfig",
    "ValueConfig",
    "VerifierSpec",
    "WeightsConfig",
]


class Config(Section):
    """Everything a run is made of; saved beside it as `config.yaml`."""

    recipe: str = "v05"
    """A named algorithm: advantage, budget rule, clipping, aggregation (`v05`, `v05_loo`, `grpo`, `rloo`, ...)."""
    run: RunConfig = RunConfig()
    model: ModelConfig
    data: DataConfig
    advantage: Spec = Spec(name="v05")
    """The advantage estimator with its options; usually set by the recipe."""
    sampling: SamplingConfig = SamplingConfig()
    budget: BudgetConfig = BudgetConfig()
    generators: GeneratorsConfig = GeneratorsConfig()
    value: ValueConfig = ValueConfig()
    rewards: RewardsConfig = RewardsConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def sends_deltas(self) -> bool:
        """Whether only the elements of the weights that changed go to the generators (`weights.send`)."""
        pays = self.model.dtype == "bfloat16" and self.cluster.address is not None
        return self.weights.send == "delta" or (self.weights.send == "auto" and pays)

    @model_validator(mode="after")
    def _colocated_roles_share_devices(self) -> "Config":
        if not self.cluster.colocate:
            return self
        g, num_ranks = self.generators, self.learner.num_ranks
        if not g.fewest == g.count == g.most <= num_ranks:
            raise ValueError(
                "with cluster.colocate every replica stays with its learner rank: generators.count <= learner.num_ranks"
                f" and no other min or max; got count {g.count}, min {g.fewest}, max {g.most}, {num_ranks} ranks"
            )
        if g.tensor_parallel > 1:
            raise ValueError(
                "with cluster.colocate a replica has the one device of its rank, but generators.tensor_parallel is"
                f" {g.tensor_parallel}; set it to 1, or leave colocate out"
            )
        if g.num_gpus + self.learner.num_gpus > 1:
            raise ValueError(
                "with cluster.colocate a replica and a rank share one device: generators.num_gpus + learner.num_gpus "
                f"<= 1, got {g.num_gpus:g} + {self.learner.num_gpus:g}; set them to 0.4 and 0.6"
            )
        return self

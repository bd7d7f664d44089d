"""v05ray: reinforcement learning with verifiable rewards on Ray, with V0.5's prior and adaptive rollout budgets."""

__version__ = "0.1.0"

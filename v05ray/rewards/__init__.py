"""Verifiers, and the processes that they run in.

- `answers`    reads the final answer out of a response
- `verifiers`  the registry: `math`, `exact`, `last_integer`, `reasoning_gym`, `python`
- `worker`     one process that judges, killed at its deadline
- `pool`       `VerifierPool`: the `RewardPool` port over several workers
"""

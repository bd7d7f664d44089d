"""Verifiers, and the processes that they run in.

- `answers`        the last tag, box or number of a text
- `extract`        the answer in a response, and whether it was finished
- `references`     the answers that a reference allows, or why it is none
- `normalise`      one way of writing for each answer: rules on text
- `numbers`, `units`, `parts`   numbers written out, what is beside them, and answers of several values
- `equality`, `mathematics`     whether two answers are equal: by text, number, structure; at last by math-verify
- `math_verifier`  the `math` verifier over all of these
- `functions`      reward functions in the forms of other trainers
- `self_check`     references that no response can equal, found when they are loaded
- `verdicts`       verdicts by kind, and when too many fail
- `combined`       one verdict of several verifiers, by weight; `by_source`: which verifier judges which source
- `dry_run`        a verdict of each verifier before a run
- `votes`          what votes together in a majority
- `code`           the `code` verifier: programs run against tests in a sandbox
- `verifiers`      the registry: `math`, `exact`, `last_integer`, `reasoning_gym`, `code`, `python`; `judged`: what they
                   return
- `worker`         one process that judges, killed at its deadline
- `pool`           `VerifierPool`: the `RewardPool` port over several workers
"""

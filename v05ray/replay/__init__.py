"""Run recorded batches again through the real budget machine: as it was, or under other settings.

    ledger --groups--> BatchMachine(other rule, halt, ...) --decisions--> other estimator --> budget, MSE, advantages

Rewards and lengths are the recorded ones, taken in sample order, and a rollout is scored when it was scored in the run.
Priors are made again of the value pool's recorded answers, by how the prompts before turned out. So the recorded
settings give the recorded priors and decisions exactly. Other settings use the rollouts that exist: where they want
more, the prompt is sealed with what there is, and counted as short. What they would have changed later on (the policy,
the answers, the prompts) stays as recorded, so a replay compares decisions, not trainings.

    settings.py   what a run did, and what a replay changes
    batch.py      one batch through the machine, with the record for an answer
    figures.py    budget and errors of the replayed prompts
    report.py     a whole run, recorded against replayed
    explain.py    how one prompt was decided, number by number
"""

from v05ray.replay.batch import Replayed, StepReplayer
from v05ray.replay.figures import Figures, figures
from v05ray.replay.report import Report, open_ledger, replay
from v05ray.replay.settings import Changes, Settings

__all__ = ["Changes", "Figures", "Replayed", "Report", "Settings", "StepReplayer", "figures", "open_ledger", "replay"]

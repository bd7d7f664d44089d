"""What happens to a rollout after each of its turns, until it ends with a verdict. By default it has one turn.

`play_out` takes drawn rollouts to their ends, for training and evaluation alike; the environment decides when one ends.
"""

from v05ray.environments.play import play_out
from v05ray.environments.single_turn import SingleTurn

__all__ = ["SingleTurn", "play_out"]

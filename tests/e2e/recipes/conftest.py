"""What the processes of generators and learner ranks find in their environment, before anything here imports torch."""

import os

from v05ray.config import GeneratorsConfig, LearnerConfig
from v05ray.generation.environment import environment as of_generator
from v05ray.learning.environment import environment as of_learner

os.environ.update(of_generator(GeneratorsConfig()) | of_learner(LearnerConfig()))

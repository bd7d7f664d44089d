"""Default lengths of the trainings, apart so that `--help` can say them without loading torch."""

DEFAULT_STEPS = 3000
"""Of the pretraining."""
DEFAULT_TRAIN_STEPS = 300
"""At most, of a training on recorded scores; early stopping usually comes sooner."""

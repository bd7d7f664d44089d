"""The learner: samples to tensors, chunked log-probabilities, and the DeepSpeed step."""

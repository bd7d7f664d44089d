"""The mathematics of one prompt: moments, fusion of prior and rewards, when to draw again. Standard library only.

| file | question |
|---|---|
| `moments.py` | what do these numbers look like? |
| `shrinkage.py` | how far is the prior to be trusted, and which baseline follows? |
| `osla.py` | is one more rollout worth its cost? |
| `prior_error.py` | how wrong was the prior of late? |
"""

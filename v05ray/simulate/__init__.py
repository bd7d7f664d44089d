"""Worlds in which the truth is known, driving the real budget machine and the real estimators. No GPU, no Ray.

worlds.py     pass rates, priors of a chosen error, responses with heavy-tailed lengths
cluster.py    generators with continuous batching, as discrete events
baselines.py  the baseline inside any estimator's advantages
compare.py    recipes over one world: error, bias, gain, time
scaling.py    asynchronous against rounds, over numbers of generators
theorems.py   the paper's claims, computed exactly
report.py     tables and figures of all that
"""

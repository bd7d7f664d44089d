"""Figures for people, without a plotting library.

- `sparkline`  a curve in one line of text
- `svg`        charts as SVG text: lines with error bands, points with intervals, bars
- `run`        the figures of a run, and what it did with each source, read from its ledger
"""

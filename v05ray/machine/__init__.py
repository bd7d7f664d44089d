"""The machine a run is on: what it computes (`probe`), what fits it (`fit`), what a run takes on it (`estimate`)."""

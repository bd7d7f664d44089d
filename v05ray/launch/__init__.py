"""A training run or an evaluation as a whole: connect to Ray, reserve, start, wire, run, tear down."""

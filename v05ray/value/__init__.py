"""V0, the generalist value model: a prior for a prompt's success from (prompt, score) pairs of the present policy."""

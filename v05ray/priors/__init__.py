"""From V0's answers to the priors that rules and estimators get, and the support V0 is conditioned on."""

"""Where rollouts are drawn and when: the generator pool and the batch scheduler, against ports alone (no Ray)."""

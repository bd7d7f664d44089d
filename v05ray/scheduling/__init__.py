"""Where rollouts are drawn and when: the pools and the batch scheduler, against ports alone (no Ray)."""

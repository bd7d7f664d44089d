"""What a run waits for, and how it ends: signals, grace periods, hanging disks, stalls, exit codes."""

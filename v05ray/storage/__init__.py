"""What a run keeps on disk, beside its ledger: files written whole or not at all, checkpoints, status."""

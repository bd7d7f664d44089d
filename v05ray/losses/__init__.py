"""Policy losses: clipped ratios, truncated importance weights, and how token losses add up over a batch."""

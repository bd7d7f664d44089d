"""A job before it runs: its file read and explained, and all it can be refused for before anything heavy starts."""

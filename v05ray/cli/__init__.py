"""The command `v05ray`: one file for each command, and what they print."""

from v05ray.cli.command import main

__all__ = ["main"]

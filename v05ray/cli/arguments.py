"""What the commands' parsers share."""

import argparse
from typing import Any


class Intermixed(argparse.ArgumentParser):
    """Takes positional arguments before, between and after the options, as people write them."""

    _inside = False

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        """As in argparse, but intermixed."""
        if self._inside:  # called by what is called below
            return super().parse_known_args(*arguments, **named)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(*arguments, **named)
        finally:
            self._inside = False


def intermix(parser: argparse.ArgumentParser) -> None:
    """Makes a sub-parser intermixed: a sub-parsers object makes all its parsers of one class."""
    parser.__class__ = Intermixed

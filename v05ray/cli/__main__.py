"""`python -m v05ray.cli`: what the command `v05ray` runs."""

import sys

from v05ray.cli.command import main

sys.exit(main())

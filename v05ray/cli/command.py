"""The command `v05ray`. Heavy imports happen inside the command that needs them: `--help` must answer at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from v05ray import __version__
from v05ray.cli.arguments import intermix
from v05ray.errors import ConfigError, RunError
from v05ray.stopping.exit_codes import ExitCode, StoppedAtOnce

EXIT_CODES = f"""\
exit codes:
  {ExitCode.DONE:>3}  done: the last step has been taken
  {ExitCode.FAILED:>3}  failed (lost processes, a full disk, a bug): fix the cause, continue with --resume
  {ExitCode.USER_ERROR:>3}  config, arguments, model or data cannot be used: fix them; repeating does not help
  {ExitCode.STOPPED:>3}  stopped by SIGINT, SIGTERM or SIGHUP, with a checkpoint: continue with --resume
  {ExitCode.STOPPED_EMPTY:>3}  stopped by such a signal before there was a checkpoint: begin again"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its `ExitCode`."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except ConfigError as error:
        print(f"v05ray: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except RunError as error:
        print(f"v05ray: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except StoppedAtOnce as stopped:
        print(f"v05ray: {stopped}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("v05ray: stopped at once, before there was anything to save", file=sys.stderr)
        return ExitCode.STOPPED_EMPTY
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="v05ray", description="Reinforcement learning with verifiable rewards on Ray: V0.5 and its rivals."
    )
    parser.add_argument("--version", action="version", version=f"v05ray {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    from v05ray.cli.evaluate import add_parser as add_eval_parser

    train = commands.add_parser(
        "train",
        help="train a policy as a job file says",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXIT_CODES,
    )
    _add_config(train)
    train.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="RUN",
        help="resume from the newest checkpoint of RUN (a run's folder; `auto` or nothing: the newest run of this "
        "name, which is started if there is none)",
    )
    train.set_defaults(run=_train)

    add_eval_parser(commands)

    doctor = commands.add_parser("doctor", help="say what a job asks for, what is there, and what is missing")
    _add_config(doctor, required=False)
    doctor.set_defaults(run=_doctor)

    from v05ray.cli.replay import add_parsers as add_replay_parsers
    from v05ray.cli.scale import add_parsers as add_scale_parsers
    from v05ray.cli.simulate import add_parser as add_simulate_parser
    from v05ray.cli.submit import add_parsers as add_submit_parsers
    from v05ray.cli.value import add_parser as add_value_parser

    add_replay_parsers(commands)
    add_scale_parsers(commands)
    add_simulate_parser(commands)
    add_submit_parsers(commands)
    add_value_parser(commands)
    return parser


def _add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    intermix(parser)
    parser.add_argument("config", type=Path, nargs=None if required else "?", help="a YAML file, such as jobs/*.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, such as run.num_steps=10")


def _train(parsed: argparse.Namespace) -> int:
    from v05ray.stopping.stop_signals import StopSignals

    with StopSignals() as signals:  # also while the libraries are imported, which takes seconds
        from v05ray.cli.console import print_asked, print_outcome
        from v05ray.job.config_files import load_config

        config = load_config(parsed.config, parsed.overrides)
        print_asked(config)
        from v05ray.launch.training import run

        outcome = run(config, resume=parsed.resume)
        signals.ending()
        print_outcome(config, outcome)
        return outcome.exit_code


def _doctor(parsed: argparse.Namespace) -> int:
    from v05ray.cli.doctor import doctor

    return doctor(parsed.config, parsed.overrides)

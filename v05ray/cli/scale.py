"""The commands `v05ray status RUN` and `v05ray scale RUN --generators N`."""

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from v05ray.errors import ConfigError
from v05ray.storage.status import SILENT_AFTER_S, RunStatus, describe, read_events, read_status, timeline


def add_parsers(commands: Any) -> None:
    """Adds both commands to an argparse sub-parsers object."""
    status = commands.add_parser(
        "status", help="the state of a run: roles, versions, backlog, last step (also afterwards)"
    )
    status.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder")
    status.add_argument("--timeline", action="store_true", help="what happened to generators and nodes, and when")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=_status)

    scale = commands.add_parser("scale", help="change the number of generators of a run in progress")
    scale.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder")
    scale.add_argument("--generators", type=int, required=True, metavar="N", help="how many there should be")
    scale.set_defaults(run=_scale)


def _status(parsed: argparse.Namespace) -> int:
    folder: Path = parsed.run_folder
    status = read_status(folder)
    if parsed.timeline:
        events = read_events(folder)
        print(json.dumps(events, indent=1) if parsed.json else timeline(events))
    else:
        now = time.time()
        print(json.dumps(asdict(status), indent=1) if parsed.json else describe(status, name=folder.name, now=now))
    return 0


def _scale(parsed: argparse.Namespace) -> int:
    folder: Path = parsed.run_folder
    status = read_status(folder)
    if status.state == "ended":
        raise ConfigError(f"{folder} has ended; `v05ray train {folder}/config.yaml --resume {folder}` resumes it")
    silent_s = status.silent_s(time.time())
    if silent_s > SILENT_AFTER_S:
        raise ConfigError(f"{folder} has been silent for {silent_s:.0f} s: it does not run any more, or cannot answer")
    _send_target(status, parsed.generators)
    print(
        f"{folder.name}: {status.wanted} -> {parsed.generators} generators asked for; "
        f"`v05ray status {folder}` shows them come and go"
    )
    return 0


def _send_target(status: RunStatus, num_generators: int) -> None:
    """Sets the target of the run's scheduler. Raises `ConfigError` where it cannot be reached from here, or refuses."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    where = f"the run's Ray cluster {status.ray_address}"
    try:
        ray.init(
            address=status.ray_address, namespace=status.namespace, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{where} cannot be joined from here ({error}); give the command on one of its nodes, such as with "
            "`ray exec clusters/aws.yaml ...` or `kubectl exec`"
        ) from error
    try:
        scheduler: Any = ray.get_actor(status.scheduler)
        ray.get(scheduler.set_target.remote(num_generators), timeout=30)
    except RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise error.cause from None
        raise
    except (ValueError, RayError) as error:
        raise ConfigError(f"{where} is there, but the run's scheduler does not answer ({error})") from error
    finally:
        ray.shutdown()

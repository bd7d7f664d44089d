"""The commands `v05ray submit` and `v05ray jobs`: arguments in, text and an exit code out."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from v05ray.cli.arguments import intermix
from v05ray.config.redaction import redact
from v05ray.errors import ConfigError


def add_parsers(commands: Any) -> None:
    """Adds both commands to an argparse sub-parsers object; each sets `run` to a function of the parsed arguments."""
    submit = commands.add_parser("submit", help="run a job file on a Ray cluster")
    intermix(submit)
    submit.add_argument("config", type=Path, help="a YAML file, such as jobs/*.yaml")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, such as run.num_steps=10")
    _add_address(submit)
    submit.add_argument("--follow", action="store_true", help="print the job's output and end with its exit code")
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="pass this variable of yours to the job (repeatable)"
    )
    submit.add_argument("--store-secrets", action="store_true", help="let Ray store variables that sound secret")
    submit.add_argument(
        "--include", action="append", default=[], type=Path, metavar="PATH", help="send this file or folder as well"
    )
    submit.add_argument("--limit-mib", type=float, default=50.0, metavar="MIB", help="largest upload (default: 50)")
    submit.add_argument(
        "--grace-s", type=int, default=300, metavar="S", help="time for a checkpoint when stopped (default: 300)"
    )
    submit.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="RUN",
        help="resume RUN (a folder that every node sees; without one: the newest run of this name, if any)",
    )
    submit.add_argument("--dry-run", action="store_true", help="say what would be sent and asked for, and end")
    submit.set_defaults(run=run_submit)

    jobs = commands.add_parser("jobs", help="look at, follow or stop jobs of a Ray cluster")
    actions = jobs.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="one job in full, or all of them in a line each")
    status.add_argument("id", nargs="?", help="a submission id")
    _add_address(status)
    status.set_defaults(run=run_status)
    logs = actions.add_parser("logs", help="print a job's output")
    logs.add_argument("id", help="a submission id")
    logs.add_argument("--follow", action="store_true", help="print until the job ends, then exit with its code")
    _add_address(logs)
    logs.set_defaults(run=run_logs)
    stop = actions.add_parser("stop", help="stop a job after its step in progress, with a checkpoint")
    stop.add_argument("id", help="a submission id")
    stop.add_argument("--wait-s", type=float, default=330.0, metavar="S", help="how long to wait for its end")
    _add_address(stop)
    stop.set_defaults(run=run_stop)


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="the head's dashboard, http://HOST:8265 (or RAY_ADDRESS)")


def run_submit(parsed: argparse.Namespace) -> int:
    """Starts the job; 0, or with --follow the job's own exit code (130 after Ctrl-C, which lets it run on)."""
    from v05ray.submit.client import connect, explained, submit
    from v05ray.submit.request import make_request

    request = make_request(
        parsed.config,
        parsed.overrides,
        environment=os.environ,
        env_names=parsed.env,
        store_secrets=parsed.store_secrets,
        included=parsed.include,
        limit_mib=parsed.limit_mib,
        grace_s=parsed.grace_s,
        resume=parsed.resume,
    )
    size = f"{len(request.shipment.files)} files, {request.shipment.num_bytes / 2**20:.1f} MiB"
    if parsed.dry_run:
        _say(f"would send {size}, named {request.id_stem}\nwould run {request.entrypoint}")
        _say(f"environment: {', '.join(sorted(request.env_vars))}")
        return 0
    jobs = connect(parsed.address)
    _say(f"sending {size}")
    with explained():
        job_id = submit(jobs, request)
    _say(f"job {job_id}: {request.entrypoint}")
    print(job_id, flush=True)
    if parsed.follow:
        return follow_to_end(jobs, job_id, parsed.address)
    _say(_how_to(job_id, parsed.address))
    return 0


def run_status(parsed: argparse.Namespace) -> int:
    """Prints a job, or all of them; environment variables by name alone."""
    from v05ray.submit.client import connect, explained

    jobs = connect(parsed.address)
    with explained(parsed.id, jobs):
        details = [jobs.get_job_info(parsed.id)] if parsed.id else jobs.list_jobs()
    if parsed.id:
        print(describe(details[0]))
        return 0
    for job in sorted((job for job in details if job.submission_id), key=lambda job: job.start_time or 0):
        metadata = job.metadata or {}
        print(f"{job.submission_id:<32} {job.status:<10} {_time(job.start_time):<20} {metadata.get('recipe', '')}")
    return 0


def run_logs(parsed: argparse.Namespace) -> int:
    """Prints a job's output so far; with --follow until its end."""
    from v05ray.submit.client import connect, explained

    jobs = connect(parsed.address)
    with explained(parsed.id, jobs):
        jobs.get_job_info(parsed.id)
        if not parsed.follow:
            sys.stdout.write(jobs.get_job_logs(parsed.id))
            return 0
    return follow_to_end(jobs, parsed.id, parsed.address)


def run_stop(parsed: argparse.Namespace) -> int:
    """Stops a job; 0 once it has ended, 1 where it still runs after --wait-s."""
    from v05ray.submit.client import TERMINAL, connect, explained, stop

    jobs = connect(parsed.address)
    with explained(parsed.id, jobs):
        before = jobs.get_job_info(parsed.id)
        if before.status in TERMINAL:
            _say(f"job {parsed.id} had ended already: {before.status}")
            return 0
        _say(f"job {parsed.id}: asked to stop; it finishes its step and writes a checkpoint")
        details = stop(jobs, parsed.id, wait_s=parsed.wait_s)
    _say(_outcome(parsed.id, details))
    return 0 if details.status in TERMINAL else 1


def follow_to_end(jobs: Any, job_id: str, address: str | None) -> int:
    """Prints the job's output until it ends; its exit code, or 130 after Ctrl-C."""
    from v05ray.submit.client import LostHead, exit_code, explained, follow

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    try:
        with explained(job_id, jobs):
            details = asyncio.run(follow(jobs, job_id, write))
    except KeyboardInterrupt:
        _say(f"\ndetached: job {job_id} runs on\n{_how_to(job_id, address)}")
        return 130
    except LostHead as error:
        raise ConfigError(f"lost the head: {error}; job {job_id} may run on\n{_how_to(job_id, address)}") from error
    _say(_outcome(job_id, details))
    return exit_code(details.status, details.driver_exit_code)


def describe(details: Any) -> str:
    """A job in some lines. Values of environment variables are never shown, nor is a credential in any text."""
    environment = sorted((details.runtime_env or {}).get("env_vars") or {})
    lines = [
        ("job", details.submission_id or details.job_id),
        ("status", str(details.status)),
        ("message", details.message),
        ("exit code", details.driver_exit_code),
        ("started", _time(details.start_time)),
        ("ended", _time(details.end_time)),
        ("command", details.entrypoint),
        ("environment", ", ".join(environment)),
        *sorted((details.metadata or {}).items()),
    ]
    return "\n".join(f"{name + ':':<13} {redact(str(value))}" for name, value in lines if value not in (None, ""))


def _outcome(job_id: str, details: Any) -> str:
    seconds = ((details.end_time or 0) - (details.start_time or 0)) / 1000
    took = f" after {seconds:.0f} s" if details.end_time and details.start_time else ""
    code = f", exit code {details.driver_exit_code}" if details.driver_exit_code is not None else ""
    return f"job {job_id}: {details.status}{took}{code}: {redact(details.message or '')}".rstrip(": ")


def _how_to(job_id: str, address: str | None) -> str:
    where = f" --address {redact(address)}" if address else ""
    return f"follow: v05ray jobs logs {job_id} --follow{where}\nstop:   v05ray jobs stop {job_id}{where}"


def _time(milliseconds: int | None) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", "seconds") if milliseconds else ""


def _say(text: str) -> None:
    """To people, on stderr: stdout is for the submission id and the job's output."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """These commands alone, for `python -m v05ray.cli.submit`."""
    parser = argparse.ArgumentParser(prog="v05ray")
    add_parsers(parser.add_subparsers(metavar="COMMAND", required=True))
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except ConfigError as error:
        print(f"v05ray: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""The cluster's side: reach the head, submit, follow, stop. Ray is imported when it is needed."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from v05ray.config.redaction import redact
from v05ray.errors import ConfigError
from v05ray.stopping.exit_codes import ExitCode
from v05ray.submit.request import Request, derive_id

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What Ray's own client takes before any address it is given."""
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
REACH_S = 10.0
"""Longest wait for a head that does not answer, in seconds."""
TOKEN_FIX = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token"
NOT_YET = ("No available agent", "Failed to get head node agent")
"""The reply of a head that is up while its agent is not."""


class Jobs(Protocol):
    """The part of `ray.job_submission.JobSubmissionClient` that is used."""

    def submit_job(
        self, *, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str], submission_id: str
    ) -> str:
        """Starts a job; returns its submission id."""
        ...

    def list_jobs(self) -> Sequence[Any]:
        """Details of every job the head remembers."""
        ...

    def get_job_info(self, job_id: str) -> Any:
        """Details of one job."""
        ...

    def get_job_logs(self, job_id: str) -> str:
        """All it has printed."""
        ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Its output from the start, streamed."""
        ...

    def stop_job(self, job_id: str) -> bool:
        """Asks it to stop; whether it was running."""
        ...


class LostHead(Exception):
    """The head stopped answering while a job was being followed; the job may well run on."""


def check_address(address: str | None, environment: Mapping[str, str]) -> str:
    """The head's URL, `http://HOST:PORT`, from `--address` or the environment.

    Raises:
        ConfigError: none was given, it is none, or the environment names another one (Ray would take that one).
    """
    for variable in ADDRESS_VARIABLES:
        named = environment.get(variable)
        if not named:
            continue
        if address is not None and address.rstrip("/") != named.rstrip("/"):
            raise ConfigError(
                f"--address {redact(address, {})} and {variable}={redact(named, {})} differ, and Ray's client takes "
                f"the latter; unset {variable}"
            )
        address = named
        break
    fix = "give the head's dashboard, such as --address http://127.0.0.1:8265"
    if address is None:
        raise ConfigError(f"no cluster named; {fix}")
    url = urlsplit(address)
    try:
        whole = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # a port that is no number
        whole = False
    if not whole:
        raise ConfigError(f"address {redact(address, {})!r} is not of the form http://HOST:PORT; {fix}")
    return address.rstrip("/")


def connect(address: str | None, environment: Mapping[str, str] | None = None, *, timeout_s: float = REACH_S) -> Jobs:
    """A client of the head at `address`, which has answered.

    Raises:
        ConfigError: a bad address, no server there, not a Ray head, or a token is asked for.
    """
    address = check_address(address, os.environ if environment is None else environment)
    shown = redact(address, {})
    import requests

    try:
        # Ray's client asks without a deadline: a host that drops packets would hold it for minutes.
        answer = requests.get(f"{address}/api/version", timeout=timeout_s)
    except requests.exceptions.RequestException as error:
        raise ConfigError(
            f"no answer from {shown} ({type(error).__name__}); is the cluster up, and is its dashboard port (8265) "
            "forwarded to here? `ray dashboard clusters/aws.yaml` or `kubectl port-forward` does that"
        ) from error
    if answer.status_code == 401:
        # As `ray.init(address=...)` does: a head that asks for Ray's token gets the one that Ray finds here. Ray reads
        # the mode when it is imported, which is below.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except RayError as error:  # Ray's AuthenticationError
        raise ConfigError(f"{shown} refuses this client: {_first_line(error)}; {TOKEN_FIX}") from error
    except (ConnectionError, RuntimeError, ValueError, KeyError, requests.exceptions.RequestException) as error:
        raise ConfigError(
            f"{shown} answers, but not as a Ray head does ({_first_line(error)}); "
            "give the address of the dashboard, usually port 8265"
        ) from error


@contextlib.contextmanager
def explained(job_id: str | None = None, jobs: Jobs | None = None) -> Iterator[None]:
    """Turns the client's errors into `ConfigError`s that name a fix."""
    import requests
    from ray.exceptions import RayError

    try:
        yield
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ConfigError(f"the head stopped answering ({type(error).__name__}); is the cluster still up?") from error
    except RayError as error:
        raise ConfigError(f"the head refuses this client: {_first_line(error)}; {TOKEN_FIX}") from error
    except RuntimeError as error:
        if job_id is not None and "status code 404" in str(error):
            known = [job.submission_id for job in jobs.list_jobs() if job.submission_id] if jobs else []
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"the cluster knows no job {job_id!r}; its jobs: {there}") from error
        raise ConfigError(f"the head could not do it: {_last_line(error)}") from error


def submit(jobs: Jobs, request: Request, *, wait_s: float = 60.0, pause_s: float = 2.0) -> str:
    """Uploads the working directory and starts the job; returns its submission id.

    Args:
        jobs: the head's client.
        request: what to ask for.
        wait_s: how long a head may take whose agent is not up yet, in seconds.
        pause_s: between two attempts, in seconds.

    Raises:
        ConfigError: the head refuses.
    """
    taken = [job.submission_id for job in jobs.list_jobs() if job.submission_id]
    job_id = derive_id(request.id_stem, taken)
    with tempfile.TemporaryDirectory(prefix="v05ray-submit-") as folder:
        request.shipment.write(Path(folder))
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return jobs.submit_job(
                    entrypoint=request.entrypoint,
                    runtime_env={"working_dir": folder, "env_vars": dict(request.env_vars)},
                    metadata=dict(request.metadata),
                    submission_id=job_id,
                )
            except RuntimeError as error:
                if not any(sign in str(error) for sign in NOT_YET) or time.monotonic() > deadline:
                    raise
                time.sleep(pause_s)


async def follow(jobs: Jobs, job_id: str, write: Callable[[str], object], *, patience_s: float = 60.0) -> Any:
    """Writes a job's output as it comes, until the job has ended; returns Ray's details of it.

    A connection that breaks is taken up again where it broke: the head sends the output from its start, and what was
    written is left out.

    Args:
        jobs: the head's client.
        job_id: the job.
        write: gets each piece of output.
        patience_s: how long the head may be away, in seconds.

    Raises:
        LostHead: it was away for longer.
    """
    import aiohttp
    import requests

    written = 0
    heard = time.monotonic()
    while True:
        try:
            skip = written
            async for piece in jobs.tail_job_logs(job_id):
                fresh = piece[skip:]
                skip = max(0, skip - len(piece))
                written += len(fresh)
                if fresh:
                    write(fresh)
                heard = time.monotonic()
            details = await asyncio.to_thread(jobs.get_job_info, job_id)
            heard = time.monotonic()
            if details.status in TERMINAL:
                return details
        except (ConnectionError, aiohttp.ClientError, requests.exceptions.RequestException) as error:
            if time.monotonic() - heard > patience_s:
                raise LostHead(f"no answer for {patience_s:g} s ({type(error).__name__})") from error
        except RuntimeError as error:
            # Ray's client: the stream ended without a farewell, or (with a status code) the head refuses.
            if "status code" in str(error) or time.monotonic() - heard > patience_s:
                raise
        await asyncio.sleep(0.5)


def stop(jobs: Jobs, job_id: str, *, wait_s: float, pause_s: float = 1.0) -> Any:
    """Asks a job to stop and waits at most `wait_s` seconds for its end; returns Ray's details of it."""
    jobs.stop_job(job_id)
    deadline = time.monotonic() + wait_s
    while True:
        details = jobs.get_job_info(job_id)
        if details.status in TERMINAL or time.monotonic() > deadline:
            return details
        time.sleep(pause_s)


def exit_code(status: str, own: int | None) -> int:
    """0 for a job that succeeded; for one that failed its `own` exit code (see `ExitCode`), as far as Ray knows it."""
    if status == "SUCCEEDED":
        return ExitCode.DONE
    return own if status == "FAILED" and own is not None and own > 0 else ExitCode.FAILED


def _first_line(error: Exception) -> str:
    return redact(str(error).strip().partition("\n")[0])


def _last_line(error: Exception) -> str:
    """The last line of the head's traceback: the error itself."""
    return redact(str(error).strip().rpartition("\n")[2])

"""A head in memory, in place of Ray's client."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class FakeJob:
    submission_id: str
    status: str = "RUNNING"
    entrypoint: str = ""
    runtime_env: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    message: str = ""
    start_time: int = 1_000
    end_time: int | None = None
    driver_exit_code: int | None = None
    job_id: str | None = None
    files: list[str] = field(default_factory=list)


@dataclass
class FakeHead:
    """Tails are scripted: each is one connection's pieces, then what it ends with (an error, or a job status)."""

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    tails: list[tuple[list[str], Exception | str | None]] = field(default_factory=list)
    refusals: list[Exception] = field(default_factory=list)
    status_after_stop: str = "STOPPED"

    def submit_job(
        self, *, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str], submission_id: str
    ) -> str:
        if self.refusals:
            raise self.refusals.pop(0)
        folder = Path(runtime_env["working_dir"])
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        self.jobs[submission_id] = FakeJob(
            submission_id, entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata, files=files
        )
        return submission_id

    def list_jobs(self) -> list[FakeJob]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> FakeJob:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.tails[0][0])

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        pieces, ending = self.tails.pop(0)
        for piece in pieces:
            yield piece
        if isinstance(ending, Exception):
            raise ending
        if ending is not None:
            self.jobs[job_id].status = ending

    def stop_job(self, job_id: str) -> bool:
        self.get_job_info(job_id).status = self.status_after_stop
        return True

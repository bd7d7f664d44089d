"""How a command ends: its exit code, and the end by a signal. The table for users is in docs/faults.md."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `v05ray`; each ending has its own."""

    DONE = 0
    """The command has done its work; a run has taken its last step."""
    FAILED = 1
    """A failure outside of the config: lost processes, a full disk, a bug. `--resume` continues once it is fixed."""
    USER_ERROR = 2
    """Something the user wrote cannot be used (config, arguments, model, data): repeating the command cannot help."""
    STOPPED = 75
    """A signal stopped the run and there is a checkpoint: `--resume` continues from it.

    sysexits.h calls 75 EX_TEMPFAIL: try again later. It is not 0, so a scheduler does not take the run for done.
    """
    STOPPED_EMPTY = 130
    """A signal stopped the command before there was any checkpoint (128 + SIGINT, a shell's code for Ctrl-C)."""


class StoppedAtOnce(KeyboardInterrupt):
    """A signal ended a run without waiting for its step; says what is left of it."""

    def __init__(self, step: int | None, folder: str) -> None:
        """`step` is that of the newest checkpoint in the run's `folder`, None where there is none."""
        self.code = ExitCode.STOPPED_EMPTY if step is None else ExitCode.STOPPED
        if step is None:
            left = f"there is no checkpoint yet: `--resume {folder}` would begin at the start"
        else:
            left = f"the checkpoint of step {step} is whole: continue with --resume {folder}"
        super().__init__(f"stopped at once; {left}")

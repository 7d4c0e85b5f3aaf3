"""What uvicorn's parent process of `--workers N` leaves out: its exit status."""

from __future__ import annotations

import functools

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess


def end_as_workers_ended() -> None:
    """From now on the parent process ends with 3 where a worker could not start.

    uvicorn ends all workers then, and itself with 0: an orchestrator would take that for success.
    """
    run = Multiprocess.run

    @functools.wraps(run)
    def run_and_tell(parent: Multiprocess) -> None:
        run(parent)
        if any(worker.exitcode == STARTUP_FAILURE for worker in parent.processes):
            raise SystemExit(STARTUP_FAILURE)

    Multiprocess.run = run_and_tell  # type: ignore[method-assign, assignment]

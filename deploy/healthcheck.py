"""The image's health check: healthy is ready; what is not live for long is ended.

    python healthcheck.py PORT      # exit status 0: ready

Docker and Compose restart a container that ends, never one that is unhealthy. So the check ends
the container: after three red answers of /health/live in a row, or none in time, it asks PID 1 to
end, and from the fourth on it kills everything but PID 1. With an init as PID 1 (`init: true`) the
container then ends, and its restart policy starts it again. A process that has never been live has
three minutes more. Not ready alone ends nothing: an outage of a server is waited out.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

# How often in a row. In a container of its own, and empty at each start.
REDS = Path("/tmp/not-live")  # noqa: S108
LIMIT = 3
# Checks are 10 s apart: a first start may take that much longer.
START_ALLOWANCE = 18
SECONDS = 4


def answers(port: int, path: str) -> bool:
    """Whether it is 200, in time. Any other answer raises, and so does none. Never by a proxy."""
    try:
        opener = build_opener(ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=SECONDS):
            return True
    except OSError:
        return False


def reds_after(live: bool, file: Path) -> int:
    """Red answers in a row, this one included; negative while the first start may still last."""
    try:
        before = int(file.read_text())
    except (OSError, ValueError):
        before = -START_ALLOWANCE
    reds = 0 if live else before + 1
    file.write_text(str(reds))
    return reds


def in_a_container_of_our_own(init: Path = Path("/proc/1")) -> bool:
    """Whether PID 1 is ours and we are not root: outside a container it is the machine's."""
    return os.getuid() != 0 and init.stat().st_uid == os.getuid()


def end(reds: int, kill: Callable[[int, int], None] = os.kill) -> None:
    if reds == LIMIT:
        kill(1, signal.SIGTERM)
    elif reds > LIMIT:
        kill(-1, signal.SIGKILL)


def main(port: int) -> int:
    reds = reds_after(answers(port, "/health/live"), REDS)
    if reds >= LIMIT and in_a_container_of_our_own():
        end(reds)
    return 0 if answers(port, "/health/ready") else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

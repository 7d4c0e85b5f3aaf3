"""Where the servers' programs live: on this machine, or in a root of their own (see make_root.sh).

A command in a root runs under chroot in a private mount namespace. Its /proc, /sys and /dev are
visible to that process only and go with it, so there is nothing to unmount, not even after a crash.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ServerFailed, ServersUnavailable

# Debian's /usr/sbin/rabbitmq-server changes user and logs to /var/log: take the one behind it.
PROGRAM_FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    *os.environ.get("PATH", os.defpath).split(os.pathsep),
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)
ENTER_ROOT = """
set -e
for folder in proc sys dev; do mount --rbind "/$folder" "$1/$folder"; done
exec chroot "$@"
"""
COMMAND_SECONDS = 300.0


@dataclass(frozen=True)
class Place:
    root: Path | None = None

    def find(self, *programs: str) -> str | None:
        """The path of the first of these programs that is there."""
        for program in programs:
            for folder in PROGRAM_FOLDERS:
                # A root's links point inside the root: exists() would follow them on this machine.
                if os.path.lexists(self.outside(f"{folder}/{program}")):
                    return f"{folder}/{program}"
        return None

    def command(self, *words: str) -> list[str]:
        """Exec all the way down: the process started with this is the program itself."""
        if self.root is None:
            return list(words)
        return ["unshare", "--mount", "sh", "-c", ENTER_ROOT, "enter-root", str(self.root), *words]

    def new_folder(self, prefix: str) -> Path:
        if self.root is None:
            return Path(tempfile.mkdtemp(prefix=prefix))
        shutil.copyfile("/etc/hosts", self.root / "etc/hosts")
        return Path(tempfile.mkdtemp(prefix=prefix, dir=self.root / "tmp"))

    def inside(self, path: Path) -> str:
        """A path as the programs see it."""
        return str(path if self.root is None else "/" / path.relative_to(self.root))

    def outside(self, path: str) -> Path:
        return Path(path) if self.root is None else self.root / path.lstrip("/")

    def run(self, *words: str, environment: Mapping[str, str], standard_input: str = "") -> str:
        with subprocess.Popen(
            self.command(*words),
            env=clean_environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as program:
            try:
                output, errors = program.communicate(standard_input, COMMAND_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise ServerFailed(f"{words[0]}: no end after {COMMAND_SECONDS:g} s") from error
            finally:
                # Also what it started: an installer is a script that runs the server.
                if program.poll() is None:
                    os.killpg(program.pid, signal.SIGKILL)
        if program.returncode != 0:
            said = f"{output}{errors}".strip()
            raise ServerFailed(f"{words[0]} ended with {program.returncode}:\n{said}")
        return output


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Nothing inherited: a developer's RABBITMQ_… or MYSQL_… must not reach a private server."""
    return {"PATH": os.pathsep.join(PROGRAM_FOLDERS), "LANG": "C.UTF-8", **environment}


def chosen_place() -> Place:
    root = os.environ.get("TEST_SERVERS_ROOT")
    if not root:
        return Place()
    if os.geteuid() != 0:
        raise ServersUnavailable(
            "TEST_SERVERS_ROOT is set, and chroot needs root",
            "run the tests as root (sudo), or unset TEST_SERVERS_ROOT",
        )
    return Place(Path(root).resolve())

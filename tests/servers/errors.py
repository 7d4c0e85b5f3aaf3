# ruff: noqa: N818 (they are named for what happened)
"""What can go wrong with the servers of the tests.

ServersError
├── ServersUnavailable   no server to be had; the message says what to install or set
├── ServerFailed         a private server or its client failed; the message ends with its output
└── NotOurs              asked to start, end or open up a server that was only lent to the tests
"""

NO_SERVER = "no real server: "


class ServersError(Exception):
    pass


class ServersUnavailable(ServersError):
    def __init__(self, missing: str, *remedies: str) -> None:
        self.missing = NO_SERVER + missing
        super().__init__("\n  - ".join([self.missing, *remedies]))


class ServerFailed(ServersError):
    pass


class NotOurs(ServersError):
    pass

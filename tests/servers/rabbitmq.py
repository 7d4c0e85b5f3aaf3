"""A private RabbitMQ with an epmd of its own, or the broker TEST_MQ_URL names."""

import json
import secrets
import socket
from collections.abc import Mapping
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlsplit

from .errors import ServerFailed, ServersUnavailable
from .handshake import rabbitmq_version
from .place import Place
from .process import Process, free_ports, wait_until
from .server import PASSWORD, USER, GivenServer, PrivateServer
from .tls import ServerCertificate

EPMD_SECONDS = 120.0
CONFIGURATION = f"""\
default_user = {USER}
default_pass = {PASSWORD}
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
"""
TLS_CONFIGURATION = """\
listeners.ssl.1 = {host}:{port}
ssl_options.certfile = {folder}/certificate.pem
ssl_options.keyfile = {folder}/key.pem
"""
# Nodes and their tools talk to each other on the loopback interface only, and start no epmd: with
# the standard one not running, they would leave one behind.
DISTRIBUTION = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"

SETTLE = "[ok = dets:sync(Table) || Table <- dets:all()]"
# Who does it, in the broker's log.
TESTS = '<<"tests">>'


class RabbitServer(PrivateServer):
    title: ClassVar[str] = "RabbitMQ"

    def __init__(self, place: Place, server: str, control: str, epmd: str) -> None:
        port, self.tls_port, self._dist_port, self._epmd_port = free_ports(4)
        super().__init__(place, port)
        self._server = server
        self._control = control
        self._epmd_program = epmd
        self._call = place.find("erl_call")
        self._epmd: Process | None = None
        self._node = f"orders-{secrets.token_hex(4)}@localhost"
        self.cookie = secrets.token_hex(16)
        # From the next start on it offers TLS with this one, on a port of its own.
        self.certificate: ServerCertificate | None = None

    @classmethod
    def find(cls, place: Place) -> Self:
        server = place.find("rabbitmq-server")
        control = place.find("rabbitmqctl")
        epmd = place.find("epmd")
        if server is None or control is None or epmd is None:
            raise ServersUnavailable(
                "no RabbitMQ (rabbitmq-server, rabbitmqctl and Erlang's epmd)",
                "install it: apt-get install rabbitmq-server",
                "or set TEST_MQ_URL=amqp://user:password@host:5672/vhost to one the tests may use",
                "or, as root, let tests/servers/make_root.sh make a folder with MySQL and RabbitMQ"
                " in it and set TEST_SERVERS_ROOT to that folder",
            )
        return cls(place, server, control, epmd)

    def url(self, vhost: str = "/") -> str:
        return f"amqp://{USER}:{PASSWORD}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def create_vhost(self, name: str) -> str:
        """An empty vhost, and the user's permissions in it."""
        self.import_definitions({"vhosts": [{"name": name}]})
        self.permit(USER, name)
        return self.url(name)

    def permit(self, user: str, vhost: str) -> None:
        """Let a user do everything in a vhost."""
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.import_definitions({"permissions": [{"user": user, "vhost": vhost, **everything}]})

    def import_definitions(self, definitions: Mapping[str, Any]) -> None:
        """Add what RabbitMQ calls definitions: vhosts, users, permissions, queues, policies."""
        self.evaluate(f"ok = rabbit_definitions:import_raw({_binary(json.dumps(definitions))})")

    def delete_vhost(self, name: str) -> None:
        self.evaluate(f"rabbit_vhost:delete({_binary(name)}, {TESTS})")

    def add_user(self, name: str, password: str) -> None:
        words = f"{_binary(name)}, {_binary(password)}, {TESTS}"
        self.evaluate(f"ok = rabbit_auth_backend_internal:add_user({words})")

    def change_password(self, name: str, password: str) -> None:
        words = f"{_binary(name)}, {_binary(password)}, {TESTS}"
        self.evaluate(f"ok = rabbit_auth_backend_internal:change_password({words})")

    def delete_user(self, name: str) -> None:
        self.evaluate(f"ok = rabbit_auth_backend_internal:delete_user({_binary(name)}, {TESTS})")

    def evaluate(self, expressions: str) -> str:
        """What these Erlang expressions come to on this node, as Erlang writes it.

        A fast way in, where `ctl` takes a second of a processor.

        Raises:
            ServerFailed: they cannot be evaluated.
        """
        if self._call is None:
            return self.ctl("eval", f"{expressions}.")
        said = self._place.run(
            *(self._call, "-address", f"{self.host}:{self._dist_port}"),
            # Under a name that the node gives: it lets no two in by the same one.
            *("-R", "-c", self.cookie, "-e"),
            environment=self._environment(),
            standard_input=f"{expressions}.\n",
        )
        if not said.startswith("{ok, "):
            raise ServerFailed(f"{expressions}: {said}")
        return said.removeprefix("{ok, ").removesuffix("}")

    def ctl(self, *arguments: str) -> str:
        """rabbitmqctl on this node."""
        return self._place.run(
            self._control,
            "--quiet",
            "--node",
            self._node,
            *arguments,
            environment=self._environment(),
        )

    def queue_arguments(self, vhost: str, queue: str) -> dict[str, Any]:
        """With what a queue was declared: {"x-queue-type": "quorum", …}."""
        rows = json.loads(
            self.ctl("list_queues", "--vhost", vhost, "--formatter", "json", "name", "arguments")
        )
        for row in rows:
            if row["name"] == queue:
                return {name: value for name, _kind, value in row["arguments"]}
        raise LookupError(f"no queue {queue!r} in vhost {vhost!r}")

    def settle(self) -> None:
        """Before killing a broker whose queues are new.

        Which quorum queues exist is on disk only about half a second after their declaration. A
        kill before that loses the queue's messages, confirmed ones too.
        """
        self.evaluate(SETTLE)

    def stop(self) -> None:
        super().stop()
        self._end_epmd()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._end_epmd()
        super().close()

    def _prepare(self) -> None:
        for name in ("home", "data", "log"):
            (self.folder / name).mkdir()
        (self.folder / "environment.conf").touch()
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / "home/.erlang.cookie"
        cookie.write_text(self.cookie)
        cookie.chmod(0o400)

    def _launch(self) -> Process:
        if self._epmd is None or not self._epmd.alive:
            self._launch_epmd()
        (self.folder / "rabbitmq.conf").write_text(CONFIGURATION + self._tls_configuration())
        return Process(
            self._place.command(self._server), self._environment(), self.folder / "server.log"
        )

    def _tls_configuration(self) -> str:
        if self.certificate is None:
            return ""
        self.certificate.write(self.folder)
        return TLS_CONFIGURATION.format(host=self.host, port=self.tls_port, folder=self._inside(""))

    def _launch_epmd(self) -> None:
        words = [self._epmd_program, "-port", str(self._epmd_port), "-address", self.host]
        log = self.folder / "epmd.log"
        self._epmd = Process(self._place.command(*words), self._environment(), log)
        try:
            wait_until(self._epmd_answers, EPMD_SECONDS, f"epmd on port {self._epmd_port}")
        except TimeoutError as error:
            raise ServerFailed(f"{error}\n{log.read_text()}") from error

    def _epmd_answers(self) -> bool:
        try:
            socket.create_connection((self.host, self._epmd_port), 1.0).close()
        except OSError:
            return False
        return True

    def _end_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()

    def _ask_version(self) -> str | None:
        return rabbitmq_version(self.host, self.port)

    def _environment(self) -> dict[str, str]:
        """Everything RabbitMQ would otherwise look for in /etc, /var or on a standard port."""
        return {
            "HOME": self._inside("home"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": self._inside("data"),
            "RABBITMQ_LOG_BASE": self._inside("log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": self._inside("environment.conf"),
            "RABBITMQ_CONFIG_FILE": self._inside("rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": self._inside("conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": self._inside("advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._inside("enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": self._inside("generated"),
            # Idle threads sleep, and leave the choice of core to the system: others work here too.
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": DISTRIBUTION,
            "RABBITMQ_CTL_ERL_ARGS": DISTRIBUTION,
            # Its start script then becomes the Erlang machine instead of watching over it, so the
            # process that gets killed or frozen is the broker itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


class GivenRabbit(GivenServer):
    """Its vhost is used as it is: two tests share it, and whatever they leave behind."""

    title: ClassVar[str] = "RabbitMQ"
    variable: ClassVar[str] = "TEST_MQ_URL"

    @classmethod
    def at(cls, url: str) -> Self:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 5672
        version = rabbitmq_version(host, port)
        if version is None:
            raise ServersUnavailable(
                f"TEST_MQ_URL names {host}:{port}, where no RabbitMQ answers",
                "start it, or unset TEST_MQ_URL and the tests look for one to start",
            )
        return cls(url, host, port, version)

    def url(self, vhost: str = "/") -> str:
        return self.given_url

    def create_vhost(self, name: str) -> str:
        return self.given_url

    def delete_vhost(self, name: str) -> None:
        """Nothing was created."""

    def ctl(self, *arguments: str) -> str:
        self._refuse("run rabbitmqctl on")

    def settle(self) -> None:
        """It is not going to be killed."""

    def queue_arguments(self, vhost: str, queue: str) -> dict[str, Any]:
        self._refuse("look up queues of")


def _binary(text: str) -> str:
    """Text as an Erlang binary, whatever it holds."""
    return f"<<{','.join(map(str, text.encode()))}>>"

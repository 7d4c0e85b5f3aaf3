"""What the web port accepts and refuses: raw requests to the service as users run it."""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.config.settings import Settings
from service.web.server import typed
from tests.factories import order_created_json
from tests.harness import settings_for
from tests.processes import HOST, ServiceProcess, service_process
from tests.servers import wait_until

ANSWER_SECONDS = 30.0
FILES = 1024


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    path = tmp_path_factory.mktemp("web") / "orders.db"
    with service_process({"SQLITE_PATH": str(path)}) as process:
        process.wait_for_status("/health/ready", 200)
        yield process


def ask(service: ServiceProcess, request: bytes) -> tuple[int, str]:
    """The status of the first answer to these bytes, and all that came until the link closed."""
    with socket.create_connection((HOST, service.port), timeout=ANSWER_SECONDS) as link:
        link.sendall(request)
        answer = b""
        while chunk := link.recv(65536):
            answer += chunk
    text = answer.decode("latin-1")
    found = re.match(r"HTTP/1\.1 (\d{3}) ", text)
    assert found, text
    return int(found[1]), text


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


LOCAL = "Host: localhost:8000"
BODY = order_created_json().decode()
SEND = ["Content-Type: application/json", f"Content-Length: {len(BODY)}"]


def order(*headers: str) -> bytes:
    """A test order as the console sends it."""
    return get("/console/send", LOCAL, *SEND, *headers, method="POST") + BODY.encode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/health/live", LOCAL), 200),
        (get("/health/live", "Host: localhost."), 200),
        (get("/health/live", "Host: LOCALHOST:1"), 200),
        (get("/health/live", "Host: 127.0.0.1"), 200),
        (get("/health/live", "Host: [::1]:8000"), 200),
        (get("/health/live", LOCAL, method="HEAD"), 200),
        (get("/metrics", "Host: evil.example:8000"), 403),
        (get("/console/data.json", "Host: 203.0.113.7"), 403),
        (get("/", "Host: localhost.evil.example"), 403),
        (get("/", "Host: evil.example", "X-Forwarded-Host: localhost"), 403),
        (get("/", "Host: xn--lcalhost-r8a"), 403),
        (get("/", "Host: "), 400),
        (get("/", "Host: local host"), 400),
        (get("/", "Host: ["), 400),
        (get("/", "Host: [::1"), 400),
        (get("/", "Host: localhost:99999999"), 400),
        (get("/", "Host: user@localhost"), 400),
        (get("/", LOCAL, "Host: evil.example"), 400),
        (get("/", LOCAL, LOCAL), 400),
        (get("/", version="1.0"), 400),
        (get("/"), 400),
        (get("http://localhost/health/live", "Host: localhost"), 404),
        (get("/%00", LOCAL), 404),
        (get("/docs/static/%00", LOCAL), 404),
        (get("/docs/static/..%2f..%2f__init__.py", LOCAL), 404),
        (get("/docs/static/" + "a" * 5000, LOCAL), 404),
        (get("/docs/static/%ff%fe", LOCAL), 404),
        (get("/console%2e", LOCAL), 404),
        (get("//evil.example/", LOCAL), 404),
        (get("/health", LOCAL, method="OPTIONS"), 405),
        (get("/health", LOCAL, method="BREW"), 405),
        (get("/health", LOCAL, method="TRACE"), 405),
        (get("/health", LOCAL, *[f"X-{n}: " + "a" * 100 for n in range(200)]), 431),
        (get("/health", LOCAL, "X: a\x00b"), 400),
        (get("/health", LOCAL, "X : y"), 400),
        (get("/health/live", LOCAL, "Upgrade: websocket", "Connection: upgrade"), 200),
        (get("/console/send", LOCAL, "Content-Length: -1", method="POST"), 400),
        (get("/console/send", LOCAL, "Content-Length: 1", "Content-Length: 2", method="POST"), 400),
        (get("/console/send", LOCAL, "Transfer-Encoding: gzip", method="POST"), 400),
        (order("Origin: http://["), 403),
        (order("Origin: null"), 403),
        (order("Origin: http://localhost:8000\r\nOrigin: http://evil.example"), 403),
        (order("Origin: ftp://localhost:8000"), 403),
        (order("Origin: http://localhost:8000@evil.example"), 403),
        (order("Origin: http://localhost:8000"), 202),
        (get("/console/send", LOCAL, "Content-Length: 2", method="POST") + b"{}", 415),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
    ],
)
def test_each_request_gets_its_status_and_no_answer_repeats_it(
    service: ServiceProcess, request_: bytes, status: int
) -> None:
    found, text = ask(service, request_)

    assert found == status
    assert "evil" not in text
    assert service.status("/health/live") == 200


@pytest.mark.parametrize("first", [0, 1])
def test_a_request_with_two_lengths_is_refused_and_what_follows_is_not_read(
    service: ServiceProcess, first: int
) -> None:
    lengths = [f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked"]
    head = [LOCAL, "Content-Type: application/json", lengths[first], lengths[1 - first]]
    request = "\r\n".join(["POST /console/send HTTP/1.1", *head, "", "0", "", ""]).encode()

    status, text = ask(service, request + get("/console", LOCAL))

    assert status == 400
    assert text.count("HTTP/1.1 ") == 1


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example"])
def test_a_page_that_rebound_its_name_sends_no_order(service: ServiceProcess, name: str) -> None:
    rebound = [f"Host: {name}", f"Origin: http://{name}", "Sec-Fetch-Site: same-origin"]
    request = get("/console/send", *rebound, *SEND, method="POST") + BODY.encode()

    assert ask(service, request)[0] == 403


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/", "console"),
        ("/console/", "../console"),
        ("/docs/asyncapi/", "../asyncapi"),
        ("/health/live/", "../live"),
    ],
)
def test_no_redirect_follows_the_host(service: ServiceProcess, path: str, location: str) -> None:
    status, text = ask(service, get(path, "Host: localhost:1"))

    assert status == 307
    assert f"\r\nlocation: {location}\r\n" in text


@pytest.mark.parametrize(
    "path",
    [
        *("/health", "/health/live", "/health/ready", "/metrics", "/console/data.json"),
        *("/console/sample.json", "/nothing", "/console/send"),
    ],
)
def test_browsers_keep_no_data_and_guess_no_type(service: ServiceProcess, path: str) -> None:
    _, text = ask(service, get(path, LOCAL))

    assert "\r\ncache-control: no-store\r\n" in text
    assert "\r\nx-content-type-options: nosniff\r\n" in text


@pytest.mark.parametrize(
    ("host", "names", "status"),
    [
        ("10.1.2.3:8000", "", 200),
        ("[fd00::1]:8000", "", 200),
        ("service:8000", "", 200),
        ("localhost", "", 200),
        ("orders.example", "", 403),
        ("orders.default.svc.cluster.local", "*.svc.cluster.local", 200),
        ("orders.example", "a.example, Orders.Example", 200),
        ("other.example", "a.example,orders.example", 403),
        ("any.example", "*", 200),
    ],
)
async def test_with_real_servers_addresses_and_names_without_a_dot_are_accepted(
    host: str, names: str, status: int
) -> None:
    app = create_app(settings_for(mq_url="amqp://u:p@127.0.0.1:1/", web_hosts=names))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        answer = await http.get("/docs/asyncapi.json", headers={"host": host})
    await app.service.database.dispose()

    assert answer.status_code == status


@pytest.mark.parametrize("names", ["http://a.example", "a.example:8000", "a b", "*x", "é"])
def test_a_name_that_is_none_is_a_fault_of_the_configuration(names: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        Settings(web_hosts=names)


# Options of the command line


def test_options_for_uvicorn_are_of_their_types() -> None:
    options = {"limit_concurrency": "50", "backlog": "7", "server_header": "false", "host": "1"}

    assert typed(options | {"fd": None, "nothing": "x"}) == {
        "limit_concurrency": 50,
        "backlog": 7,
        "server_header": False,
        "host": "1",
        "fd": None,
        "nothing": "x",
    }


@pytest.mark.parametrize("value", ["many", True, ["1", "2"]])
def test_an_option_that_is_no_number_ends_the_start_in_a_sentence(value: object) -> None:
    with pytest.raises(SystemExit, match=r"^--limit-concurrency: Input should be a valid integer"):
        typed({"limit_concurrency": value})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_number_on_the_command_line_reaches_uvicorn(tmp_path: Path, workers: str) -> None:
    numbers = [
        *("--limit-concurrency", "50", "--backlog", "64", "--timeout-keep-alive", "3"),
        *("--limit-max-requests", "1000", "--h11-max-incomplete-event-size", "8192"),
        *("--timeout-graceful-shutdown", "3", "--limit-max-requests-jitter", "5"),
    ]
    environment = {"SQLITE_PATH": str(tmp_path / "orders.db")}
    with service_process(environment, "--workers", workers, *numbers) as service:
        service.wait_for_status("/health/live", 200)
        assert ask(service, b"GET / HTTP/1.1\r\nX: " + b"a" * 9000)[0] == 400
        service.terminate()
        service.wait()
        assert not any("TypeError" in line for line in service.lines)


# Slow and half-sent requests

HALVES = [
    b"",
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n",
    b"POST /console/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


def test_slow_and_half_sent_requests_leave_the_probes_and_the_relay_their_files(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    environment = {"SQLITE_PATH": str(tmp_path / "orders.db"), "RELAY_POLL_SECONDS": "0.1"}
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))  # for the service: it inherits it
    try:
        stack = ExitStack()
        service = stack.enter_context(service_process(environment))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4 * FILES), hard), hard))
    with stack:
        service.wait_for_status("/health/ready", 200)
        for number in range(2 * FILES):
            link = stack.enter_context(socket.create_connection((HOST, service.port)))
            link.sendall(HALVES[number % len(HALVES)])
            if number % 256 == 0:
                assert service.status("/health/live") == 200
        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            assert service.status(path) == 200
        assert ask(service, order())[0] == 202
        wait_until(lambda: published(service) == 1, ANSWER_SECONDS, "an event published")
        assert open_files(service) < FILES / 2
        assert not any("Too many open files" in line for line in service.lines)
        service.terminate()
        service.wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_request_that_never_ends_is_cut(tmp_path: Path) -> None:
    environment = {"SQLITE_PATH": str(tmp_path / "orders.db"), "WEB_EXCHANGE_SECONDS": "1"}
    with service_process(environment) as service:
        service.wait_for_status("/health/live", 200)
        for half in HALVES[:3]:
            with socket.create_connection((HOST, service.port), timeout=ANSWER_SECONDS) as link:
                link.sendall(half)
                assert is_cut(link)


def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    environment = {"SQLITE_PATH": str(tmp_path / "orders.db"), "WEB_EXCHANGE_SECONDS": "1"}
    path = "/docs/static/asyncapi-react-component/index.js"
    with service_process(environment) as service:
        service.wait_for_status("/health/live", 200)
        with socket.socket() as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.connect((HOST, service.port))
            link.sendall(get(path, LOCAL))
            assert service.status("/health/live") == 200
            assert is_held(service, link)
            wait_until(lambda: not is_held(service, link), ANSWER_SECONDS, "its connection cut")


def test_half_a_request_does_not_hold_up_the_end(service_ended_beside_half_a_request: int) -> None:
    assert service_ended_beside_half_a_request in {0, -15, 143}


@pytest.fixture
def service_ended_beside_half_a_request(tmp_path: Path) -> int:
    environment = {"SQLITE_PATH": str(tmp_path / "orders.db"), "WEB_EXCHANGE_SECONDS": "300"}
    with service_process(environment) as service:
        service.wait_for_status("/health/live", 200)
        with socket.create_connection((HOST, service.port)) as link:
            link.sendall(HALVES[2])
            assert service.status("/health/live") == 200
            service.terminate()
            return service.wait()


def is_cut(link: socket.socket) -> bool:
    try:
        return not link.recv(1)
    except ConnectionResetError:
        return True


def is_held(service: ServiceProcess, link: socket.socket) -> bool:
    """Whether the service's end of the link is established, by the kernel's list."""
    ends = (f":{service.port:04X}", f":{link.getsockname()[1]:04X}", "01")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, ours, theirs, state, *_ = line.split()
        if (ours[-5:], theirs[-5:], state) == ends:
            return True
    return False


def published(service: ServiceProcess) -> float:
    _, text = ask(service, get("/metrics", LOCAL))
    found = re.search(r"^orders_relay_published_total (\S+)\r?$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def open_files(service: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))

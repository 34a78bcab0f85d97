"""How long HTTP servers wait for clients that never finish, and whether others get in meanwhile.

hypercorn and granian are no dependencies; install them by hand into a folder of their own:

    pip install --target /tmp/servers hypercorn==0.18.0 granian==2.8.9
    PYTHONPATH=/tmp/servers python -m benchmarks.decisions.http_servers --output benchmarks/results/http_servers.json

Every server runs the same application, which only answers, with time-outs of 10 to 15 seconds where it has any, and may
have 1024 files open. It takes seven minutes, nearly all of them waiting.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from importlib import metadata
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.measuring import Results
from personalive.live.http.server import UVICORN
from personalive.net.connection import ROOM, TLS
from personalive.net.waiting import WaitingRoom

MESSAGE = MutableMapping[str, Any]
PATIENCE = 75.0
"""Seconds after which a connection counts as kept for ever."""
EACH, CROWD, FILES = 40, 1300, 1024
"""Connections of each kind; of the crowd; files that a server may have open."""
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
KINDS = {
    "nothing": b"",
    "half a head": HEAD + b"X-More: ",
    "half a second head": HEAD + b"\r\n" + HEAD,
    "half a body": b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc",
    "half a TLS handshake": b"\x16\x03\x01\x02\x00\x01",
    "reads no answer": b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
}
SERVERS = {
    "uvicorn": "-m uvicorn {app} --port {port} --log-level critical --ssl-certfile {cert} --ssl-keyfile {key}",
    "hypercorn": "-m hypercorn {app} -b 127.0.0.1:{port} --certfile {cert} --keyfile {key} --keep-alive 15 "
    "--read-timeout 10",
    "granian": "-m granian {app} --interface asgi --port {port} --log-level critical --ssl-certificate {cert} "
    "--ssl-keyfile {key} --http1-header-read-timeout 10000",
    "personalive": "-m benchmarks.decisions.http_servers --serve {port} --cert {cert} --key {key}",
}


async def app(
    scope: MESSAGE, receive: Callable[[], Awaitable[MESSAGE]], send: Callable[[MESSAGE], Awaitable[None]]
) -> None:
    """Answer, after the body where one is wanted."""
    if scope["type"] == "lifespan":
        await receive()
        scope.get("state", {}).update({ROOM: WaitingRoom(), TLS: _context()})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while scope["path"] == "/body" and (await receive()).get("more_body"):
        pass
    body = bytes(1_000_000 if scope["path"] == "/large" else 2)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def _context() -> ssl.SSLContext | None:
    """For the server that starts TLS itself."""
    if "SERVER_CERT" not in os.environ:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["SERVER_CERT"], os.environ["SERVER_KEY"])
    return context


# ---- clients ----


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def over_tls(connection: socket.socket) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def is_open(connection: socket.socket, *, reads: bool) -> bool:
    """Whether the server has kept it; without reading, as Linux knows it: 1 is established."""
    if not reads:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1
    try:
        while connection.recv(65536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False


def lifetime(port: int, kind: str) -> float | None:
    """Seconds until the last of some connections is ended; None: longer than anybody waits."""
    began, reads = time.monotonic(), kind != "reads no answer"
    connections: list[socket.socket] = []
    for _ in range(EACH):
        bare = opened(port)
        connection = bare if "TLS" in kind else over_tls(bare)
        connection.sendall(KINDS[kind])
        connection.setblocking(False)
        connections.append(connection)
    try:
        while time.monotonic() < began + PATIENCE:
            connections = [each for each in connections if is_open(each, reads=reads)]
            if not connections:
                return round(time.monotonic() - began, 1)
            time.sleep(0.25)
    finally:
        for each in connections:
            each.close()
    return None


def wait_beside_a_crowd(port: int) -> float | None:
    """Seconds that a newcomer waits for its answer while a crowd holds half requests."""
    crowd = []
    with contextlib.suppress(OSError):
        for _ in range(CROWD):
            connection = opened(port)
            connection.sendall(KINDS["half a TLS handshake"])
            crowd.append(connection)
    began = time.monotonic()
    try:
        while time.monotonic() < began + PATIENCE:
            with contextlib.suppress(OSError), over_tls(opened(port)) as newcomer:
                newcomer.sendall(HEAD + b"\r\n")
                if newcomer.recv(100).startswith(b"HTTP/1.1 200"):
                    return round(time.monotonic() - began, 2)
    finally:
        for each in crowd:
            each.close()
    return None


# ---- servers ----


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[int]:
    """A server in another process; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = {"app": "benchmarks.decisions.http_servers:app", "port": port, "cert": folder / "cert.pem"}
    command = SERVERS[name].format(**names, key=folder / "key.pem").split()
    process = subprocess.Popen([sys.executable, *command], preexec_fn=_few_files, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, f"{name} ended"
            with contextlib.suppress(OSError), over_tls(opened(port)):
                break
            time.sleep(0.2)
        yield port
    finally:
        process.kill()
        process.wait()


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


async def measure(name: str, folder: Path) -> dict[str, float | None]:
    """All kinds at once, as they only wait; then the crowd, alone."""
    with running(name, folder) as port:
        found = await asyncio.gather(*(asyncio.to_thread(lifetime, port, kind) for kind in KINDS))
    with running(name, folder) as port:
        return {**dict(zip(KINDS, found, strict=True)), "a newcomer beside a crowd": wait_beside_a_crowd(port)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--cert", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        os.environ.update(SERVER_CERT=options.cert, SERVER_KEY=options.key)
        uvicorn.run("benchmarks.decisions.http_servers:app", port=options.serve, **UVICORN)
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (8000, 8000))
    results = Results(options.output)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = f"req -x509 -newkey rsa:2048 -nodes -keyout {folder}/key.pem -out {folder}/cert.pem -days 2 -subj /CN=x"
        subprocess.run(["openssl", *made.split()], check=True, capture_output=True)
        for name in SERVERS:
            results.add(f"{name}: version", metadata.version("uvicorn" if name == "personalive" else name))
            for kind, seconds in asyncio.run(measure(name, folder)).items():
                results.add(f"{name}: {kind}", "for ever" if seconds is None else seconds)


if __name__ == "__main__":
    main()

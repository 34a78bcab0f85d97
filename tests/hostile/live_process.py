"""The live server as operators start it, in a process of its own, for clients that mean it no good.

With `PERSONALIVE_TREE` at another checkout its server is taken, so that the same attacks can be shown to have worked on
an older one: `PERSONALIVE_TREE=/tmp/old-live python -m pytest tests/hostile/test_live_http.py`. With
`PERSONALIVE_WORKERS=2` they meet a front over two workers.
"""

import contextlib
import dataclasses
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from tests.live_support import WAIT, until

SERVER = Path(__file__).with_name("live_server.py")
TREE = Path(os.environ.get("PERSONALIVE_TREE", Path(__file__).parents[2])).resolve()


@dataclasses.dataclass
class LiveProcess:
    """A server in another process."""

    port: int
    process: psutil.Process
    log: Path
    scheme: str = "http"
    context: ssl.SSLContext | None = None
    """To trust its certificate."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def connect(self, first: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """A bare connection, with the first bytes sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT, source_address=(source, 0))
        connection.sendall(first)
        return connection

    def ask(self, request: bytes, source: str = "127.0.0.1") -> bytes:
        """All that the server answers to these bytes before it hangs up."""
        with self.connect(request, source) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    answer += part
        return answer

    def health(self, source: str = "127.0.0.1") -> int:
        """Status of `/health` for a new client."""
        answer = self.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", source)
        return int(answer.split()[1])

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT, **options)

    def sockets(self) -> list[str]:
        """Local addresses of its UDP sockets."""
        return [each.laddr.ip for each in self.process.net_connections("udp")]

    def defects(self) -> str:
        """What its log says of errors in this package; aiortc's tasks may fail when their connection is closed."""
        text = self.log.read_text()
        return text if "ASGI" in text or re.search(r'File ".*/personalive/live/', text) else ""


@contextlib.contextmanager
def served(folder: Path, *flags: str, scheme: str = "http", **environment: str) -> Iterator[LiveProcess]:
    """Run a server until the block ends; its log lies in the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"server_{port}.log"
    command = [sys.executable, str(SERVER), "--port", str(port), *flags]
    if "PERSONALIVE_WORKERS" in os.environ:
        command += ["--workers", os.environ["PERSONALIVE_WORKERS"]]
    kept = {name: value for name, value in os.environ.items() if name != "PERSONALIVE_TOKEN"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=TREE,
            env={**kept, "PYTHONPATH": str(TREE), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = LiveProcess(port, psutil.Process(process.pid), log, scheme)

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{running.url}/health", verify=False).json()["pipeline"] == "loaded"
        return False

    try:
        until(is_up, 120)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def kept_open(connections: list[socket.socket]) -> int:
    """How many of these the server has not ended."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            while connection.recv(65536):
                pass
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count

"""A live server for tests: the real application behind the real web server, over a model that echoes."""

import asyncio
import contextlib
import dataclasses
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from personalive.live.core.faces import Faces
from personalive.live.core.parameters import LoadParameters
from personalive.live.http.server import UVICORN, create_app
from personalive.live.options import ServeOptions
from personalive.net.server import Server
from personalive.testing.echo import EchoEngine

WAIT = 120.0
"""Seconds that a test waits for something that comes: only what hangs takes as long, on a slow machine too."""

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def picture(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """A plain picture as a file."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


@dataclasses.dataclass
class LiveServer:
    """A running server."""

    url: str
    app: Any
    engine: EchoEngine
    loop: asyncio.AbstractEventLoop

    @property
    def hub(self) -> Any:
        return self.app.state.hub

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT, **options)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the server's loop."""

        async def run() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)


@contextlib.contextmanager
def live_server(
    engine: EchoEngine | None = None,
    faces: Faces | None = None,
    factory: Callable[..., Any] | None = None,
    **options: Any,
) -> Iterator[LiveServer]:
    """Run a server until the block ends."""
    engine = engine or EchoEngine(256, 256, chunk_frames=4, delay_frames=12)

    def echo(parameters: LoadParameters, at_stage: Callable[[str], None]) -> EchoEngine:
        engine.width = parameters.width or engine.width
        engine.height = parameters.height or engine.height
        return engine

    app = create_app(ServeOptions(**{"port": 0, "offer_rate": 1e6, **options}), factory or echo, faces)
    # With its protocol named, as uvicorn makes it: else asyncio does not switch Nagle's algorithm off, and waits 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        config = uvicorn.Config(app, timeout_graceful_shutdown=2, **UVICORN)
        server = Server(config)
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[bound])

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            app.state.hub.loader.wait()
            yield LiveServer(f"http://127.0.0.1:{port}", app, engine, loops[0])
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive(), "the server did not stop"


def until(condition: Callable[[], Any], seconds: float = WAIT) -> Any:
    """Wait for something to become true, and give it."""
    end = time.monotonic() + seconds
    while (value := condition()) is None or value is False or (not hasattr(value, "shape") and not value):
        assert time.monotonic() < end, f"did not happen within {seconds:g} seconds"
        time.sleep(0.02)
    return value


def border_colour(image: np.ndarray) -> np.ndarray:
    """Mean colour of the upper border of a picture: whose portrait it is."""
    return image[2:10, 20:-20].reshape(-1, 3).mean(axis=0)


def shows(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether a picture has the border of this portrait."""
    return bool(np.abs(border_colour(image) - colour).max() < 40)

"""The live page with the demo's driver before the camera: what measurements and pictures of it share."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
from playwright.sync_api import Browser, sync_playwright

from personalive.testing.browser import chromium, write_camera
from personalive.types import RGBArray

DRIVER = Path("demo/driver.mp4")


def driving_file(folder: Path) -> Path:
    """The demo's driver as a file for Chromium's camera."""
    with av.open(str(DRIVER)) as container:
        frames: RGBArray = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return write_camera(folder / "camera.mjpeg", frames, 25)


@contextlib.contextmanager
def driven() -> Iterator[Browser]:
    """A browser with the demo's driver before its camera."""
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        chromium(playwright, driving_file(Path(folder))) as browser,
    ):
        yield browser


@contextlib.contextmanager
def served(model: str) -> Iterator[str]:
    """The server as its operator starts it, loaded: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "personalive.cli.main", "serve", "--model", model, "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_loaded(url)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def wait_until_loaded(url: str) -> None:
    """Wait for a server's model.

    Raises:
        SystemExit: that takes too long.
    """
    end = time.monotonic() + 300
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v1/pipeline/status").json()["status"] == "loaded":
                return
        time.sleep(0.2)
    raise SystemExit("the model was not loaded within five minutes")

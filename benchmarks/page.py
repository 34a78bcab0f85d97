"""The live page with the demo's driver before the camera: what measurements and pictures of it share."""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from personalive.assets import DEMO_DRIVER
from personalive.media.video_reader import probe, read_frames
from personalive.testing.browser import PATIENCE, chromium, write_camera

LOADING_SECONDS = 300
CAMERA_FPS = 25
FRAMES = 150
"""Of the driver, which then begins again."""
SERVE = ("-m", "personalive.cli.main", "serve")


def driving_file(folder: Path) -> Path:
    """The demo's driver as a file for Chromium's camera."""
    frames = np.stack(list(itertools.islice(read_frames(probe(DEMO_DRIVER)), FRAMES)))
    return write_camera(folder / "camera.mjpeg", frames, CAMERA_FPS)


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
def served(*arguments: str, **environment: str) -> Iterator[tuple[str, int]]:
    """A loaded server in a process of its own, until the block ends: its address and process id.

    Args:
        arguments: of Python, before its port is added to them.
        environment: what it has besides this process's.
    """
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    process = subprocess.Popen([sys.executable, *arguments, "--port", str(port)], env={**os.environ, **environment})
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_loaded(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_loaded(url: str) -> None:
    end = time.monotonic() + LOADING_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v1/pipeline/status").json()["status"] == "loaded":
                return
        time.sleep(0.2)
    raise SystemExit(f"the model was not loaded within {LOADING_SECONDS} seconds")


def choose_and_start(page: Page, portrait: str) -> None:
    """The two clicks after which the portrait moves."""
    page.set_default_timeout(PATIENCE)
    page.get_by_role("button", name=portrait, exact=True).click()
    page.get_by_role("button", name="Start", exact=True).click()


def wait_until_driven(page: Page) -> None:
    """From here on the driver moves the portrait; before, the pictures lead from its own pose to the driver's."""
    page.wait_for_function("() => parseFloat(document.getElementById('delay').textContent) > 0")

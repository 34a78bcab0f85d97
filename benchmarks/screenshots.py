"""Pictures of the live page for the documentation, taken from the page itself.

    python -m benchmarks.screenshots [--model demo] [--folder docs/images]

The demo's driver is in front of the camera; the portraits are those that the page offers.
"""

import argparse
import contextlib
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import uvicorn
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

from personalive.live.core.faces import MeshFaces
from personalive.live.http.server import create_app, model_factory
from personalive.live.hub.loader import EngineFactory
from personalive.live.options import ServeOptions
from personalive.loading import ModelChoice
from personalive.testing.browser import chromium, write_camera
from personalive.testing.echo import echo_factory
from personalive.types import RGBArray

DRIVER = Path("demo/driver.mp4")
PORT = 7869


def take(page: Page, folder: Path, seconds: float) -> None:
    """Use the page as a new user would, and save what it looks like."""
    page.get_by_role("button", name="Start").wait_for()
    page.get_by_role("button", name="Carla", exact=True).click()
    page.get_by_role("button", name="Start").click()
    # From here on the driver moves the portrait; before, the pictures lead from its own pose to the driver's.
    page.wait_for_function("() => parseFloat(document.getElementById('delay').textContent) > 0", timeout=180_000)
    page.wait_for_timeout(seconds * 1000)
    page.screenshot(path=folder / "live.png")
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(1000)  # buttons change their colour gradually
    page.screenshot(path=folder / "live_dark.png")
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Inset").click()
    page.wait_for_timeout(seconds * 500)
    page.screenshot(path=folder / "live_phone.png")
    page.get_by_role("button", name="Stop").click()


def camera(folder: Path) -> Path:
    """The demo's driver as a file for Chromium's camera."""
    with av.open(str(DRIVER)) as container:
        frames: RGBArray = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return write_camera(folder / "camera.mjpeg", frames, 25)


def main() -> None:
    """Run the server, open the page and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, personalive, a folder, or echo")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--seconds", type=float, default=12, help="time before a picture is taken")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    options = ServeOptions(port=PORT, model=ModelChoice(model=None if arguments.model == "echo" else arguments.model))
    factory: EngineFactory = model_factory(options)
    if arguments.model == "echo":
        factory = echo_factory(window=4, delay_frames=12)
    server = uvicorn.Server(uvicorn.Config(create_app(options, factory, MeshFaces()), port=PORT, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        chromium(playwright, camera(Path(folder))) as browser,
    ):
        page = browser.new_page(viewport={"width": 1120, "height": 1180})
        _open(page)
        take(page, arguments.folder, arguments.seconds)
    server.should_exit = True
    thread.join(20)


def _open(page: Page) -> None:
    for _ in range(100):
        with contextlib.suppress(PlaywrightError):  # the server is not there yet
            page.goto(f"http://127.0.0.1:{PORT}/")
            break
        time.sleep(0.2)
    page.wait_for_function("() => document.getElementById('server').textContent === 'Ready'", timeout=300_000)


if __name__ == "__main__":
    main()

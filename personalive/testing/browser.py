"""Chromium with a driving file as its camera, in place of a user."""

import base64
import contextlib
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, expect

from personalive.types import RGBArray

FloatArray = npt.NDArray[np.float64]
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--allow-loopback-in-peer-connection",
)
PATIENCE = 120_000
"""Milliseconds that a page is waited for: five seconds, as Playwright does it, are a slow machine's common pause."""

GRAB = """(id) => {
  const video = document.getElementById(id);
  if (!video.videoWidth) return null;
  const { videoWidth: width, videoHeight: height } = video;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL();
}"""


@contextlib.contextmanager
def chromium(playwright: Playwright, camera: Path | None) -> Iterator[Browser]:
    """A browser whose camera plays a file (.y4m or .mjpeg) in a loop, or that has no camera."""
    flags = [flag for flag in FLAGS if camera is not None or "fake-device" not in flag]
    if camera is not None:
        flags.append(f"--use-file-for-fake-video-capture={camera}")
    expect.set_options(timeout=PATIENCE)
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    try:
        yield browser
    finally:
        browser.close()


def write_camera(path: Path, frames: RGBArray, fps: int) -> Path:
    """A driving file for Chromium's camera from frames, uint8 [n,h,w,3]."""
    height, width = frames.shape[1:3]
    # Chromium plays .y4m at its own rate, and .mjpeg, which is much smaller, always at 30 frames a second.
    pixels = "yuvj420p" if path.suffix == ".mjpeg" else "yuv420p"
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"),
        *("-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-pix_fmt", pixels, "-q:v", "3", str(path)),
    ]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def moving_bar() -> RGBArray:
    """100 frames of 256x256 pixels, in which a white bar swings from side to side once."""
    count, size = 100, 256
    frames = np.full((count, size, size, 3), 60, dtype=np.uint8)
    for index in range(count):
        left = int((0.5 + 0.35 * np.sin(2 * np.pi * index / count)) * (size - 24))
        frames[index, 40:-40, left : left + 24] = 255
    return frames


def grab(page: Page, identifier: str) -> RGBArray | None:
    """What a video element shows, uint8 [h,w,3]."""
    address = page.evaluate(GRAB, identifier)  # a PNG: a list of numbers would take seconds on its way
    if address is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


WATCH = """() => {
  window.seen = {};
  for (const id of ["driver", "result"]) {
    const video = document.getElementById(id), seen = (window.seen[id] = []);
    const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const note = (now) => {
      context.drawImage(video, 0, 0, 64, 64);
      const row = context.getImageData(0, 32, 64, 1).data, top = context.getImageData(32, 1, 1, 1).data;
      let weight = 0, sum = 0;
      for (let x = 6; x < 58; x += 1) {
        const light = Math.min(row[4 * x], row[4 * x + 1], row[4 * x + 2]);
        if (light > 170) { weight += 1; sum += x; }
      }
      seen.push([now / 1000, weight ? sum / weight / 64 : -1, top[0], top[1], top[2]]);
      video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
  }
}"""


def watch(page: Page, seconds: float) -> dict[str, FloatArray]:
    """What driver and result show from now on: rows of time (s), place of the bar (0–1, -1: not seen), colour."""
    page.evaluate(WATCH)
    page.wait_for_timeout(seconds * 1000)
    return {name: np.array(rows) for name, rows in page.evaluate("window.seen").items()}


def followed(driver: FloatArray, result: FloatArray) -> tuple[float, float]:
    """How well the result's bar follows the driver's: the best correlation over all delays, and that delay in s."""
    driver, result = driver[driver[:, 1] >= 0], result[result[:, 1] >= 0]
    best = (-1.0, 0.0)
    for delay in np.arange(0, 2, 0.02):
        inside = result[(result[:, 0] - delay > driver[0, 0]) & (result[:, 0] - delay < driver[-1, 0])]
        if len(inside) > 20:
            expected = np.interp(inside[:, 0] - delay, driver[:, 0], driver[:, 1])
            best = max(best, (float(np.corrcoef(expected, inside[:, 1])[0, 1]), float(delay)))
    return best

"""The whole way with a face: a drawn driver before Chromium's camera turns the head, and the portrait turns with it."""

import base64
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from playwright.sync_api import expect, sync_playwright

from personalive.assets import DEMO_MODEL
from personalive.live.core.faces import MeshFaces
from personalive.live.core.parameters import LoadParameters
from personalive.live.core.pictures import decode
from personalive.live.http.server import model_factory
from personalive.live.options import ServeOptions
from personalive.loading import ModelChoice
from personalive.testing.browser import CHROMIUM, chromium, write_camera
from personalive.testing.echo import EchoEngine
from personalive.training.avatars import neutral, render, sample_identities
from personalive.training.measure import FaceReader
from tests.live_support import live_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: ./test.sh does that"),
]
# Slow, as a slow processor makes a picture a second: those of a call are then spread over seconds.
TURN_SECONDS, FPS, LARGEST_YAW = 60, 10, 25.0
OFF_BY = range(-10, 11)
"""Seconds that the delay on the page may be off by, as it is a call's, of which a busy machine makes one in many
seconds. They are a sixth of a turn, so a head that turned the other way would still be seen."""
WATCH = """() => {
  const session = window.seen = { driver: [], result: [], delay: [] };
  const keep = (id) => {
    const video = document.getElementById(id);
    const canvas = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
    let last = 0;
    const note = (now) => {
      if (now - last > 180) {
        last = now;
        canvas.getContext("2d").drawImage(video, 0, 0, 256, 256);
        session[id].push([now / 1000, canvas.toDataURL("image/jpeg", 0.9)]);
        session.delay.push([now / 1000, parseFloat(document.getElementById("delay").textContent) || 0]);
      }
      video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
  };
  keep("driver");
  keep("result");
}"""


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """A head that turns from side to side, once a minute."""
    driver = sample_identities(1, torch.Generator().manual_seed(11))
    frames = []
    for index in range(TURN_SECONDS * FPS):
        yaw = LARGEST_YAW * math.sin(2 * math.pi * index / FPS / TURN_SECONDS)
        frame = render(driver, neutral(1).replace(yaw=torch.tensor([yaw])), 256)[0]
        frames.append(((frame + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    return write_camera(tmp_path_factory.mktemp("camera") / "turning.y4m", np.stack(frames), FPS)


def yaws(rows: list[tuple[float, str]]) -> npt.NDArray[np.float64]:
    """Times and head angles of the pictures in which mediapipe sees a face."""

    reader, read = FaceReader(), []
    for when, url in rows:
        found = reader.read(decode(base64.b64decode(url.partition(",")[2])))
        if found is not None:
            read.append((when, found.yaw))
    return np.array(read)


def follow(factory, camera: Path, portrait: str, off_by: range = range(1)) -> float:
    """Correlation of the portrait's yaw with the driver's, which is taken from when each picture was captured.

    Args:
        off_by: seconds by which that may be off; the best counts.
    """
    with (
        live_server(factory=factory, faces=MeshFaces(), idle_seconds=60) as server,
        sync_playwright() as playwright,
        chromium(playwright, camera) as browser,
    ):
        page = browser.new_page()
        page.goto(server.url)
        expect(page.locator("#server")).to_have_text("Ready")
        page.get_by_role("button", name=portrait, exact=True).click()
        page.get_by_label("Mirror").uncheck()
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("() => document.getElementById('result').videoWidth > 0", timeout=120_000)
        page.wait_for_timeout(8000)
        page.evaluate(WATCH)
        page.wait_for_timeout(1.1 * TURN_SECONDS * 1000)
        seen = page.evaluate("window.seen")
    driver, result, delay = yaws(seen["driver"]), yaws(seen["result"]), np.array(seen["delay"])
    assert len(driver) > 40 and len(result) > 15
    captured = result[:, 0] - np.interp(result[:, 0], delay[:, 0], delay[:, 1])
    correlations = []
    for seconds in off_by:
        inside = captured + seconds > driver[0, 0]
        expected = np.interp(captured[inside] + seconds, driver[:, 0], driver[:, 1])
        if np.ptp(expected) > LARGEST_YAW:
            correlations.append(float(np.corrcoef(expected, result[inside, 1])[0, 1]))
    assert correlations, "too little of a turn was seen"
    correlation = max(correlations)
    print(
        f"{portrait}: yaw correlation {correlation:.3f}, delay {np.median(delay[:, 1]):.2f} s, {len(result)} pictures"
    )
    return correlation


def test_the_measure_itself_with_a_model_that_echoes(camera):
    def echo(parameters: LoadParameters, at_stage) -> EchoEngine:
        return EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.05)

    assert follow(echo, camera, "Carla") > 0.97


@pytest.mark.skipif(
    not list(DEMO_MODEL.glob("*.safetensors")),
    reason="weights/demo holds no trained weights yet: python -m personalive.training.train makes them",
)
def test_the_demo_model_turns_the_portrait_with_the_driver(camera):
    """0.99 on a quiet machine; on a busy one pictures are fewer, and so are the frames that the model is driven by."""
    factory = model_factory(ServeOptions(model=ModelChoice(model="demo", device="cpu")))
    assert follow(factory, camera, "Carla", OFF_BY) >= 0.8

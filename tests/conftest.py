"""Fixtures that several test modules share: a small model and inputs for it, and a live server with a browser.

The live page's packages are imported only by its tests.
"""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from personalive import weights
from personalive.pipeline import PersonaLive
from personalive.testing.pictures import moving_face, photograph, save_image, save_video
from personalive.testing.small_model import SMALL, make_small_model

# How long an example takes says nothing on a machine that others use, too.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers share the cores, and threads would wait for each other in every small product

LONGEST = (
    *(
        "test_endpoint_events",
        "test_endpoint",
        "test_stream",
        "test_parity",
        "test_live_browser",
        "test_readme",
        "test_paste_back",
        "test_resume",
        "test_portrait",
        "test_animate",
        "test_mirrors",
    ),
    *("test_hub", "test_cli", "test_cog", "test_training", "test_training_commands", "test_live_http", "test_folder"),
    *(
        "test_whole_job",
        "test_endpoint_ends",
        "test_endpoint_fuzz",
        "test_live_media",
        "test_live_sessions",
        "test_live_webrtc",
    ),
)
"""Files that workers begin with, so that none has one of them left when the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def small_model() -> PersonaLive:
    """See `make_small_model`."""
    return make_small_model()


@pytest.fixture(scope="session")
def small_model_folder(small_model, tmp_path_factory) -> Path:
    """The small model as a folder for `--model`."""
    folder = tmp_path_factory.mktemp("model")
    weights.save_folder(folder, SMALL, small_model.networks.modules, torch.float32)
    return folder


@pytest.fixture(scope="session")
def portrait(tmp_path_factory) -> Path:
    """A photograph of a person."""
    return save_image(tmp_path_factory.mktemp("inputs") / "portrait.png", photograph())


@pytest.fixture(scope="session")
def driver(tmp_path_factory) -> Path:
    """22 frames of a moving face at 25 fps, with sound."""
    return save_video(tmp_path_factory.mktemp("inputs") / "driver.mp4", moving_face(22), sound=True)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A folder with the portraits red, green and blue."""
    from tests.live_support import BLUE, GREEN, RED, picture

    folder = tmp_path_factory.mktemp("presets")
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        (folder / f"{name}.png").write_bytes(picture(colour))
    return folder


@pytest.fixture(scope="module")
def server(presets):
    """A live server for three people, who choose among `presets`."""
    from personalive.testing.echo import EchoEngine
    from tests.live_support import live_server

    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.02)
    with live_server(engine, presets=presets, max_sessions=3, linger_seconds=1) as running:
        yield running


@pytest.fixture(scope="module")
def playwright():
    """What starts browsers."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    """A moving bar for a browser's camera, at 25 frames a second."""
    from personalive.testing.browser import moving_bar, write_camera

    return write_camera(tmp_path_factory.mktemp("camera") / "camera.mjpeg", moving_bar(), 25)


@pytest.fixture(scope="module")
def browser(playwright, camera):
    """Chromium with that camera."""
    from personalive.testing.browser import chromium

    with chromium(playwright, camera) as running:
        yield running

"""`--virtual_camera`: what other programs on the machine see, with a stand-in for the device."""

import asyncio
import subprocess
import sys

import numpy as np
import pytest

from personalive.errors import InputError
from personalive.live.options import ServeOptions
from personalive.live.transport import virtual_camera
from personalive.testing.echo import EchoEngine
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import RED, live_server, picture, shows, until


class Device:
    """What v4l2loopback would have taken."""

    def __init__(self, name, width, height):
        self.name, self.size, self.frames, self.closed = name, (height, width, 3), [], False

    def send(self, frame):
        assert frame.dtype == np.uint8 and frame.shape == self.size and frame.flags.c_contiguous
        self.frames = [*self.frames[-20:], frame.copy()]

    def close(self):
        self.closed = True


@pytest.fixture
def devices(monkeypatch):
    opened = []

    def open_camera(name, width, height):
        opened.append(Device(name, width, height))
        return opened[-1]

    monkeypatch.setattr(virtual_camera, "open_camera", open_camera)
    return opened


def moves(device):
    """Whether the picture has the portrait's border and what moves inside it."""
    frames = np.stack(device.frames[-8:]).astype(int)
    return shows(frames[-1], RED) and np.ptp(frames[:, 100:150], axis=0).max() > 60


def is_still(device):
    return np.abs(device.frames[-1].astype(int) - RED).max() < 12


async def test_other_programs_see_the_latest_session_and_its_portrait_between_sessions(devices):
    engine = EchoEngine(256, 192, chunk_frames=4, delay_frames=12)
    with live_server(engine, virtual_camera="/dev/video10", linger_seconds=0.3) as server:
        until(lambda: devices and len(devices[0].frames) > 3)
        (device,) = devices
        assert device.name == "/dev/video10" and device.size == (192, 256, 3)
        assert not device.frames[-1].any()
        async with LiveClient(server.url) as client:
            await client.reference(picture(RED, (256, 192)))
            await client.offer(Camera(grey()))
            await asyncio.to_thread(until, lambda: moves(device))
            await client.send(hidden=True)
            await asyncio.to_thread(until, lambda: is_still(device))
            await client.send(hidden=False)
            await asyncio.to_thread(until, lambda: moves(device))
            await client.send(background="transparent")
            await asyncio.to_thread(until, lambda: shows(device.frames[-1], (0, 0, 0)))
        until(lambda: not server.hub.entries and is_still(device))
    assert device.closed


@pytest.mark.slow
def test_without_a_device_the_server_says_what_to_do_before_it_reads_weights(tmp_path):
    pytest.importorskip("pyvirtualcam")
    command = [sys.executable, "-m", "personalive.cli.main", "serve", "--virtual_camera", "/dev/no-such-camera"]
    done = subprocess.run([*command, "--model", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no virtual camera '/dev/no-such-camera'" in done.stderr and "modprobe v4l2loopback" in done.stderr
    assert str(tmp_path) not in done.stderr


@pytest.mark.slow
def test_without_the_extra_the_server_names_it():
    code = (
        "import sys; sys.modules['pyvirtualcam'] = None; from personalive.cli.main import main; "
        "sys.exit(main(['serve', '--virtual_camera', 'auto']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "personalive[camera]"' in done.stderr


def test_several_workers_are_refused():
    with pytest.raises(InputError, match="workers"):
        ServeOptions(virtual_camera="auto", workers=2)

"""The animation as a camera of this machine, for programs that take cameras only: v4l2loopback, by pyvirtualcam."""

import asyncio
import contextlib
import logging
import time
from typing import Any

import numpy as np

from personalive.errors import InputError, PersonaLiveError
from personalive.extras import require
from personalive.live.core.pictures import filled, opaque
from personalive.live.core.session import Session
from personalive.live.core.subscription import Subscription
from personalive.live.hub.entries import NotLoadedError, SessionState
from personalive.live.hub.hub import Hub
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

FPS = 30.0
FIRST = "auto"
"""In place of a device: the first that is there."""
TRIED_SIDE = 256
"""Pixels with which a device is tried."""
LOADING_SECONDS = 0.5
"""Between two looks whether the model is loaded."""


def open_camera(device: str, width: int, height: int) -> Any:
    """A device that takes pictures of one size.

    Raises:
        MissingExtraError: pyvirtualcam is not installed.
        InputError: there is no such device, or another program writes to it.
    """
    require("camera")
    import pyvirtualcam

    try:
        return pyvirtualcam.Camera(width, height, FPS, device=None if device == FIRST else device)
    except RuntimeError as error:
        raise InputError(
            f"there is no virtual camera {device!r} to write to: {error} On Linux, install v4l2loopback and load it: "
            "sudo modprobe v4l2loopback exclusive_caps=1"
        ) from error


def check(device: str) -> None:
    """Try a device, before anything else is made ready.

    Raises:
        MissingExtraError, InputError: see `open_camera`.
    """
    open_camera(device, TRIED_SIDE, TRIED_SIDE).close()


class VirtualCamera:
    """Writes what viewers see of the latest session to a device; between sessions, the last portrait as it is.

    The device keeps the size that the model had at first: programs that show it could not follow a change.
    """

    def __init__(self, hub: Hub, device: str) -> None:
        self._hub = hub
        self._device = device
        self._session: Session | None = None
        self._subscription: Subscription | None = None
        self._moving: RGBArray | None = None
        """The last picture of the present session."""

    async def run(self) -> None:
        """Write until it is cancelled; what keeps it from that is logged, and the server goes on without it."""
        width, height = await self._size()
        try:
            camera = await asyncio.to_thread(open_camera, self._device, width, height)
        except PersonaLiveError as error:
            logger.error("%s", error)
            return
        try:
            black = np.zeros((height, width, 3), np.uint8)
            while True:
                await asyncio.sleep(1 / FPS)
                shown = self._shown()
                await asyncio.to_thread(_write, camera, black if shown is None else shown, width, height)
        except (OSError, RuntimeError):
            logger.exception("the virtual camera %s cannot be written to any more", self._device)
        finally:
            self._turn_to(None)
            camera.close()

    async def _size(self) -> tuple[int, int]:
        while True:
            with contextlib.suppress(NotLoadedError):
                return self._hub.engine.width, self._hub.engine.height
            await asyncio.sleep(LOADING_SECONDS)

    def _shown(self) -> RGBArray | None:
        connected = (each for each in self._hub.entries.values() if each.state is SessionState.CONNECTED)
        entry = max(connected, key=lambda each: each.since, default=None)
        session = self._session if entry is None else entry.session
        if session is not self._session:
            self._turn_to(session)
        if session is None or self._subscription is None:
            return None
        picture, _ = self._subscription.pop(time.monotonic())
        if picture is not None:
            self._moving = picture.image
        is_on = entry is not None and not session.parameters.hidden
        return self._moving if is_on and self._moving is not None else session.still

    def _turn_to(self, session: Session | None) -> None:
        if self._session is not None and self._subscription is not None:
            self._session.unsubscribe(self._subscription)
        self._session, self._moving = session, None
        self._subscription = session.subscribe(lambda: None, counts=False) if session is not None else None


def _write(camera: Any, image: RGBArray, width: int, height: int) -> None:
    camera.send(filled(opaque(image), width, height))

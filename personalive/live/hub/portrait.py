"""A portrait as a client sends it → what the model animates."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from personalive.errors import DeviceMemoryError, NoFaceError
from personalive.live.core.commands import SessionEndedError
from personalive.live.core.engine import Engine
from personalive.live.core.faces import Faces
from personalive.live.core.pictures import crop, crop_window, decode
from personalive.live.core.session import Session
from personalive.live.hub.clients import Client, ClientStore
from personalive.types import Box, RGBArray


class Portraits:
    """Each client's portrait for its next session. Pictures are decoded and searched in separate threads."""

    def __init__(self, faces: Faces | None) -> None:
        """`faces` finds the face in a portrait; None leaves that to the model."""
        self._faces = faces
        self._kept = ClientStore()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="live-portrait")

    async def read(self, data: bytes, engine: Engine) -> tuple[RGBArray, Any]:
        """The picture in a request's body, and what the model animates.

        Raises:
            InputError, NoFaceError, DeviceMemoryError
        """

        def run() -> tuple[RGBArray, Any]:
            image = decode(data)
            return image, prepare(image, engine, self._faces)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def keep(self, client: Client, image: RGBArray) -> None:
        """Remember a client's portrait, uint8 [h,w,3], in place of its last one."""
        self._kept.put(client, image)

    async def of(self, client: Client, engine: Engine) -> Any:
        """What the model animates for a client, or None if it has sent no portrait."""
        image = self._kept.get(client)
        if image is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._threads, prepare, image, engine, self._faces)

    def stop(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)


async def show(reference: Any, sessions: Sequence[Session]) -> int:
    """Show a portrait (what the model made of it) in running sessions; return how many show it.

    Raises:
        DeviceMemoryError: some could not show it; the message says how many.
    """
    shown, failures = 0, []
    for future in [session.set_portrait(reference) for session in sessions]:
        try:
            await asyncio.wrap_future(future)
            shown += 1
        except SessionEndedError:  # in the meantime: there is nothing to show it in
            continue
        except DeviceMemoryError as error:
            failures.append(error)
    if failures:
        raise DeviceMemoryError(
            f"the portrait is kept for your next session, but {len(failures)} of your {shown + len(failures)} running "
            f"sessions could not show it: {failures[0]}"
        ) from failures[0]
    return shown


def prepare(image: RGBArray, engine: Engine, faces: Faces | None) -> Any:
    """Crop a portrait around its face to the shape of the output, and prepare it for the model.

    Args:
        image: uint8 [h,w,3].
        engine: the model that will animate it.
        faces: finds the face; None leaves that to the model.

    Raises:
        NoFaceError: a face was searched for and none was found.
    """
    height, width = image.shape[:2]
    aspect = engine.width / engine.height
    if faces is None:
        return engine.reference(crop(image, crop_window((width, height), aspect)), None)
    face = faces.in_portrait(image)
    if face is None:
        raise NoFaceError("no face was found in the picture: send a portrait that shows one face from the front")
    centre = ((face[0] + face[2]) / 2, (face[1] + face[3]) / 2)
    window = crop_window((width, height), aspect, centre)
    return engine.reference(crop(image, window), _within(face, window))


def _within(box: Box, window: Box) -> Box:
    """A box in the coordinates of a window, clipped to it."""
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    return (
        min(max(box[0] - left, 0), width - 1),
        min(max(box[1] - top, 0), height - 1),
        min(max(box[2] - left, 1), width),
        min(max(box[3] - top, 1), height),
    )

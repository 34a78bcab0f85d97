"""A portrait as a client sends it → what the model animates."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from personalive.errors import DeviceMemoryError, NoFaceError
from personalive.live.core.commands import SessionEndedError
from personalive.live.core.engine import Engine
from personalive.live.core.faces import Faces
from personalive.live.core.pictures import decode
from personalive.live.core.session import Session
from personalive.live.hub.clients import Client, ClientStore
from personalive.media.crop import crop_box, cut
from personalive.types import RGBArray


@dataclass(frozen=True)
class Prepared:
    """A portrait, ready for sessions."""

    reference: Any
    """What `Engine.reference` made of it."""
    remarks: tuple[str, ...]
    """What its owner should know; see `media.portrait.Portrait`."""


class Portraits:
    """Each client's portrait for its next session. Pictures are decoded and searched in separate threads."""

    def __init__(self, faces: Faces | None) -> None:
        """`faces` finds the face in a portrait; None leaves that to the model."""
        self._faces = faces
        self._kept = ClientStore()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="live-portrait")

    async def read(self, data: bytes, engine: Engine) -> tuple[RGBArray, Prepared]:
        """The picture in a request's body, and what the model animates of it.

        Raises:
            InputError, NoFaceError, DeviceMemoryError
        """

        def run() -> tuple[RGBArray, Prepared]:
            image = decode(data)
            return image, prepare(image, engine, self._faces)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def keep(self, client: Client, image: RGBArray) -> None:
        """Remember a client's portrait, uint8 [h,w,3], in place of its last one."""
        self._kept.put(client, image)

    async def of(self, client: Client, engine: Engine) -> Prepared | None:
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


def prepare(image: RGBArray, engine: Engine, faces: Faces | None) -> Prepared:
    """Crop a portrait around its face to the shape of the output, as for files, and prepare it for the model.

    Args:
        image: uint8 [h,w,3].
        engine: the model that will animate it.
        faces: finds the face; None leaves that to the model.

    Raises:
        NoFaceError: a face was searched for and none was found.
    """
    shape = engine.width, engine.height
    if faces is None:
        part = crop_box((image.shape[1], image.shape[0]), shape, "center", None)
        return Prepared(engine.reference(cut(image, part), None), ())
    portrait = faces.portrait(image, shape)
    if portrait is None:
        raise NoFaceError("no face was found in the picture: send a portrait that shows one face from the front")
    return Prepared(engine.reference(portrait.image, portrait.box), portrait.remarks)

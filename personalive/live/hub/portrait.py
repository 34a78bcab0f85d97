"""A portrait as a client sends it → what the model animates."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from personalive.errors import DeviceMemoryError, NoFaceError
from personalive.live.core.commands import SessionEndedError
from personalive.live.core.engine import Engine
from personalive.live.core.faces import Faces, Wanted, fractions
from personalive.live.core.pictures import decode, decode_all
from personalive.live.core.session import Session
from personalive.live.hub.clients import Client, ClientStore
from personalive.media.crop import crop_box, cut
from personalive.media.portrait import Portrait, first_shown
from personalive.types import FractionBox, RGBArray

MAX_LOOKED_AT = 1_000_000
"""The most pixels of a camera's picture in which a face is looked for before going on air."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Chosen:
    """What a client wants to be animated."""

    image: RGBArray
    """uint8 [h,w,3]"""
    wanted: Wanted


@dataclass(frozen=True)
class Prepared:
    """A portrait, ready for sessions."""

    chosen: Chosen
    reference: Any
    """What `Engine.reference` made of it."""
    still: RGBArray
    """What is animated, uint8 [h,w,3], as it is."""
    remarks: tuple[str, ...]
    """What its owner should know; see `media.portrait.Portrait`."""


class Portraits:
    """Each client's portrait for its next session. Pictures are decoded and searched in separate threads."""

    def __init__(self, faces: Faces | None) -> None:
        """`faces` finds the face in a portrait; None leaves that to the model."""
        self._faces = faces
        self._kept = ClientStore()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="live-portrait")

    async def read(self, data: bytes, wanted: Wanted, engine: Engine) -> Prepared:
        """What the model animates of the first picture with a face in a request's body.

        Args:
            data: the body.
            wanted: which part of it.
            engine: the model.

        Raises:
            InputError, NoFaceError, DeviceMemoryError
        """

        def first() -> Prepared:
            with closing(decode_all(data)) as images:
                return prepare(images, wanted, engine, self._faces)

        return await self._in_thread(first)

    def keep(self, client: Client, chosen: Chosen) -> None:
        """Remember what a client chose, in place of its last choice."""
        self._kept.put(client, chosen)

    async def of(self, client: Client, engine: Engine) -> Prepared | None:
        """What the model animates for a client, or None if it has sent no portrait."""
        chosen: Chosen | None = self._kept.get(client)
        if chosen is None:
            return None
        return await self._in_thread(lambda: prepare([chosen.image], chosen.wanted, engine, self._faces))

    async def look(self, data: bytes) -> tuple[bool | None, FractionBox | None]:
        """See `Hub.look`.

        Raises:
            InputError: not a picture.
        """
        faces = self._faces

        def find() -> tuple[bool | None, FractionBox | None]:
            image = decode(data, MAX_LOOKED_AT)
            if faces is None:
                return None, None
            box = faces.look(image)
            return box is not None, None if box is None else fractions(box, image)

        return await self._in_thread(find)

    async def put_behind(self, session: Session, data: bytes) -> None:
        """See `Hub.set_backdrop`."""
        await self._in_thread(lambda: session.set_backdrop(decode(data)))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def stop(self) -> None:
        """Let the threads end what they do, free what finds faces, and end."""
        if self._faces is not None:
            self._threads.submit(self._faces.close)
        self._threads.shutdown(wait=False)


async def show(portrait: Prepared, sessions: Sequence[Session]) -> int:
    """Show a portrait in running sessions; return how many show it.

    Raises:
        DeviceMemoryError: some could not show it; the message says how many.
    """
    shown, failures = 0, []
    for future in [session.set_portrait(portrait.reference, portrait.still) for session in sessions]:
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


def prepare(images: Iterable[RGBArray], wanted: Wanted, engine: Engine, faces: Faces | None) -> Prepared:
    """Crop a portrait around its face to the shape of the output, as for files, and prepare it for the model.

    Args:
        images: uint8 [h,w,3] each, at least one; the first with a face is taken.
        wanted: which part of it.
        engine: the model that will animate it.
        faces: finds the face; None leaves that to the model.

    Raises:
        NoFaceError: a face was searched for and none was found.
    """
    shape = engine.width, engine.height
    if faces is None:
        image, remarks = first_shown(images)
        part = crop_box((image.shape[1], image.shape[0]), shape, "center", None)
        return _prepared(image, wanted, engine, Portrait(cut(image, part), None, remarks))
    found = faces.portrait(images, shape, wanted)
    if found is None:
        raise NoFaceError("no face was found in the picture: send a portrait that shows one face from the front")
    image, portrait = found
    return _prepared(image, wanted, engine, portrait)


def _prepared(image: RGBArray, wanted: Wanted, engine: Engine, portrait: Portrait) -> Prepared:
    unsuited = engine.unsuited(portrait.image, portrait.box)
    remarks = (*portrait.remarks, unsuited) if unsuited else portrait.remarks
    return Prepared(Chosen(image, wanted), engine.reference(portrait.image, portrait.box), portrait.image, remarks)

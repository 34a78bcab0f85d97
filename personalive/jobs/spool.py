"""Inputs of jobs that wait, on the disk: a queue of uploads is larger than memory."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from personalive.gateway.prediction import NotReadyError

MAX_BYTES = 16 * 2**30


class Spool:
    """Keeps inputs by the key of their job.

    Args:
        folder: of this user only.
        limit: the most bytes.
    """

    def __init__(self, folder: Path, limit: int = MAX_BYTES) -> None:
        self._folder = folder
        self._limit = limit
        self._sizes: dict[str, int] = {}

    async def put(self, key: str, inputs: Mapping[str, Any]) -> None:
        """Keep the inputs of a job.

        Raises:
            NotReadyError: there is no room.
        """
        content = await asyncio.to_thread(to_json, inputs)
        if sum(self._sizes.values()) + len(content) > self._limit:
            raise NotReadyError("the files of the jobs that wait take all the room there is", retry_after=30)
        self._sizes[key] = len(content)
        try:
            await asyncio.to_thread((self._folder / key).write_bytes, content)
        except OSError as error:
            self.drop(key)
            raise NotReadyError(f"the inputs cannot be kept: {error.strerror}", retry_after=30) from error
        except BaseException:
            self.drop(key)
            raise

    async def get(self, key: str) -> dict[str, Any]:
        """The inputs of a job."""
        return dict(await asyncio.to_thread(lambda: from_json((self._folder / key).read_bytes())))

    def drop(self, key: str) -> None:
        """Forget them."""
        if self._sizes.pop(key, None) is not None:
            (self._folder / key).unlink(missing_ok=True)

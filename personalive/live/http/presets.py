"""The portraits that the page offers: the pictures directly inside one folder, and nothing else of it."""

from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response

from personalive.live.http import schemas
from personalive.media.images import media_types

KINDS = media_types()
"""By suffix: what a portrait may be, so that a chosen one can be sent back."""


def router(folder: Path) -> APIRouter:
    """The calls that list a folder's pictures and return them."""
    result = APIRouter()

    def pictures() -> dict[str, Path]:
        """The folder is read again for each call, as the operator may add pictures."""
        found = folder.iterdir() if folder.is_dir() else ()
        visible = (path for path in found if not path.name.startswith("."))
        return {path.name: path for path in visible if path.suffix.lower() in KINDS and path.is_file()}

    @result.get("/api/v1/presets")
    def list_presets() -> list[schemas.Preset]:
        """Portraits that the page offers."""
        return [
            schemas.Preset(name=path.stem, url=f"/api/v1/presets/{quote(name)}")
            for name, path in sorted(pictures().items())
        ]

    @result.get(
        "/api/v1/presets/{name}",
        response_class=Response,
        responses={
            200: {"content": {kind: {} for kind in set(KINDS.values())}},
            404: {"model": schemas.Problem, "description": "No such portrait"},
        },
    )
    def preset(name: str) -> Response:
        """One of the portraits, as a picture."""
        path = pictures().get(name)
        if path is None:
            raise HTTPException(404, "there is no such portrait")
        return FileResponse(path, media_type=KINDS[path.suffix.lower()])

    return result

"""diffusers and transformers, which two networks come from: importing them takes seconds."""

import threading
from contextlib import suppress
from typing import Any

_importing = threading.Lock()
"""Two threads that import diffusers at the same time would each see half of it."""


def libraries() -> tuple[Any, Any]:
    """diffusers and transformers: imported late, so that help and error messages do not wait for them."""
    with _importing:
        import diffusers
        import transformers

        for library, network in ((diffusers, "AutoencoderKL"), (transformers, "CLIPVisionModelWithProjection")):
            getattr(library, network)  # that is when it is imported
    return diffusers, transformers


def import_ahead() -> None:
    """Start importing `libraries` while files are read."""
    threading.Thread(target=_try_to_import, name="import", daemon=True).start()


def _try_to_import() -> None:
    with suppress(Exception):  # the code that needs them will see it
        libraries()

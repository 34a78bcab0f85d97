"""diffusers and transformers, from which two networks are: importing them takes seconds."""

import threading
from contextlib import suppress
from typing import Any

_importing = threading.Lock()
"""Two threads that import diffusers at the same time would each see half of it."""


def libraries() -> tuple[Any, Any]:
    """diffusers and transformers: late, as those who only ask for help or err need not wait for them."""
    with _importing:
        import diffusers
        import transformers

        for library, network in ((diffusers, "AutoencoderKL"), (transformers, "CLIPVisionModelWithProjection")):
            getattr(library, network)  # that is when it is imported
    return diffusers, transformers


def import_ahead() -> None:
    """Begin to import `libraries`, while files are read."""
    threading.Thread(target=_try_to_import, name="import", daemon=True).start()


def _try_to_import() -> None:
    with suppress(Exception):  # those who need them will see it
        libraries()

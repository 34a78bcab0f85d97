"""The operator's options for the HTTP service."""

import os
from functools import partial

from personalive.errors import InputError
from personalive.settings import Settings, Surface, setting

_server = partial(setting, group="server", on=Surface.CLI)


class GatewayOptions(Settings):
    """Where the service listens, and where results go.

    Raises:
        InputError: a value that cannot be used.
    """

    host: str = _server("127.0.0.1", "Address to listen on; 127.0.0.1: this machine only", metavar="ADDRESS")
    port: int | None = _server(None, "Port to listen on", low=0, high=65535, default_text="$PORT, or 5000")
    upload_url: str | None = _server(
        None,
        "Address under which results are stored, by PUT",
        details="Answers then contain their addresses; a request may name another with output_file_prefix",
        default_text="they are in the answers",
        metavar="URL",
    )

    @property
    def resolved_port(self) -> int:
        """The port that was named, by the flag or by the environment, as with Cog's own server.

        Raises:
            InputError: $PORT is not a port.
        """
        if self.port is not None:
            return self.port
        named = os.environ.get("PORT") or "5000"
        if not named.isdecimal() or int(named) > 65535:
            raise InputError(f"PORT is {named[:20]!r}: it must be a whole number from 0 to 65535")
        return int(named)

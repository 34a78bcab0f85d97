"""The operator's options for the HTTP service."""

from functools import partial

from personalive.settings import Settings, Surface, setting

_server = partial(setting, group="server", on=Surface.CLI)


class GatewayOptions(Settings):
    """Where the service listens, and where results go.

    Raises:
        InputError: a value that cannot be used.
    """

    host: str = _server("127.0.0.1", "Address to listen on; 127.0.0.1: this machine only", metavar="ADDRESS")
    port: int = _server(5000, "Port to listen on", low=0, high=65535)
    upload_url: str | None = _server(
        None,
        "Address under which results are stored, by PUT",
        details="Answers then contain their addresses; a request may name another with output_file_prefix",
        default_text="they are in the answers",
        metavar="URL",
    )

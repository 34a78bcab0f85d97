"""What an operator chooses for the HTTP service."""

import argparse
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class GatewayOptions:
    """Where to listen, and where results go."""

    host: str = "127.0.0.1"
    port: int = 5000
    upload_url: str | None = None
    """Prefix of the address to which results are sent by PUT where a request names none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--host", default=GatewayOptions.host, help="address to listen on (default: %(default)s, this machine only)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=int(os.environ.get("PORT") or GatewayOptions.port),
        metavar="N",
        help="port to listen on (default: $PORT, or 5000)",
    )
    parser.add_argument(
        "--upload_url", metavar="URL", help="send results there by PUT, and answer with their addresses"
    )


def from_arguments(arguments: argparse.Namespace) -> GatewayOptions:
    """The options that the flags stand for."""
    return GatewayOptions(host=arguments.host, port=arguments.port, upload_url=arguments.upload_url)

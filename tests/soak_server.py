"""The live server over a model that echoes, as a process of its own: `python -m tests.soak_server PORT`."""

import sys

import uvicorn

from personalive.live.http.server import UVICORN, create_app
from personalive.live.options import ServeOptions
from personalive.testing.echo import echo_factory


def main() -> None:
    port = int(sys.argv[1])
    options = ServeOptions(port=port, max_sessions=3, linger_seconds=0.5)
    app = create_app(options, echo_factory(window=4, delay_frames=12), None)
    uvicorn.run(app, port=port, **UVICORN)


if __name__ == "__main__":
    main()

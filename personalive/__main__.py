"""The command `personalive`, also as `python -m personalive`: Ctrl-C ends it without a traceback from the start."""

import signal
import sys


def main() -> int:
    """Run the command and return its exit status."""
    try:
        from personalive.cli.main import main as command  # a third of a second, in which Ctrl-C may come

        return command()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())

"""`python -m personalive` is the command `personalive`."""

import sys

from personalive.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

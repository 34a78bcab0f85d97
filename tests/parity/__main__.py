"""`python -m tests.parity DIR`; see `personalive.testing.parity`."""

import sys

from personalive.testing.parity.run import main

sys.exit(main())

"""For `schemathesis run`: requests that are to be accepted name hosts that exist.

Random names do not, and a request with one is refused as it should be.
"""

import os
from typing import Any

import schemathesis

ADDRESS = os.environ["FUZZ_WEBHOOK"]


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Put the receiver in the place of every other web address."""
    if isinstance(body, dict):
        for name in ("webhook", "output_file_prefix"):
            if str(body.get(name, "")).startswith(("http://", "https://")):
                body[name] = ADDRESS
    return body

"""For `schemathesis run`: requests that are to be accepted name hosts that exist, and bring a browser's offer.

Random hosts do not exist, the offer in the description has no media, and both are refused as they should be.
"""

import os
from pathlib import Path
from typing import Any

import schemathesis

ADDRESS = os.environ.get("FUZZ_WEBHOOK")
OFFER = Path(__file__).with_name("chromium_offer.sdp").read_bytes().decode()


@schemathesis.hook
def before_call(context: Any, case: Any, _kwargs: Any) -> None:
    """Put what exists in the place of every other web address and offer."""
    body = case.body
    if isinstance(body, dict):
        for name in ("webhook", "output_file_prefix"):
            if ADDRESS and str(body.get(name, "")).startswith(("http://", "https://")):
                body[name] = ADDRESS
        if str(body.get("sdp", "")).startswith("v=0"):
            body["sdp"] = OFFER


@schemathesis.check
def says_when_to_try_again(context: Any, response: Any, case: Any) -> None:
    """A server that is full, or is loading, says how long to wait."""
    assert response.status_code != 503 or response.headers.get("retry-after"), "503 without Retry-After"

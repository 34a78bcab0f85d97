"""Inputs that the tests of the HTTP service share."""

from typing import Any

import pytest

from tests.endpoint_support import short_inputs


@pytest.fixture(scope="module")
def inputs(portrait, tmp_path_factory) -> dict[str, Any]:
    """A portrait and a driver of a few frames."""
    return short_inputs(portrait, tmp_path_factory.mktemp("short"))

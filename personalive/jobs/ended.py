"""The last states of predictions that have ended, so that clients can ask for them: the latest ones, within bounds."""

from collections import OrderedDict
from typing import Any

MAX_STATES = 1000
MAX_BYTES = 512 * 2**20
"""Of the results in them."""


class Ended:
    """Remembers states by their prediction's id."""

    def __init__(self, max_states: int = MAX_STATES, max_bytes: int = MAX_BYTES) -> None:
        self._max_states, self._max_bytes = max_states, max_bytes
        self._states: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._bytes = 0

    def add(self, state: dict[str, Any]) -> None:
        """Remember a state; the oldest give way."""
        self._forget(state["id"])
        self._states[state["id"]] = state
        self._bytes += _size(state)
        while len(self._states) > self._max_states or (self._bytes > self._max_bytes and self._states):
            self._forget(next(iter(self._states)))

    def find(self, identifier: str) -> dict[str, Any] | None:
        """The last state of the latest prediction with an id."""
        return self._states.get(identifier)

    def _forget(self, identifier: str) -> None:
        state = self._states.pop(identifier, None)
        if state is not None:
            self._bytes -= _size(state)


def _size(state: dict[str, Any]) -> int:
    return len(state.get("output") or "") + len(state["logs"])

"""Compares arrays and reports the result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal; every limit that is given must hold."""

    absolute: float | None = None
    elementwise: tuple[float, float] | None = None
    """Relative and absolute part of |difference| ≤ absolute + relative·|expected|."""
    relative_l2: float | None = None
    """‖difference‖ / ‖expected‖, for each index of the first axis if `per_row`."""
    of_spread: float | None = None
    """Largest difference over the standard deviation of what is expected."""
    per_row: bool = False

    def __str__(self) -> str:
        parts = []
        if self.absolute is not None:
            parts.append("exact" if self.absolute == 0 else f"abs {self.absolute:g}")
        if self.elementwise is not None:
            parts.append("rtol {:g} atol {:g}".format(*self.elementwise))
        if self.relative_l2 is not None:
            parts.append(f"relative L2 {self.relative_l2:g}")
        if self.of_spread is not None:
            parts.append(f"abs {self.of_spread:g} std")
        return ", ".join(parts)


# The figures of the goldens' own description, which lies beside them.
EXACT = Tolerance(absolute=0)
PIXELS = Tolerance(absolute=1e-6)
SCHEDULER = Tolerance(elementwise=(1e-5, 1e-5))
KEYPOINTS = Tolerance(absolute=2e-5)
HEADS = Tolerance(elementwise=(1e-4, 2e-5))
MOTION_TOKENS = Tolerance(elementwise=(1e-3, 2e-4))
POSE_FEATURES = Tolerance(elementwise=(1e-3, 1e-3), relative_l2=5e-5)
MODULE = Tolerance(elementwise=(1e-4, 5e-5))
BANKS = Tolerance(elementwise=(1e-4, 1e-4))
UNET = Tolerance(elementwise=(1e-3, 2e-4), relative_l2=5e-5)
INNER_MAPS = Tolerance(absolute=3e-3, relative_l2=5e-5)
PREDICTIONS = Tolerance(relative_l2=1e-4, per_row=True)
LATENTS = Tolerance(relative_l2=1e-4, of_spread=1e-3, per_row=True)
FRAMES = Tolerance(absolute=1e-3, relative_l2=1e-4)
DISTANCES = Tolerance(absolute=1e-3)


@dataclass
class Report:
    """Prints a line for every array and counts."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)

    def compare(self, name: str, expected: npt.NDArray[Any], actual: object, tolerance: Tolerance) -> None:
        """Compare one array; a wrong shape fails."""
        array = actual.detach().float().cpu().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
        if array.shape != expected.shape:
            self._line(name, f"shape {list(array.shape)}, expected {list(expected.shape)}", ok=False)
            return
        difference = np.abs(array.astype(np.float64) - expected.astype(np.float64))
        largest, l2 = float(difference.max(initial=0)), _relative_l2(difference, expected, tolerance.per_row)
        limits = [
            (tolerance.absolute, largest),
            (tolerance.relative_l2, l2),
            (tolerance.of_spread, largest / max(float(np.std(expected, dtype=np.float64)), 1e-12) if largest else 0.0),
        ]
        ok = bool(np.isfinite(difference).all()) and all(limit is None or value <= limit for limit, value in limits)
        if tolerance.elementwise is not None:
            relative, absolute = tolerance.elementwise
            ok = ok and bool((difference <= absolute + relative * np.abs(expected)).all())
        self._line(name, f"abs {largest:.2e}  relative L2 {l2:.2e}  tolerance {tolerance}", ok)

    def compare_all(
        self,
        case: str,
        golden: Mapping[str, npt.NDArray[Any]],
        actual: Mapping[str, tuple[object, Tolerance]],
        skip: frozenset[str] = frozenset(),
    ) -> None:
        """Compare every array of a golden file; one without a computed counterpart fails, unless it may be skipped."""
        for key in golden:
            if key in skip:
                self.skipped += 1
                print(f"{case}:{key}  skipped", flush=True)
            elif key not in actual:
                self._line(f"{case}:{key}", "nothing computed to compare it with", ok=False)
            else:
                self.compare(f"{case}:{key}", golden[key], *actual[key])

    def error(self, case: str, error: Exception) -> None:
        """A case that did not run to its end."""
        self._line(case, f"{type(error).__name__}: {error}", ok=False)

    def summary(self) -> str:
        """The last line."""
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")

    def _line(self, name: str, text: str, ok: bool) -> None:
        self.passed, self.failed = self.passed + ok, self.failed + (not ok)
        if not ok:
            self.failures.append(name)
        print(f"{name}  {text}  {'ok' if ok else 'FAIL'}", flush=True)


def _relative_l2(difference: npt.NDArray[np.float64], expected: npt.NDArray[Any], per_row: bool) -> float:
    if difference.size == 0:
        return 0.0
    rows = len(expected) if per_row and expected.ndim else 1
    error = np.linalg.norm(difference.reshape(rows, -1), axis=1)
    size = np.linalg.norm(expected.astype(np.float64).reshape(rows, -1), axis=1)
    return float((error / np.maximum(size, 1e-12)).max())

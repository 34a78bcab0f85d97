"""Which frame of a driver shows the face at rest: eyes open, mouth closed, looking straight ahead."""

from collections.abc import Mapping

import numpy as np

from personalive.media.faces import Face

DEGREES = 12.0
"""A turn by this much counts as much as..."""
LIPS = 0.12
"""...lips this far apart, per distance of the eyes' outer corners..."""
LIDS = 0.25
"""...or eyes that are closed by this part of how they usually are."""
NEAR = 0.15
"""Frames this much less at rest than the best are as good: the earliest of them is taken."""


def most_neutral(faces: Mapping[int, Face]) -> int:
    """The frame that shows a person's face most at rest; 0 if none shows it.

    Args:
        faces: the person's, by frame.
    """
    if not faces:
        return 0
    seen = sorted(faces.items())
    usual = max(float(np.median([face.eyes for _, face in seen])), 1e-6)
    strains = [
        max(abs(face.yaw), abs(face.pitch), abs(face.roll)) / DEGREES
        + max(face.mouth, 0.0) / LIPS
        + max(1 - face.eyes / usual, 0.0) / LIDS
        for _, face in seen
    ]
    least = min(strains)
    return next(index for (index, _), strain in zip(seen, strains, strict=True) if strain <= least + NEAR)

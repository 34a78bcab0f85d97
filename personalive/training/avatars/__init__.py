"""Drawn people for training and tests: identity and motion are independent, and every label is exact."""

from personalive.training.avatars.geometry import canonical_keypoints, face_landmarks, project, rotation
from personalive.training.avatars.identity import Identity, sample_identities
from personalive.training.avatars.motion import Motion, neutral, sample_motions, sample_tracks
from personalive.training.avatars.render import render

__all__ = [
    "Identity", "Motion", "canonical_keypoints", "face_landmarks", "neutral", "project", "render", "rotation",
    "sample_identities", "sample_motions", "sample_tracks",
]  # fmt: skip

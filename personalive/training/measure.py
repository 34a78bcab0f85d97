"""Head pose, mouth and eyes as mediapipe's face mesh reads them: an instrument that is independent of the model.

The pose is a rigid fit of the mesh to a template. The template is the mean mesh of drawn faces that look straight ahead
(`python -m personalive.training.measure` makes it again); its origin does not matter for correlations.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personalive.media.faces import load_mediapipe

FloatArray = npt.NDArray[np.float64]
TEMPLATE = Path(__file__).with_name("face_template.npy")
MESH_POINTS = 468
EYE_CORNERS = (33, 133, 362, 263)
"""Outer and inner corner of the eye on the picture's left, inner and outer of that on its right."""
LIDS = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))
INNER_LIPS = ((13, 14), (82, 87), (312, 317))
LANDMARKS = (33, 133, 362, 263, 1, 61, 291, 13, 14, 152, 10, 168, 105, 334, 4, 2, 78, 308, 0, 17)
"""Points whose position is compared between output and truth: eyes, brows, nose, lips, chin, forehead."""


@dataclass(frozen=True)
class Reading:
    """What the instrument sees in one picture."""

    mesh: FloatArray
    """`[478, 3]` in pixels of the picture."""
    yaw: float
    pitch: float
    roll: float
    """Degrees, signs as in docs/reference/model.md section 9.2."""
    mouth: float
    """Opening of the lips relative to the size of the face."""
    blink: float
    """Larger when the eyes are more closed: the negative height of the lid opening relative to the face."""

    @property
    def eye_distance(self) -> float:
        """Pixels between the centres of the eyes."""
        outer_left, inner_left, inner_right, outer_right = (self.mesh[i, :2] for i in EYE_CORNERS)
        return float(np.linalg.norm((outer_left + inner_left - inner_right - outer_right) / 2))


class FaceReader:
    """mediapipe's face mesh with iris refinement; each picture is read on its own."""

    def __init__(self) -> None:
        self._mesh = load_mediapipe().face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)
        self._template = np.load(TEMPLATE) if TEMPLATE.exists() else None

    def mesh(self, image: npt.NDArray[np.uint8]) -> FloatArray | None:
        """Mesh `[478, 3]` in pixels of an RGB picture `[H, W, 3]`; None when there is no face."""
        faces = self._mesh.process(np.ascontiguousarray(image)).multi_face_landmarks
        if not faces:
            return None
        height, width = image.shape[:2]
        points = np.array([[point.x, point.y, point.z] for point in faces[0].landmark])
        scaled: FloatArray = points * np.array([width, height, width])
        return scaled

    def read(self, image: npt.NDArray[np.uint8]) -> Reading | None:
        """Everything that is measured in one picture; None when there is no face."""
        mesh = self.mesh(image)
        if mesh is None or self._template is None:
            return None
        return read_mesh(mesh, self._template)


def read_mesh(mesh: FloatArray, template: FloatArray) -> Reading:
    """Pose and openings from a mesh `[478, 3]` and a template `[468, 3]`."""
    turn, size = fit_rotation(template, mesh[:MESH_POINTS])
    upright = (mesh @ turn) / size  # the face as seen from its front
    lids = float(np.mean([upright[low, 1] - upright[high, 1] for high, low in LIDS]))
    lips = float(np.mean([upright[low, 1] - upright[high, 1] for high, low in INNER_LIPS]))
    # mediapipe's z points away from the viewer, the model's towards the viewer: yaw and pitch change sign.
    yaw = -np.degrees(np.arcsin(np.clip(-turn[2, 0], -1, 1)))
    pitch = -np.degrees(np.arctan2(turn[2, 1], turn[2, 2]))
    roll = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
    return Reading(mesh, float(yaw), float(pitch), float(roll), lips, -lids)


def fit_rotation(template: FloatArray, points: FloatArray) -> tuple[FloatArray, float]:
    """Rotation R `[3, 3]` and scale that fit the template to the points best: points ≈ scale·R·template + t."""
    source = template - template.mean(0)
    target = points - points.mean(0)
    u, weights, v = np.linalg.svd(source.T @ target)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    turn = ((u * flip) @ v).T
    return turn, float((weights * flip).sum() / (source**2).sum())


def make_template() -> FloatArray:
    """Mean mesh of 48 drawn faces that look straight ahead, `[468, 3]`, unit size."""
    import torch

    from personalive.training.avatars import neutral, render, sample_identities
    from personalive.training.shots import to_pixels

    identities = sample_identities(48, torch.Generator().manual_seed(99))
    reader, meshes = FaceReader(), []
    for index in range(48):
        picture = render(identities[index : index + 1], neutral(1))
        mesh = reader.mesh(to_pixels(picture[0]))
        if mesh is not None:
            points = mesh[:MESH_POINTS] - mesh[:MESH_POINTS].mean(0)
            meshes.append(points / np.linalg.norm(points))
    return np.asarray(np.mean(meshes, axis=0))


if __name__ == "__main__":
    np.save(TEMPLATE, make_template().astype(np.float32))

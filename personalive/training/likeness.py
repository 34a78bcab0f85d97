"""How much an animated person still looks like the reference: colours and proportions of the face, and an embedding.

The embedding is dlib's (`pip install dlib-bin`, Boost licence) with the weights of `face_recognition_models` (CC0), of
which only the file of the network is read. Without them, colours and proportions alone are given.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.training.measure import LANDMARKS, Reading, fit_rotation
from personalive.training.scores import Pictures

WEIGHTS = "models/dlib_face_recognition_resnet_model_v1.dat"
SKIN = (50, 280, 205, 425, 10, 151, 9, 108, 337, 101, 330, 36, 266, 199, 5, 195, 117, 346, 187, 411)
"""Points of the mesh that lie on skin in every expression: cheeks, forehead, nose, chin."""
RIGID = tuple(point for point in LANDMARKS if point not in (61, 291, 13, 14, 0, 17, 78, 308, 152))
"""Landmarks that no expression moves much."""
CORNERS = (263, 362, 33, 133, 2)
"""The five points that dlib aligns faces by: outer and inner corner of the right eye, of the left, and the nose."""


def likeness(reference: Pictures, own: Reading, output: Pictures, seen: list[Reading | None]) -> dict[str, float]:
    """Mean distances of the frames with a face from the reference `[H, W, 3]`; 0 is the same.

    Returns:
        "colour": of skin, Euclidean, of 255. "shape": of landmarks in space, relative to the distance between the
        eyes, after the best rotation and scale. "embedding": Euclidean; dlib takes 0.6 and more for somebody else.
    """
    embed = load_embedding()
    colours, shapes, embeddings = [], [], []
    expected = None if embed is None else embed(reference, own)
    for picture, reading in zip(output, seen, strict=True):
        if reading is None:
            continue
        difference = _skin(picture, reading) - _skin(reference, own)
        colours.append(float(np.linalg.norm(difference, axis=1).mean()))
        shapes.append(_shape(own, reading))
        if embed is not None:
            embeddings.append(float(np.linalg.norm(embed(picture, reading) - expected)))
    found = {"colour": colours, "shape": shapes} | ({} if embed is None else {"embedding": embeddings})
    return {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}


def _skin(picture: Pictures, reading: Reading) -> npt.NDArray[np.float64]:
    """Colours around points of the skin, `[points, 3]`."""
    half, size = max(1, picture.shape[0] // 128), picture.shape[0]
    patches = []
    for point in SKIN:
        x, y = (int(np.clip(round(float(value)), half, size - 1 - half)) for value in reading.mesh[point, :2])
        patches.append(picture[y - half : y + half + 1, x - half : x + half + 1].mean(axis=(0, 1)))
    return np.stack(patches)


def _shape(own: Reading, reading: Reading) -> float:
    source, target = own.mesh[list(RIGID)], reading.mesh[list(RIGID)]
    turn, scale = fit_rotation(source, target)
    fitted = (source - source.mean(axis=0)) @ turn.T * scale
    error = np.linalg.norm(target - target.mean(axis=0) - fitted, axis=1).mean()
    return float(error / (own.eye_distance * scale))


def load_embedding() -> Any | None:
    """A function of a picture and its reading to a vector `[128]`; None if the packages are not installed."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None or importlib.util.find_spec("dlib") is None:
        return None
    import dlib

    network = dlib.face_recognition_model_v1(str(Path(spec.origin).parent / WEIGHTS))

    def embed(picture: Pictures, reading: Reading) -> npt.NDArray[np.float64]:
        # dlib's chips have 150 pixels: a small picture is enlarged before they are cut out.
        scale = 2 if picture.shape[0] < 512 else 1
        large = np.array(Image.fromarray(picture).resize((picture.shape[1] * scale, picture.shape[0] * scale)))
        points = reading.mesh[list(CORNERS), :2] * scale
        low, high = points.min(axis=0), points.max(axis=0)
        box = dlib.rectangle(*(int(value) for value in (*low, *high)))
        parts = [dlib.point(round(float(x)), round(float(y))) for x, y in points]
        return np.array(network.compute_face_descriptor(large, dlib.full_object_detection(box, parts)))

    return embed

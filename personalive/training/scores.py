"""Figures that compare an animation with the ground truth. Pictures are uint8 `[F, H, W, 3]`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personalive.training.measure import LANDMARKS, Reading

Pictures = npt.NDArray[np.uint8]
SIGNALS = ("yaw", "pitch", "roll", "mouth", "blink")
"""The signals that are read from faces and compared with the driver's labels."""
CHEEKS, FOREHEAD, CHIN = (50, 280), 10, 152
"""Points of the mesh that are surrounded by skin, and the ends of the face."""
HAIR_ABOVE = 0.22
"""Where hair is looked for: this fraction of the face's height above the forehead."""
PATCH = 5
"""Side of the patches whose colours are compared, in pixels."""


@dataclass(frozen=True)
class Scores:
    """Of one animation. Landmark errors are relative to the distance between the eyes; colours are 0 to 255."""

    psnr: float
    """dB, output against truth."""
    psnr_unmoved: float
    """dB, the unmoved reference against truth."""
    landmarks: float
    found: float
    """Fraction of the output frames in which mediapipe finds a face."""
    correlation: dict[str, float]
    """Correlation of what the output shows with the driver's labels."""
    correlation_truth: dict[str, float]
    """The same of the true frames."""
    colours: dict[str, float]
    """Distance of skin, hair and background to the reference."""
    flicker: float
    """Second difference over time, relative to the truth's."""


def psnr(output: Pictures, truth: Pictures) -> float:
    """Mean over the frames, in dB."""
    square = ((output.astype(np.float64) - truth) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(square, 1e-3))).mean())


def landmark_error(output: list[Reading | None], truth: list[Reading | None]) -> float:
    """Mean distance of landmarks from the truth's, relative to the distance between the eyes."""
    errors = [
        np.linalg.norm(seen.mesh[list(LANDMARKS), :2] - true.mesh[list(LANDMARKS), :2], axis=1).mean()
        / true.eye_distance
        for seen, true in zip(output, truth, strict=True)
        if seen is not None and true is not None
    ]
    return float(np.mean(errors)) if errors else float("nan")


def correlation(readings: list[Reading | None], labels: dict[str, npt.NDArray[np.float32]]) -> dict[str, float]:
    """Pearson's correlation of each signal with its label, over the frames with a face."""
    seen = [index for index, reading in enumerate(readings) if reading is not None]
    result = {}
    for name in SIGNALS:
        values = [getattr(readings[index], name) for index in seen]
        enough = len(seen) > 2 and float(np.std(values)) > 0
        result[name] = float(np.corrcoef(values, labels[name][seen])[0, 1]) if enough else 0.0
    return result


def flicker(output: Pictures, truth: Pictures) -> float:
    """Mean absolute second difference over time, output relative to truth: 1 is as smooth as the truth."""

    def second(frames: Pictures) -> float:
        values = frames.astype(np.float32)
        return float(np.abs(values[2:] - 2 * values[1:-1] + values[:-2]).mean())

    return second(output) / max(second(truth), 1e-6)


def colour_distance(
    reference: Pictures, seen: Reading | None, output: Pictures, readings: list[Reading | None]
) -> dict[str, float]:
    """Euclidean distance of mean colours between a reference `[H, W, 3]` and the output, the mean over its frames."""
    distances: dict[str, list[float]] = {"skin": [], "hair": [], "background": []}
    own = _colours(reference, seen)
    for picture, reading in zip(output, readings, strict=True):
        for name, colour in _colours(picture, reading).items():
            if name in own:
                distances[name].append(float(np.linalg.norm(colour - own[name])))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in distances.items()}


def _colours(picture: Pictures, reading: Reading | None) -> dict[str, npt.NDArray[np.float64]]:
    width = picture.shape[1]
    colours = {"background": (_patch(picture, (6, 6)) + _patch(picture, (width - 7, 6))) / 2}
    if reading is not None:
        mesh = reading.mesh[:, :2]
        colours["skin"] = np.mean([_patch(picture, mesh[point]) for point in CHEEKS], axis=0)
        colours["hair"] = _patch(picture, mesh[FOREHEAD] + HAIR_ABOVE * (mesh[FOREHEAD] - mesh[CHIN]))
    return colours


def _patch(picture: Pictures, place: tuple[int, int] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    height, width = picture.shape[:2]
    half = PATCH // 2
    x = int(np.clip(place[0], half, width - 1 - half))
    y = int(np.clip(place[1], half, height - 1 - half))
    mean: npt.NDArray[np.float64] = picture[y - half : y + half + 1, x - half : x + half + 1].mean(axis=(0, 1))
    return mean

"""Pictures of what a model in training does: the engine itself animates drawn people that training never sees."""

import copy
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from personalive.models import cast
from personalive.pipeline import PersonaLive
from personalive.training.shots import Shots, to_pixels
from personalive.training.sources import Avatars
from personalive.training.trainee import Trainee

SEED = 90_000_001
PEOPLE, LENGTH, SHOWN = 6, 32, 8

Pictures = npt.NDArray[np.uint8]


def save_preview(folder: Path, trainee: Trainee) -> None:
    """Write `preview.png` (a row each: reference, driver, truth, output), `vae.png` and `preview.csv` (PSNR in dB)."""
    with torch.no_grad():
        source = Avatars(trainee.config.size, trainee.device)
        model = _model(trainee)
        clips = source.clips(PEOPLE, LENGTH, SEED)
        driving, target = clips.frames(0, LENGTH)
        truth, still = to_pixels(target.images), to_pixels(clips.reference.images)[:, 0]
        output = np.stack([_animate(model, clips.reference, driving, person) for person in range(PEOPLE)])
        pictures = target.images[:, 0]
        again = to_pixels(model.networks.decode(model.networks.encode_image(pictures)) * 2 - 1)
    shown = np.linspace(0, LENGTH - 1, SHOWN).round().astype(int)
    rows = [
        row
        for person in range(PEOPLE)
        for row in (
            np.repeat(still[person][None], SHOWN, axis=0),
            to_pixels(driving.images)[person][shown],
            truth[person][shown],
            output[person][shown],
        )
    ]
    _save(folder / "preview.png", rows)
    _save(folder / "vae.png", [truth[:, 0], again])
    figures = {
        "vae": _psnr(again, truth[:, 0]),
        "animation": _psnr(output, truth),
        "unmoved reference": _psnr(np.broadcast_to(still[:, None], truth.shape), truth),
    }
    with (folder / "preview.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("picture", "psnr"), *((name, f"{value:.2f}") for name, value in figures.items())])


def _model(trainee: Trainee) -> PersonaLive:
    dtype = torch.float16 if trainee.device.type == "cuda" else torch.float32
    networks = {name: cast(copy.deepcopy(network).eval(), dtype) for name, network in trainee.average.items()}
    return PersonaLive.from_modules(trainee.config, networks, dtype)


def _animate(model: PersonaLive, reference: Shots, driving: Shots, person: int) -> Pictures:
    """All frames of one pair, through the engine."""
    stream = model.stream(seed=person)
    prepare = stream.preprocessor
    size = prepare.width
    still = to_pixels(reference.images)[person, 0]
    stream.set_reference(prepare.reference(still, _box(reference.boxes[person, 0], size)))
    frames = to_pixels(driving.images)[person]
    boxes = [_box(box, size) for box in driving.boxes[person]]
    pushed = stream.push(prepare.driving(list(frames), boxes))
    return np.concatenate((pushed, stream.flush()))


def _box(box: Tensor, size: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(value) for value in box.clamp(0, size).tolist())
    return left, top, right, bottom


def _psnr(output: Pictures, truth: Pictures) -> float:
    """PSNR in dB over the last three axes, averaged over all pictures."""
    square = ((output.astype(np.float64) - truth) ** 2).mean(axis=(-1, -2, -3))
    return float((10 * np.log10(255**2 / np.maximum(square, 1e-3))).mean())


def _save(path: Path, rows: list[Pictures]) -> None:
    """Rows of pictures at half size."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    image = Image.fromarray(sheet)
    image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX).save(path, optimize=True)

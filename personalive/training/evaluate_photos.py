"""Judges a model on photographs of people whom no training saw: `python -m personalive.training.evaluate --photos`.

The photographs are moved by a warp in space (`warped`), which is the truth for a photograph that drives itself. With
another one as driver there is no truth; there it is measured whether yaw and mouth follow, and whose face it is.
"""

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from personalive.animate.job import animate
from personalive.errors import InputError
from personalive.media.images import read_image
from personalive.media.portrait import PortraitFinder
from personalive.media.video_reader import probe, read_frames
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.training.demo_assets import write_video
from personalive.training.likeness import likeness
from personalive.training.measure import FaceReader
from personalive.training.scores import Pictures, correlation, landmark_error, psnr
from personalive.training.warped import Moved, Track, make_track

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
"""Package and file; both are in the public domain (NASA; United States Navy). Training never reads them."""
FRAMES = 48
VAE_PSNR, PSNR, PSNR_GAIN, CORRELATION, FEWER = 32.0, 24.0, 3.0, 0.9, 0.5


@dataclass(frozen=True)
class Photograph:
    """One person, cropped as users' portraits are, and moved."""

    name: str
    moved: Moved
    frames: Pictures


def read_photographs(reader: FaceReader, size: int, track: Track) -> list[Photograph]:
    """All of them, `size` x `size`.

    Raises:
        InputError: a package is missing.
    """
    found = []
    for name, (package, file) in PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise InputError(f"the photograph {name} comes with {package}: pip install -r requirements-dev.txt")
        with PortraitFinder() as finder:
            portrait = finder.find(read_image(Path(spec.origin).parent / file), (size, size), "auto")
        assert portrait is not None
        image = np.array(Image.fromarray(portrait.image).resize((size, size), Image.Resampling.LANCZOS))
        mesh = reader.mesh(image)
        assert mesh is not None, f"mediapipe finds no face in {name}"
        moved = Moved(image, mesh)
        found.append(Photograph(name, moved, moved.frames(track)))
    return found


def evaluate_photos(model: PersonaLive, seed: int, frames: int = FRAMES, sheet: Path | None = None) -> dict[str, Any]:
    """Each photograph driven by each.

    Returns:
        `{"vae_psnr": ..., "self": [figures], "cross": [figures]}` as plain values.
    """
    reader, track = FaceReader(), make_track(frames)
    photographs = read_photographs(reader, model.config.size, track)
    result: dict[str, Any] = {"seed": seed, "vae_psnr": _autoencoder(model, photographs), "self": [], "cross": []}
    rows = []
    pairs = [(one, other) for one in photographs for other in photographs]
    for person, driver in tqdm(pairs, desc="photographs", disable=None):
        output = _animate(model, person, driver, seed)
        figures = {"reference": person.name, "driver": driver.name, **_score(reader, person, track, output)}
        if person is driver:
            figures |= _against_truth(reader, person, output)
        result["self" if person is driver else "cross"].append(figures)
        rows += [driver.frames, output]
    if sheet is not None:
        _save_sheet(sheet, rows)
    return result


def _animate(model: PersonaLive, person: Photograph, driver: Photograph, seed: int) -> Pictures:
    """Through files, as users do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(person.moved.photo).save(folder / "reference.png")
        write_video(folder / "driver.mp4", driver.frames)
        options = AnimateOptions(max_frames=0, seed=seed, crop="none", overwrite=True)
        for _ in animate(model, folder / "reference.png", folder / "driver.mp4", folder / "output.mp4", options):
            pass
        return np.stack(list(read_frames(probe(folder / "output.mp4"))))


def _score(reader: FaceReader, person: Photograph, track: Track, output: Pictures) -> dict[str, Any]:
    seen = [reader.read(picture) for picture in output]
    own = reader.read(person.moved.photo)
    assert own is not None
    labels = {"yaw": track.yaw, "pitch": track.pitch, "mouth": track.mouth, "blink": track.blink, "roll": track.yaw}
    read = correlation(seen, labels)
    return {
        "found": sum(reading is not None for reading in seen) / len(seen),
        "correlation": {name: read[name] for name in ("yaw", "pitch", "mouth", "blink")},
        "identity": likeness(person.moved.photo, own, output, seen),
    }


def _against_truth(reader: FaceReader, person: Photograph, output: Pictures) -> dict[str, Any]:
    truth = person.frames
    true = [reader.read(picture) for picture in truth]
    own = reader.read(person.moved.photo)
    assert own is not None
    return {
        "psnr": psnr(output, truth),
        "psnr_unmoved": psnr(np.broadcast_to(person.moved.photo, truth.shape), truth),
        "landmarks": landmark_error([reader.read(picture) for picture in output], true),
        "identity_truth": likeness(person.moved.photo, own, truth, true),
    }


def _autoencoder(model: PersonaLive, photographs: list[Photograph]) -> float:
    """Photographs through the VAE and back, in dB."""
    images = torch.stack([torch.from_numpy(person.moved.photo).permute(2, 0, 1) for person in photographs])
    wanted = images.float() / 127.5 - 1
    with torch.inference_mode():
        again = [model.networks.decode(model.networks.encode_image(part)).cpu() for part in wanted.split(1)]
    square = ((torch.cat(again) - (wanted / 2 + 0.5)) ** 2).mean(dim=(1, 2, 3))
    return float((-10 * square.log10()).mean())


def checks_photos(result: dict[str, Any], baseline: dict[str, Any] | None) -> list[tuple[str, float, str, bool]]:
    """Every figure with its threshold, as `evaluate.checks`; `baseline` holds those of the model to be improved on."""
    own, cross = result["self"], result["cross"]

    def least(name: str, value: float, wanted: float) -> tuple[str, float, str, bool]:
        return name, value, f">= {wanted}", value >= wanted

    mean = float(np.mean([entry["psnr"] for entry in own]))
    gain = mean - float(np.mean([entry["psnr_unmoved"] for entry in own]))
    rows = [
        least("VAE PSNR, dB", result["vae_psnr"], VAE_PSNR),
        least("PSNR driving itself, dB", mean, PSNR),
        least("PSNR over the unmoved photograph, dB", gain, PSNR_GAIN),
        ("landmark error / eye distance", float(np.mean([entry["landmarks"] for entry in own])), "", True),
        ("faces found", float(np.mean([entry["found"] for entry in own + cross])), "", True),
    ]
    for signal in ("yaw", "mouth"):
        rows.append(least(f"{signal}, correlation", _mean(own + cross, "correlation", signal), CORRELATION))
    for signal in ("pitch", "blink"):
        rows.append((f"{signal}, correlation", _mean(own + cross, "correlation", signal), "", True))
    for part in own[0]["identity"]:
        value = _mean(own + cross, "identity", part)
        truth = _mean(own, "identity_truth", part)
        rows.append((f"identity, {part}, of true frames", truth, "", True))
        if baseline is None:
            rows.append((f"identity, {part}", value, "", True))
        else:
            most = FEWER * _mean(baseline["self"] + baseline["cross"], "identity", part)
            rows.append((f"identity, {part}", value, f"<= {most:.3f}", value <= most))
    return rows


def _mean(entries: list[dict[str, Any]], name: str, key: str) -> float:
    return float(np.mean([entry[name][key] for entry in entries]))


def _save_sheet(path: Path, rows: list[Pictures]) -> None:
    """Four frames of each driver and of each output."""
    shown = [
        np.concatenate(list(frames[np.linspace(0, len(frames) - 1, 6).round().astype(int)[1:5]]), axis=1)
        for frames in rows
    ]
    beside = [np.concatenate(shown[start : start + 2], axis=1) for start in range(0, len(shown), 2)]
    Image.fromarray(np.concatenate(beside)).save(path, optimize=True)

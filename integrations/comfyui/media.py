"""Between ComfyUI's tensors and personalive's files: lossless, and a few frames at a time."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from personalive.types import RGBArray

CHUNK = 16
"""Frames that are converted at a time."""


def save_picture(images: torch.Tensor, path: Path) -> Path:
    """The first of some images, [n, h, w, 3] in [0, 1], as a PNG."""
    Image.fromarray(_bytes(images[:1])[0]).save(path)
    return path


def save_video(images: torch.Tensor, fps: float, path: Path) -> Path:
    """Images, [n, h, w, 3] in [0, 1], as a video that has exactly their 8-bit values."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "bgr0"
        for start in range(0, len(images), CHUNK):
            for picture in _bytes(images[start : start + CHUNK]):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def load_frames(paths: Iterable[Path], count: int) -> torch.Tensor:
    """Pictures of one size as ComfyUI has them: fp32 [count, h, w, 3] in [0, 1]."""
    frames: torch.Tensor | None = None
    for index, path in enumerate(paths):
        with Image.open(path) as opened:
            picture = torch.from_numpy(np.array(opened))
        if frames is None:
            frames = torch.empty(count, *picture.shape)
        frames[index] = picture.float() / 255
        path.unlink()  # so that the frames are not there twice for longer than they must be
    assert frames is not None
    return frames


def load_sound(path: Path, start: float, seconds: float) -> dict[str, Any] | None:
    """The sound of a part of a video as ComfyUI has it: [1, channels, samples], and their rate; None: it has none."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        rate = stream.rate
        resampler = av.AudioResampler("fltp", stream.layout, rate)
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
    if not parts:
        return None
    first = round(start * rate)
    samples = np.concatenate(parts, axis=1)[:, first : first + round(seconds * rate)]
    return {"waveform": torch.from_numpy(samples.copy())[None], "sample_rate": rate}


def save_source(video: Any, path: Path) -> Path:
    """Where a VIDEO is: its file, or a copy of what is in memory."""
    source = video.get_stream_source()
    if isinstance(source, str | Path):
        return Path(source)
    source.seek(0)
    path.write_bytes(source.read())
    return path


def _bytes(images: torch.Tensor) -> RGBArray:
    pixels: RGBArray = (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return pixels

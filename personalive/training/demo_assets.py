"""Makes the files that come with the repository: `demo/portrait.png` and `demo/driver.mp4`, drawn people.

    python -m personalive.training.demo_assets [folder]

The driver moves for four seconds at 25 frames a second and hums while the mouth is open.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm

from personalive.training.avatars import (
    Identity,
    Motion,
    neutral,
    render,
    sample_identities,
    sample_tracks,
)
from personalive.training.avatars.motion import FRAME_RATE
from personalive.training.shots import to_pixels

SIZE = 512
FRAMES = 100
SAMPLE_RATE = 48_000
PORTRAIT_SEED, DRIVER_SEED, MOTION_SEED = 3, 11, 5
PITCH = 128.0
"""Of the hum, in Hz."""


def pictures(identity: Identity, motion: Motion, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Frames uint8 `[F, size, size, 3]` of one person (B = 1) with a track `[1, F]`."""
    count = motion.yaw.shape[1]
    array = np.empty((count, size, size, 3), np.uint8)
    for index in tqdm(range(count), desc="drawing", disable=None, leave=False):
        array[index] = to_pixels(render(identity, motion[:, index], size)[0])
    return array


def hum(mouth_open: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A voice that is as loud and as bright as the mouth is open, mono in [-1, 1]; the input has one value a frame."""
    count = len(mouth_open) * SAMPLE_RATE // FRAME_RATE
    time = np.arange(count) / SAMPLE_RATE
    opening = np.interp(time * FRAME_RATE, np.arange(len(mouth_open)), mouth_open)
    phase = 2 * np.pi * PITCH * time + 0.8 * np.sin(2 * np.pi * 5 * time)
    voice = sum(np.sin(k * phase) / k * opening ** (0.4 + 0.25 * k) for k in range(1, 9))
    sound: npt.NDArray[np.float32] = (0.22 * voice).astype(np.float32)
    return sound


def write_video(path: Path, frames: npt.NDArray[np.uint8], sound: npt.NDArray[np.float32] | None = None) -> None:
    """H.264, with AAC where there is sound, at 25 frames a second; `frames` uint8 `[F, H, W, 3]`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "16", "preset": "slow"})
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        for picture in frames:
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        container.mux(video.encode())
        if audio is None or sound is None:
            return
        for start in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())


def main(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    portrait = sample_identities(1, torch.Generator().manual_seed(PORTRAIT_SEED))
    driver = sample_identities(1, torch.Generator().manual_seed(DRIVER_SEED))
    track = sample_tracks(1, FRAMES, torch.Generator().manual_seed(MOTION_SEED))
    rest = neutral(1).replace(smile=torch.tensor([0.3]))
    Image.fromarray(to_pixels(render(portrait, rest, SIZE)[0])).save(folder / "portrait.png", optimize=True)
    write_video(folder / "driver.mp4", pictures(driver, track), hum(track.mouth_open[0].numpy()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))

"""Makes the motions that come with the repository, in `demo/motions`: a drawn person nods, talks, blinks, and so on.

    python -m personalive.training.drawn_motions [folder]

The demo model's encoder reads them, so they fit this model only. Each begins and ends at rest: it can be looped.
"""

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from personalive.animate.driver import Driver
from personalive.animate.motion_file import MotionKeeper
from personalive.animate.plan import DrivingPlan, plan_driving, read_portrait
from personalive.assets import DEMO_MOTIONS, DEMO_PORTRAIT
from personalive.engine.motion import DriverMotion
from personalive.engine.preprocess import DrivingFrames
from personalive.engine.stream import Stream
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.training.avatars import Motion, neutral, sample_identities
from personalive.training.avatars.motion import BLINK_FRAMES, FRAME_RATE
from personalive.training.demo_assets import DRIVER_SEED, pictures, write_video
from personalive.types import RGBArray

SIZE = 256


def nod(time: Tensor) -> dict[str, Tensor]:
    """Twice, over two seconds."""
    return {"pitch": -11 * swell(time) * torch.sin(2 * math.pi * time).clamp(min=-0.35), "blink": blinks(time, 0.9)}


def talk(time: Tensor) -> dict[str, Tensor]:
    """Some four syllables a second, with pauses, and what the head does beside it."""
    wave = 0.5 - 0.5 * torch.cos(2 * math.pi * 4 * time)
    loud = (0.65 + 0.35 * torch.sin(2 * math.pi * 0.9 * time)) * (torch.sin(2 * math.pi * 0.62 * time) > -0.8)
    return {
        "mouth_open": 0.75 * wave * loud * swell(time),
        "mouth_wide": 0.7 * torch.sin(2 * math.pi * 1.3 * time) * swell(time),
        "brow": 0.5 * torch.sin(2 * math.pi * 0.5 * time) * swell(time),
        "pitch": 3 * torch.sin(2 * math.pi * 0.7 * time) * swell(time),
        "yaw": 5 * torch.sin(2 * math.pi * 0.4 * time) * swell(time),
        "blink": blinks(time, 0.7, 2.2),
    }


def blink(time: Tensor) -> dict[str, Tensor]:
    """Once, and then twice in quick succession."""
    return {"blink": blinks(time, 0.3, 1.1, 1.45)}


def laugh(time: Tensor) -> dict[str, Tensor]:
    """A smile that opens, shakes, and fades."""
    shake = 0.5 + 0.5 * torch.sin(2 * math.pi * 4.5 * time)
    return {
        "smile": 0.3 + 0.7 * swell(time),
        "mouth_open": (0.45 + 0.25 * shake) * swell(time) ** 2,
        "mouth_wide": 0.6 * swell(time),
        "blink": 0.4 * swell(time) ** 2,
        "brow": 0.4 * swell(time),
        "pitch": (7 + 2 * shake) * swell(time) ** 2,
        "translate_y": -0.015 * shake * swell(time) ** 2,
    }


def look_around(time: Tensor) -> dict[str, Tensor]:
    """To one side, to the other and up; the eyes go first."""
    turn = torch.sin(2 * math.pi * time / 4)
    ahead = torch.sin(2 * math.pi * (time + 0.2) / 4)
    return {
        "yaw": 24 * turn * swell(time),
        "gaze_x": 0.9 * ahead * swell(time),
        "pitch": 7 * (0.5 - 0.5 * torch.cos(2 * math.pi * time / 2)) * swell(time),
        "blink": blinks(time, 1.9, 3.6),
    }


MOTIONS: dict[str, tuple[float, Callable[[Tensor], dict[str, Tensor]]]] = {
    "nod": (2.0, nod),
    "talk": (3.0, talk),
    "blink": (2.0, blink),
    "laugh": (3.0, laugh),
    "look_around": (4.0, look_around),
}
"""Seconds of each, and what moves in it."""


def swell(time: Tensor) -> Tensor:
    """0 at both ends of the time, and 1 between them, with half a second from one to the other."""
    left = torch.minimum(time, time[-1] - time) / 0.5
    return 0.5 - 0.5 * torch.cos(math.pi * left.clamp(0, 1))


def blinks(time: Tensor, *starts: float) -> Tensor:
    """Closed eyes at some moments, as `avatars.motion` has them."""
    closed = torch.zeros_like(time)
    for start in starts:
        first = round(start * FRAME_RATE)
        count = min(len(BLINK_FRAMES), len(time) - first)
        closed[first : first + count] = torch.tensor(BLINK_FRAMES[:count])
    return closed


def track(name: str) -> Motion:
    """One of the motions, `[1, F]` at 25 frames a second."""
    seconds, moves = MOTIONS[name]
    time = torch.arange(round(seconds * FRAME_RATE)) / FRAME_RATE
    rest = neutral(len(time)).replace(smile=torch.full_like(time, 0.3))
    moved = rest.replace(**{part: values + 0.0 for part, values in moves(time).items()})
    return Motion(**{part: values[None] for part, values in vars(moved).items()})


class _Observing:
    """Lets motion be observed, and drives nothing."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def drive(self, driving: DrivingFrames) -> tuple[DriverMotion, RGBArray]:
        return self._stream.observe(driving), self._stream.joined([])

    def push(self, motion: DriverMotion) -> RGBArray:
        return self._stream.joined([])


def keep(model: PersonaLive, drawn: Path, target: Path) -> None:
    """Keep what the model's encoder reads in a video; nothing is animated."""
    options = AnimateOptions(max_frames=0, save_motion=target)
    shape = model.config.size, model.config.size
    search = plan_driving(drawn, shape, options, None)
    while True:
        try:
            next(search)
        except StopIteration as end:
            plan: DrivingPlan = end.value
            break
    portrait = read_portrait(DEMO_PORTRAIT, shape, options)
    stream = model.stream()
    stream.set_reference(stream.preprocessor.reference(portrait.image, portrait.box))
    driver = Driver(plan, model, stream, options)
    for _ in driver.play(_Observing(stream), None):
        pass
    with MotionKeeper(target) as keeper:
        keeper.write(driver.motion_file())
        keeper.keep()


def main(folder: Path) -> None:
    """Draw every motion, and keep what the demo model's encoder reads in it."""
    folder.mkdir(parents=True, exist_ok=True)
    person = sample_identities(1, torch.Generator().manual_seed(DRIVER_SEED))
    model = PersonaLive.from_pretrained("demo", device="cpu", dtype=torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        for name in MOTIONS:
            drawn = Path(scratch) / f"{name}.mp4"
            write_video(drawn, pictures(person, track(name), SIZE))
            keep(model, drawn, folder / f"{name}.motion")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO_MOTIONS)

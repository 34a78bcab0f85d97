"""A driver's motion in a file, without an animation."""

from collections.abc import Generator
from pathlib import Path

from personalive.animate.driver import Driver
from personalive.animate.job import Progress, staged
from personalive.animate.motion_file import MotionKeeper
from personalive.animate.motion_header import is_motion
from personalive.animate.places import check_motion_output
from personalive.animate.plan import plan_driving, possible_here
from personalive.engine.motion import DriverMotion
from personalive.engine.preprocess import DrivingFrames
from personalive.engine.stream import Stream
from personalive.errors import InputError
from personalive.media.crop import cut
from personalive.media.images import require_file
from personalive.media.video_reader import read_frames
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.types import RGBArray


class Observer:
    """Takes a driver's motion, and animates nothing; see `driver.Ahead`."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._nothing = stream, stream.joined([])

    def drive(self, driving: DrivingFrames) -> tuple[DriverMotion, RGBArray]:
        """The motion in frames, and no pictures."""
        return self._stream.observe(driving), self._nothing

    def push(self, motion: DriverMotion) -> RGBArray:
        """No pictures."""
        return self._nothing


def extract_motion(
    model: PersonaLive, driving_video: str | Path, output: str | Path, options: AnimateOptions | None = None
) -> Generator[Progress, None, None]:
    """Keep a driver's motion in a `.motion` file, as `save_motion` does, but without a portrait.

    The work is done during iteration. Closing the generator stops it and removes its unfinished file.

    Args:
        model: reads the motion; it can drive every model with the same motion encoder.
        driving_video: a video or a picture.
        output: the file to make.
        options: those of the face and of the part of the driver are used. Default: `AnimateOptions()`.

    Raises:
        InputError, NoFaceError: the driver cannot be used.
        OutputError: the file cannot be written.
    """
    path, target = Path(driving_video), Path(output)
    options, _ = possible_here(options or AnimateOptions())
    require_file(path, "the driving video")
    if is_motion(path):
        raise InputError(f"the driver {path} is a motion file already")
    check_motion_output(target, options.overwrite)
    return _extract(model, path, target, options.replace(save_motion=target, loop=None, ping_pong=False))


def _extract(model: PersonaLive, path: Path, target: Path, options: AnimateOptions) -> Generator[Progress, None, None]:
    shape = options.width or model.config.size, options.height or model.config.size
    yield Progress("reading", 0, 0)
    plan = yield from staged("finding the face", plan_driving(path, shape, options, None))
    stream = model.stream(width=shape[0], height=shape[1], rate=float(plan.rate))
    # A stream needs a portrait; the motion does not depend on it.
    first = next(read_frames(plan.info, plan.rate, plan.skip))
    stream.set_reference(stream.preprocessor.reference(cut(first, plan.crop(0)), plan.box(0)))
    driver = Driver(plan, model, stream, options)
    driver.begin()
    with MotionKeeper(target) as kept:
        for _ in driver.play(Observer(stream), None):
            yield Progress("extracting", driver.shown, max(plan.frames, driver.shown), driver.faceless)
        kept.write(driver.motion_file())
        kept.keep()
    yield Progress("done", driver.shown, driver.shown, driver.faceless)

"""The Cog entry point: the command's inputs, except for paths on the server, the device and the data type.

The operator chooses those with environment variables: PERSONALIVE_MODEL, PERSONALIVE_ACCELERATE,
PERSONALIVE_LOW_MEMORY=1 and the other settings of the model (see `ModelChoice`). PERSONALIVE_SIGN, PERSONALIVE_SIGN_KEY
and PERSONALIVE_SIGN_INPUTS=1 sign results, PERSONALIVE_HUB and PERSONALIVE_REVISION say where weights come from, and
PERSONALIVE_ALLOW_PRIVATE_URLS=1 lets requests name private addresses.
"""

# ruff: noqa: B008 (Cog reads its inputs from calls in the signature)

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cog
from cog import BasePredictor, Input

from personalive.animate.requested import animate_request
from personalive.loading import ModelChoice
from personalive.media.credentials import Signer
from personalive.media.held_folder import HeldFolder
from personalive.settings import RequestOptions, SigningSettings, Surface

SHORTEST = 0.1
"""Seconds. Cog's server 0.19.3 loses its only slot to a prediction that ends within a few milliseconds."""


class Upload(cog.Path):
    """A file of the request.

    For `cog.Path` itself, Cog fetches `http:` inputs before `predict` sees them, even from loopback and private
    addresses. For a subclass it passes on the URL, and `personalive.media.url_fetch` decides.
    """


class Predictor(BasePredictor):
    """Animates a portrait by a driving video."""

    def setup(self) -> None:
        """Load the model once, downloading weights that are missing into the cache."""
        self.signing = SigningSettings.from_environment(os.environ)
        if self.signing.sign and self.signing.sign_key:
            Signer(self.signing.sign, self.signing.sign_key)  # so that a wrong one is told before the first request
        choice = ModelChoice.from_environment(os.environ)
        source, remark = choice.resolved_source()
        print(f"loading the model {source} on {choice.resolved_device()}. {remark}")
        self.model = choice.for_files().load()
        self.results = _results()

    def predict(
        self,
        # Written by scripts/write_settings.py from personalive/settings:
        ref_image: Upload = Input(description="The portrait: a picture, or a video whose first face is taken."),
        driving_video: Upload = Input(
            description="The driver: a video, whose rate and sound the result has; a picture, or a .motion file."
        ),
        width: int | None = Input(
            description="Width in pixels. Default: the model's, 512 for personalive.",
            default=None,
            choices=[256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024],
        ),
        height: int | None = Input(
            description="Height in pixels. Default: the model's, 512 for personalive.",
            default=None,
            choices=[256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024],
        ),
        motion_strength: float = Input(
            description="How far pose and expression go from the reference's (0) to the driver's (1) and beyond.",
            default=1,
            ge=0,
            le=2,
        ),
        pose_strength: float | None = Input(
            description="The same for the head's pose alone. Default: that of motion_strength.",
            default=None,
            ge=0,
            le=2,
        ),
        expression_strength: float | None = Input(
            description="The same for the expression alone. Default: that of motion_strength.",
            default=None,
            ge=0,
            le=2,
        ),
        motion: str = Input(
            description="absolute: the driver's turn and expression; relative: the reference's, changed as the driver's differ from a neutral frame.",  # noqa: E501
            default="absolute",
            choices=["absolute", "relative"],
        ),
        keep: str = Input(
            description="Parts of the pose that stay the reference's: pitch, yaw, roll, translation, scale. Scale follows the driver's only in relative motion.",  # noqa: E501
            default="",
        ),
        smooth: float = Input(
            description="Smooth the head's pose, the more the less it moves; no frame is delayed.",
            default=0,
            ge=0,
            le=1,
        ),
        keyframe_threshold: float | None = Input(
            description="How different motion must be to keep a frame as a keyframe. Default: the model's, 17 for personalive.",  # noqa: E501
            default=None,
            ge=0,
            le=1000,
        ),
        seed: int = Input(
            description="Seed of the noise.",
            default=42,
            ge=0,
            le=4294967295,
        ),
        steps: int = Input(
            description="Denoising steps a frame.",
            default=4,
            choices=[4, 8, 12, 16],
        ),
        neutral_frame: int | None = Input(
            description="Frame of the driver, counted from 0, from which relative motion is measured. Default: the one with eyes open, mouth closed and the straightest look.",  # noqa: E501
            default=None,
            ge=0,
            le=999999,
        ),
        still: str | None = Input(
            description="A picture as driver: hold its pose and expression, or ease into them over the duration. Default: hold; with a duration, ease.",  # noqa: E501
            default=None,
            choices=["hold", "ease"],
        ),
        face_boxes: str = Input(
            description="How faces are cut out: by a face mesh, or by the model's keypoints.",
            default="mesh",
            choices=["mesh", "keypoints"],
        ),
        face: str = Input(
            description="Which of several faces: largest, left, right, or its number from the left.",
            default="largest",
        ),
        crop: str = Input(
            description="auto: around the face; center: the middle; none: everything, stretched.",
            default="auto",
            choices=["auto", "center", "none"],
        ),
        fps: float | None = Input(
            description="Frames a second; the duration stays. Default: the driving video's.",
            default=None,
            ge=1,
            le=120,
        ),
        paste_back: bool = Input(
            description="Put the animated crop back into the whole portrait, which keeps its size; outside the crop nothing changes.",  # noqa: E501
            default=False,
        ),
        side_by_side: bool = Input(
            description="Show reference, driver and result in one picture.",
            default=False,
        ),
        visible_mark: bool = Input(
            description="Draw a small mark into every frame that says it is AI-generated.",
            default=False,
        ),
        start: str = Input(
            description="Where in the driving video the used part begins. A time is written as seconds, mm:ss.s or hh:mm:ss.s.",  # noqa: E501
            default="0",
        ),
        duration: str | None = Input(
            description="How long the used part is. A time is written as seconds, mm:ss.s or hh:mm:ss.s. Default: the rest.",  # noqa: E501
            default=None,
        ),
        max_frames: int | None = Input(
            description="Driving frames to use at most; 0: all. Default: 100; with a duration, all of it.",
            default=None,
            ge=0,
            le=1000000,
        ),
        loop: int | None = Input(
            description="How often the part is played. Default: once; with ping_pong, twice.",
            default=None,
            ge=1,
            le=100,
        ),
        ping_pong: bool = Input(
            description="Play it backwards every second time, without sound.",
            default=False,
        ),
        no_audio: bool = Input(
            description="Leave the driving video's sound out.",
            default=False,
        ),
        codec: str | None = Input(
            description="Codec of the picture: an MP4 takes h264, h265 and av1, a WebM vp9 and av1. Default: the first.",  # noqa: E501
            default=None,
            choices=["h264", "h265", "vp9", "av1"],
        ),
        quality: int | None = Input(
            description="Constant rate factor of the picture: lower is better, and larger. Default: 18 for h264, 20 for h265, 24 for vp9 and av1.",  # noqa: E501
            default=None,
            ge=0,
            le=51,
        ),
        output_format: str = Input(
            description="Kind of file: mp4 and webm have sound, gif and webp are animated pictures.",
            default="mp4",
            choices=["mp4", "webm", "gif", "webp"],
        ),
        # End of what is written.
    ) -> cog.Path:
        """Make the video."""
        inputs = locals()
        with _not_too_short():
            options = RequestOptions.from_inputs(inputs, Surface.HTTP).replace(**self.signing.given())
            print(f"seed: {options.seed}")
            self.results.close()  # the result of the last prediction has been sent
            self.results = _results()
            made = animate_request(
                self.model, str(ref_image), str(driving_video), options, self.results.path, print, scratch=_scratch()
            )
            return cog.Path(made)


def _scratch() -> str | None:
    return os.environ.get("PERSONALIVE_SCRATCH")


def _results() -> HeldFolder:
    return HeldFolder("personalive-results-", _scratch())


@contextmanager
def _not_too_short() -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        time.sleep(max(0.0, SHORTEST - (time.monotonic() - begun)))

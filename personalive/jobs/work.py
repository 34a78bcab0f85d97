"""What a process does for a job: a request's values in, lines of a log and a file out."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from personalive.animate.requested import animate_request
from personalive.errors import PersonaLiveError
from personalive.loading import ModelChoice
from personalive.media.credentials import Signer
from personalive.media.held_folder import HeldFolder
from personalive.processes import Seat, computes
from personalive.settings import RequestOptions, SigningSettings, Surface

MEDIA_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "gif": "image/gif", "webp": "image/webp"}
"""By output_format. Not every machine's own list has them all."""


@dataclass(frozen=True)
class Began:
    """A process has been chosen for the job."""


@dataclass(frozen=True)
class Line:
    """A line for the job's log."""

    text: str


@dataclass(frozen=True)
class Made:
    """The result."""

    kind: str
    """Its media type."""
    content: bytes


@dataclass(frozen=True)
class Failed:
    """There is none."""

    error: str
    """For the client."""


Event = Began | Line | Made | Failed


class StoppedError(PersonaLiveError):
    """The job is not wanted any more."""


@dataclass(frozen=True)
class Reporter:
    """What a job tells while it is made."""

    say: Callable[[str], None]
    """Takes a line of its log."""
    check: Callable[[], None]
    """Raises `StoppedError` if it is not wanted any more."""


Make = Callable[[Mapping[str, Any], Reporter], Made]
"""Makes a job from a request's inputs, which `checking` has accepted. Its PersonaLiveErrors are told to the client."""
Prepare = Callable[[], Make]
"""Is called in the process, to load the model there. It travels to it, so its class must be importable by name."""


@dataclass(frozen=True)
class ModelPreparation:
    """Loads a model."""

    choice: ModelChoice
    signing: SigningSettings
    threads: int | None = None
    """Of the CPU; None: as PyTorch chooses."""

    def __call__(self) -> Make:
        """The function that makes jobs with the model.

        Raises:
            PersonaLiveError: it cannot be loaded, or results cannot be signed.
        """
        Seat(threads=self.threads).take()
        if self.signing.sign and self.signing.sign_key:
            Signer(self.signing.sign, self.signing.sign_key)  # so that a wrong one is told before the first job
        model = self.choice.for_files().load()

        def make(inputs: Mapping[str, Any], reporter: Reporter) -> Made:
            options = RequestOptions.from_inputs(inputs, Surface.HTTP).replace(**self.signing.given())
            reporter.say(f"seed: {options.seed}")
            with HeldFolder("personalive-results-") as folder:
                result = animate_request(
                    model,
                    inputs["ref_image"],
                    inputs["driving_video"],
                    options,
                    folder.path,
                    reporter.say,
                    check=reporter.check,
                )
                return Made(MEDIA_TYPES[options.output_format], result.read_bytes())

        def make_or_die(inputs: Mapping[str, Any], reporter: Reporter) -> Made:
            try:
                return make(inputs, reporter)
            except Exception:
                if not computes(model.device):
                    os._exit(1)  # it is replaced, and the job made again
                raise

        return make_or_die

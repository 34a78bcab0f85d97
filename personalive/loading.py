"""Which model the entry points (command line, Cog, live) load, and onto what, when their user leaves it open."""

from dataclasses import dataclass
from pathlib import Path

import torch

from personalive.errors import DeviceMemoryError, InputError, first_line
from personalive.pipeline import PersonaLive
from personalive.types import AccelerationName, AttentionName, QuantizeName

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

NO_GPU = (
    "No GPU was found, so the small demo model is used. It knows drawn faces only; "
    "--model personalive uses the published weights, which takes minutes a second of video on a CPU."
)


@dataclass(frozen=True)
class ModelChoice:
    """What a user said about the model; None leaves it to the machine."""

    source: str | None = None
    """"personalive", "demo" or a folder."""
    device: str | None = None
    """"cuda", "cuda:1", "cpu"..."""
    dtype: str | None = None
    """A name in `DTYPES`."""
    attention: AttentionName = "auto"
    accelerate: AccelerationName = "graphs"
    low_memory: bool = False
    quantize: QuantizeName = "none"
    tiny_vae: Path | None = None
    """A tiny decoder in the place of the VAE's: a folder or safetensors file."""

    def resolved_source(self) -> tuple[str, str]:
        """The model to load, and a sentence for the user if that is not the published one for want of a GPU."""
        if self.source is not None:
            return self.source, ""
        if self.resolved_device().type == "cpu":
            return "demo", NO_GPU
        return "personalive", ""

    def resolved_device(self) -> torch.device:
        """The device that was named, else the GPU if there is one.

        Raises:
            InputError: there is no such device.
        """
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

    def resolved_dtype(self) -> torch.dtype | None:
        """The data type that was named.

        Raises:
            InputError: an unknown name.
        """
        if self.dtype is None:
            return None
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: it must be one of {', '.join(DTYPES)}")
        return DTYPES[self.dtype]

    def load(self) -> PersonaLive:
        """Load the model, downloading published weights that are missing.

        Raises:
            InputError: the device, data type, attention or acceleration does not exist here.
            WeightsError: weights are missing, damaged or do not fit.
            DeviceMemoryError: the device has too little memory for them.
        """
        device = self.resolved_device()
        source, _ = self.resolved_source()
        try:
            return PersonaLive.from_pretrained(
                Path(source).expanduser() if source not in ("personalive", "demo") else source,
                device=device,
                dtype=self.resolved_dtype(),
                attention=self.attention,
                accelerate=self.accelerate,
                low_memory=self.low_memory,
                tiny_vae=self.tiny_vae,
                quantize=self.quantize,
            )
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{device} has too little memory for the weights; use --low_memory, --dtype fp16, "
                "or close other programs that use it"
            ) from error

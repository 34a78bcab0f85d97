"""What runs ONNX files: ONNX Runtime, on CPUs and GPUs, or OpenVINO, on CPUs."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from personalive.errors import InputError
from personalive.extras import importing
from personalive.onnx.compiled import compile_kept

SHAPES_AT_ONCE = 8
"""Compiled forms of a file that are kept, one for each shape of its inputs."""

ROUNDED = ("denoising_unet", "vae_decoder")
"""Files that may be computed in bf16: nearly all of the work. What the others read, poses above all, is not rounded."""
CUDA = "CUDAExecutionProvider"

Function = Callable[[Mapping[str, Tensor]], list[Tensor]]
"""Inputs by name → outputs in order, all on the host."""


class Runtime(Protocol):
    """One way to run files."""

    name: str
    """For people."""

    def load(self, path: Path) -> Function:
        """A file as a function."""


class OnnxRuntime:
    """ONNX Runtime."""

    name = "ONNX Runtime"

    def __init__(self, device: torch.device, threads: int) -> None:
        """Choose the device, and the number of threads on a CPU.

        Raises:
            MissingExtraError: it is not installed, or its installation is broken.
            InputError: the installed one cannot use the device.
        """
        with importing("onnx"):
            import onnxruntime

            usable = onnxruntime.get_available_providers()
        self._module: Any = onnxruntime
        self.threads = threads
        self.providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            if CUDA not in usable:
                raise InputError(
                    f"the installed ONNX Runtime cannot use {device}: install onnxruntime-gpu in the place of "
                    "onnxruntime, or give --device cpu"
                )
            self.providers.insert(0, (CUDA, {"device_id": device.index or 0}))

    def load(self, path: Path) -> Function:
        options = self._module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3  # it warns of every constant that it folds
        session = self._module.InferenceSession(str(path), options, providers=self.providers)
        if len(self.providers) > 1 and session.get_providers()[0] != CUDA:  # its libraries are loaded only now
            raise InputError(
                "ONNX Runtime cannot load CUDA's libraries, and would use the CPU: install the CUDA and cuDNN that "
                "onnxruntime-gpu was built for, or give --device cpu"
            )

        def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            found = session.run(None, {name: _array(tensor) for name, tensor in inputs.items()})
            return [torch.from_numpy(array) for array in found]

        return run


class OpenVino:
    """OpenVINO, on the CPU. A file is compiled for each shape that it is used with, which makes it faster."""

    name = "OpenVINO"

    def __init__(self, threads: int, *, rounded: bool = False) -> None:
        """Choose the number of threads.

        Args:
            rounded: compute `ROUNDED` in bf16; for processors that have instructions for it.

        Raises:
            MissingExtraError: it is not installed, or its installation is broken.
        """
        with importing("openvino"):
            import openvino

            self._core: Any = openvino.Core()
            # This loads what computes on a CPU, which may be what is broken.
            self._kind = (openvino.get_version(), self._core.get_property("CPU", "FULL_DEVICE_NAME"))
        self._rounded = rounded
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # other threads of this process, and other processes, need the cores too
        }

    def load(self, path: Path) -> Function:
        rounded = self._rounded and path.stem in ROUNDED
        options = {**self._options, "INFERENCE_PRECISION_HINT": "bf16" if rounded else "f32"}

        @lru_cache(maxsize=SHAPES_AT_ONCE)
        def compiled(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Any:
            model = self._core.read_model(path)
            model.reshape({name: list(shape) for name, shape in shapes})

            def compile_in(folder: Path | None) -> Any:
                kept = {} if folder is None else {"CACHE_DIR": str(folder)}
                return self._core.compile_model(model, "CPU", {**options, **kept}).create_infer_request()

            # The UNet takes it seconds to compile for each number of keyframes.
            return compile_kept(compile_in, path.absolute(), shapes, options, self._kind)

        def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            arrays = {name: _array(tensor) for name, tensor in inputs.items()}
            request = compiled(tuple((name, array.shape) for name, array in arrays.items()))
            found = request.infer(arrays, share_inputs=True)
            return [torch.from_numpy(np.array(found[index])) for index in range(len(found))]

        return run


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()

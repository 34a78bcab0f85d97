"""Writes a model as ONNX files, and checks each: by ONNX's own checker, and by what ONNX Runtime computes with it."""

import contextlib
import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalive import models, weights
from personalive.errors import OutputError, PersonaLiveError, first_line
from personalive.extras import importing
from personalive.media.content_digest import content_digest
from personalive.media.held_folder import HeldFolder
from personalive.models.fingerprint import fingerprint
from personalive.onnx.graphs import Graph, GraphMaker
from personalive.onnx.manifest import FileRecord, Manifest, Port, Precision, digest_of_weights
from personalive.onnx.runtimes import OnnxRuntime
from personalive.weights import WeightsSource

logger = logging.getLogger(__name__)

OPSET = 18
"""TensorRT 8.6, ONNX Runtime 1.14 and OpenVINO 2023 know it, and all later ones."""
MAX_ERROR: dict[Precision, float] = {"fp32": 1e-4, "fp16": 3e-2}
"""The largest relative L2 distance from plain PyTorch's results in fp32 with which a file is still written."""
PREFIX = ".personalive-export-"
"""Of the folder in which files are written until all are right."""
ALIGNMENT = 4096
"""Weights beside a file begin at multiples of this, so that runtimes can map them into memory."""


def check_export(folder: Path) -> None:
    """Refuse what can be refused before weights are read.

    Raises:
        MissingExtraError: the extra [onnx] is not installed.
        OutputError: the folder cannot be made, or holds something.
    """
    _onnx()
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise OutputError(f"{folder} exists already: name another folder, or remove it")
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {folder.absolute().parent} to make {folder.name} in")


def export(
    source: WeightsSource, folder: Path, precision: Precision = "fp32", size: tuple[int, int] | None = None
) -> Iterator[FileRecord]:
    """Write a model's networks; the folder appears when all are written and right.

    Args:
        source: what `weights.resolve` found.
        folder: does not exist yet, or is empty; see `check_export`.
        precision: of weights and computing, except for the motion extractor, which is always in fp32.
        size: the width and height, in pixels, that everything is fixed to; None: they are free.

    Yields:
        Each file once it is written and checked.

    Raises:
        OutputError: something was put into the folder meanwhile, or there is no space.
        PersonaLiveError: a file does not compute what PyTorch does.
    """
    check_export(folder)

    def load(name: str) -> nn.Module:
        with torch.device("meta"):
            network = models.build_network(name, source.config)
        weights.load_into(source, name, network, dtype=torch.float32, device=torch.device("cpu"))
        return network.requires_grad_(False)

    with HeldFolder(PREFIX, str(folder.absolute().parent)) as held:
        records = []
        with torch.no_grad():
            motion = fingerprint([load("motion_encoder"), load("motion_extractor")])
            for graph in GraphMaker(source.config, load, size).graphs():
                logger.info("%s: writing and checking", graph.name)
                with _writing(folder):
                    records.append(write_file(graph, held.path, precision))
                del graph
                yield records[-1]
        manifest = Manifest(source.config, digest_of_weights(source), motion, precision, size, tuple(records))
        with _writing(folder):
            manifest.write(held.path)
            held.path.chmod(0o755)
            held.path.rename(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Name the folder in the system's errors."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise OutputError(f"{folder} cannot be written ({reason}): make room for it, or name another place") from error


def _onnx() -> Any:
    with importing("onnx"):
        import onnx
        import onnx.checker
        import onnx.external_data_helper
        import onnx.shape_inference
    return onnx


def write_file(graph: Graph, folder: Path, precision: Precision) -> FileRecord:
    """Write one file into a folder and check it.

    Raises:
        PersonaLiveError: it is not valid, or does not compute what PyTorch does.
    """
    began = time.monotonic()
    halved = precision == "fp16" and not graph.stays_fp32
    if halved:
        graph.module.half()
    path = folder / f"{graph.name}.onnx"
    first = graph.cases[0].inputs
    # PyTorch is slow in fp16 on most CPUs.
    device = torch.device("cuda" if halved and torch.cuda.is_available() else "cpu")
    with warnings.catch_warnings():
        # They are about the exporter's deprecation, and about shapes that are meant to be fixed.
        warnings.simplefilter("ignore")
        # By tracing: with free sizes, what replaces it (dynamo=True) took far longer (docs/onnx.md).
        torch.onnx.export(
            graph.module.eval().to(device),
            tuple(tensor.to(device) for tensor in _halved(first, halved).values()),
            str(path),  # a Path would hold 2 GiB at most
            input_names=list(first),
            output_names=list(graph.outputs),
            dynamic_axes=dict(graph.free),
            opset_version=OPSET,
            dynamo=False,
        )
    graph.module.cpu()
    _tidy(path, graph)
    inputs, outputs = _ports(path)
    run = OnnxRuntime(torch.device("cpu"), torch.get_num_threads()).load(path)
    distances = [_distances(run(_halved(case.inputs, halved)), case.expected) for case in graph.cases]
    error = float(torch.cat(distances).max())  # of a tensor, as Python's own `max` would lose NaN
    computed: Precision = "fp16" if halved else "fp32"
    if not error <= MAX_ERROR[computed]:  # NaN too
        raise PersonaLiveError(
            f"{path.name} computes something else than PyTorch does: its relative error is {error:.2g}, and at most "
            f"{MAX_ERROR[computed]:g} is expected in {computed}. This is a defect of a version of PyTorch or ONNX "
            "Runtime: use those of requirements-dev.txt"
        )
    files = [path, *folder.glob(f"{path.name}.data")]
    logger.debug("%s: %.1f s", path.name, time.monotonic() - began)
    return FileRecord(
        path.name,
        graph.network,
        graph.keyframes,
        sum(file.stat().st_size for file in files),
        {file.name: content_digest(file) for file in files},
        error,
        inputs,
        outputs,
    )


def _tidy(path: Path, graph: Graph) -> None:
    """Name what is free in a file's outputs, as PyTorch does in inputs only, and keep large weights in one file."""
    onnx = _onnx()
    model = onnx.load(str(path), load_external_data=False)
    for value, tensor in zip(model.graph.output, graph.cases[0].expected, strict=True):
        for axis, (dim, length) in enumerate(zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True)):
            if axis not in graph.free.get(value.name, {}):
                dim.dim_value = length
    scattered = [tensor for tensor in model.graph.initializer if onnx.external_data_helper.uses_external_data(tensor)]
    if scattered:  # PyTorch makes one file each if they take more than 2 GiB
        _gather(scattered, path.with_name(f"{path.name}.data"))
    onnx.save(model, str(path))


def _gather(tensors: Sequence[Any], gathered: Path) -> None:
    """Move weights, each in a file of its own, into one file."""
    onnx = _onnx()
    with gathered.open("wb") as target:
        for tensor in tensors:
            part = gathered.with_name(onnx.external_data_helper.ExternalDataInfo(tensor).location)
            target.seek(-(-target.tell() // ALIGNMENT) * ALIGNMENT)
            begin = target.tell()
            with part.open("rb") as file:
                shutil.copyfileobj(file, target)
            part.unlink()
            del tensor.external_data[:]
            for key, value in (("location", gathered.name), ("offset", begin), ("length", target.tell() - begin)):
                tensor.external_data.add(key=key, value=str(value))


def _halved(inputs: Mapping[str, Tensor], halved: bool) -> dict[str, Tensor]:
    return {name: tensor.half() if halved and tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def _distances(found: list[Tensor], expected: tuple[Tensor, ...]) -> Tensor:
    """The relative L2 distance of each output."""
    pairs = zip(found, expected, strict=True)
    return torch.stack([(one.double() - other.double()).norm() / other.double().norm() for one, other in pairs])


def _ports(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a file, which ONNX's checker has found right.

    Raises:
        PersonaLiveError: it has not.
    """
    onnx = _onnx()
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PersonaLiveError(f"{path.name} is not valid ONNX: {error}") from error
    graph = onnx.load(str(path), load_external_data=False).graph
    inputs, outputs = (
        tuple(
            Port(
                value.name,
                onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
                tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
            )
            for value in values
        )
        for values in (graph.input, graph.output)
    )
    return inputs, outputs

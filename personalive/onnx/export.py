"""Writes a model as ONNX files, and checks each: by ONNX's own checker, and by what ONNX Runtime computes with it."""

import logging
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalive import models, weights
from personalive.errors import InputError, OutputError, PersonaLiveError
from personalive.extras import require
from personalive.media.content_digest import content_digest
from personalive.models.fingerprint import fingerprint
from personalive.onnx.graphs import Graph, GraphMaker
from personalive.onnx.manifest import FileRecord, Manifest, Port, Precision, digest_of_weights
from personalive.onnx.runtimes import OnnxRuntime
from personalive.weights import WeightsSource

logger = logging.getLogger(__name__)

OLDEST_TORCH = (2, 9)
"""From here on, PyTorch exports by its compiler's graphs, which is what free sizes need."""
MAX_ERROR: dict[Precision, float] = {"fp32": 1e-4, "fp16": 3e-2}
"""The largest relative L2 distance from plain PyTorch's results in fp32 with which a file is still written."""
LARGE = 2**30
"""Bytes of weights beyond which they are in a file of their own; an ONNX file itself holds 2 GiB at most."""
FREE_LIMITS = {"h": (4, 16), "w": (4, 16), "frames": (1, 1024)}
"""Lowest and highest values of what is free in a file of free size: heights and widths in steps of 64 pixels. Other
names are of tokens."""
SYMBOL = r"\bs\d+\b"
"""How PyTorch names what is free."""
TOKENS_LIMITS = (2, 2**20)


def check_export(folder: Path) -> None:
    """Refuse what can be refused before weights are read.

    Raises:
        MissingExtraError: the extra [onnx] is not installed.
        InputError: this PyTorch is too old.
        OutputError: the folder cannot be made.
    """
    require("onnx")
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        needed = ".".join(map(str, OLDEST_TORCH))
        raise InputError(f"exporting to ONNX needs PyTorch {needed} or later, this is {torch.__version__}")
    if folder.exists():
        raise OutputError(f"{folder} exists already: name another folder, or remove it")
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {folder.absolute().parent} to make {folder.name} in")


def export(
    source: WeightsSource, folder: Path, precision: Precision = "fp32", size: tuple[int, int] | None = None
) -> Iterator[FileRecord]:
    """Write a model's networks; the folder appears when all are written and right.

    Args:
        source: what `weights.resolve` found.
        folder: does not exist yet; see `check_export`.
        precision: of weights and computing, except for the motion extractor, which is always in fp32.
        size: the width and height, in pixels, that everything is fixed to; None: they are free.

    Yields:
        Each file once it is written and checked.

    Raises:
        PersonaLiveError: a file does not compute what PyTorch does.
    """
    check_export(folder)

    def load(name: str) -> nn.Module:
        with torch.device("meta"):
            network = models.build_network(name, source.config)
        weights.load_into(source, name, network, dtype=torch.float32, device=torch.device("cpu"))
        return network.requires_grad_(False)

    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        records = []
        with torch.no_grad():
            motion = fingerprint([load("motion_encoder"), load("motion_extractor")])
            for graph in GraphMaker(source.config, load, size).graphs():
                records.append(write_file(graph, partial, precision))
                del graph
                yield records[-1]
        manifest = Manifest(source.config, digest_of_weights(source), motion, precision, size, tuple(records))
        manifest.write(partial)
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(graph: Graph, folder: Path, precision: Precision) -> FileRecord:
    """Write one file into a folder and check it.

    Raises:
        PersonaLiveError: it does not compute what PyTorch does.
    """
    began = time.monotonic()
    halved = precision == "fp16" and not graph.stays_fp32
    if halved:
        graph.module.half()
    path = folder / f"{graph.name}.onnx"
    size = sum(parameter.numel() * parameter.element_size() for parameter in graph.module.parameters())
    with _quietly():
        # Traced here: torch.onnx.export itself would try once more, slowly, what cannot be traced.
        example = tuple(_halved(graph.cases[0].inputs, halved).values())
        program = torch.export.export(graph.module.eval(), example, dynamic_shapes=_dynamic_shapes(graph), strict=False)
        torch.onnx.export(
            program,
            f=path,
            input_names=list(graph.cases[0].inputs),
            output_names=list(graph.outputs),
            dynamo=True,
            external_data=size > LARGE,
            verbose=False,
        )
    _name_axes(path, graph)
    inputs, outputs = _ports(path)
    run = OnnxRuntime(torch.device("cpu"), torch.get_num_threads()).load(path)
    error = max(_distance(run(_halved(case.inputs, halved)), case.expected) for case in graph.cases)
    if not error <= MAX_ERROR[precision]:  # NaN too
        raise PersonaLiveError(
            f"{path.name} computes something else than PyTorch does: its relative error is {error:.2g}, and at most "
            f"{MAX_ERROR[precision]:g} is expected in {precision}. This is a defect of a version of PyTorch, "
            "onnxscript or ONNX Runtime: use those of requirements-dev.txt"
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


def _dynamic_shapes(graph: Graph) -> tuple[Any, ...] | None:
    """What PyTorch's exporter takes for a module whose `forward` has any number of inputs."""
    dims: dict[str, Any] = {}

    def dim(name: str, factor: int) -> Any:
        low, high = FREE_LIMITS.get(name, TOKENS_LIMITS)
        dims.setdefault(name, torch.export.Dim(name, min=low, max=high))
        return dims[name] if factor == 1 else factor * dims[name]

    if not any(graph.free.values()):
        return None
    return (
        tuple(
            {axis: dim(*named) for axis, named in graph.free.get(name, {}).items()} for name in graph.cases[0].inputs
        ),
    )


def _name_axes(path: Path, graph: Graph) -> None:
    """Give what is free in a file the names of the graph, in the place of PyTorch's, such as s21."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    names: dict[str, str] = {}
    for value in model.graph.input:
        for axis, (name, _) in graph.free.get(value.name, {}).items():
            symbol = re.search(SYMBOL, value.type.tensor_type.shape.dim[axis].dim_param)
            names |= {symbol.group(): name} if symbol else {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = re.sub(SYMBOL, lambda found: names.get(found.group(), found.group()), dim.dim_param)
    onnx.save(model, str(path))


def _halved(inputs: dict[str, Tensor], halved: bool) -> dict[str, Tensor]:
    return {name: tensor.half() if halved and tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def _distance(found: list[Tensor], expected: tuple[Tensor, ...]) -> float:
    """The largest relative L2 distance of all outputs."""
    return max(
        float((one.double() - other.double()).norm() / other.double().norm())
        for one, other in zip(found, expected, strict=True)
    )


def _ports(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a file, which ONNX's checker has found right.

    Raises:
        PersonaLiveError: it has not.
    """
    import onnx

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


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter tells its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)

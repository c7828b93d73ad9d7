"""A cut network as a file for other programs: ONNX and torch.export, with any batch size.

Both are made from one capture of the cut network in evaluation mode, in float32, on the CPU, at its
own image size. The output of the exporters is suppressed, and the files name no path of the machine
they were written on. What is not installed, or fails, is a ModelError.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn
from torch._export.verifier import SpecViolationError
from torch.export import Dim, ExportedProgram

from ..errors import OF_NETWORKS, ModelError, first_line
from ..features.backends import silence
from .network import STOPPED, CutNetwork

# Raised by the exporters. Those of torch.onnx, Dynamo and symbolic shapes are all RuntimeErrors;
# the others come from the network's own code, which expects numbers and gets symbols.
_FAILURES = (SpecViolationError, *OF_NETWORKS)


def export_onnx(cut: CutNetwork, path: Path) -> None:
    """Write ONNX: `images` (batch, 3, h, w) to `features` or, with a head, `logits` (batch, c).

    The weights are in the same file; above 2 GB, the limit of the format, in a second file.
    """
    _check_installed("onnx", "onnxscript")
    with _exporting(cut, "ONNX"):
        torch.onnx.export(
            _captured(cut),
            f=path,
            input_names=["images"],
            output_names=["logits" if cut.num_classes else "features"],
            dynamic_shapes=({0: "batch"},),  # names the axis that the capture left open
            external_data=False,
            verbose=False,
        )


def export_torch(cut: CutNetwork, path: Path) -> None:
    """Write a file that `torch.export.load(path).module()` runs without the network's source."""
    with _exporting(cut, "torch.export"):
        content = io.BytesIO()  # for a file, torch ends the process if the disk is full
        torch.export.save(_captured(cut), content)
    path.write_bytes(content.getvalue())


def onnx_features(path: Path, images: Float32[np.ndarray, "n 3 h w"]) -> Float32[np.ndarray, "n c"]:
    """The outputs of an ONNX file in onnxruntime on the CPU, with as many threads as torch."""
    _check_installed("onnxruntime")
    with silence():
        import onnxruntime
        from onnxruntime.capi import (
            onnxruntime_pybind11_state as states,  # pyright: ignore[reportAttributeAccessIssue] - compiled
        )

    refusals = (states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf,
                states.NotImplemented, states.RuntimeException)  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return cast(np.ndarray, session.run(None, {"images": images})[0])
    except refusals as error:
        raise ModelError(_not_run(path, error)) from error


def torch_features(
    path: Path, images: Float32[np.ndarray, "n 3 h w"]
) -> Float32[np.ndarray, "n c"]:
    """The outputs of a torch.export file on the CPU; torch unpickles parts of it."""
    try:
        with silence(), torch.no_grad():
            return torch.export.load(path).module()(torch.from_numpy(images)).numpy()
    except (*_FAILURES, OSError, BadZipFile) as error:
        raise ModelError(_not_run(path, error)) from error


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: its name in the folder, the function that writes it, and its outputs."""

    file: str
    write: Callable[[CutNetwork, Path], None]
    features: Callable[[Path, np.ndarray], np.ndarray]
    is_unpickled: bool = False  # so that reading it can run code


EXPORTS = {
    "onnx": Format("model.onnx", export_onnx, onnx_features),
    "torch": Format("model.pt2", export_torch, torch_features, is_unpickled=True),
}


def _captured(cut: CutNetwork) -> ExportedProgram:
    cut = deepcopy(cut).cpu().float().eval()
    if cut.way == STOPPED:
        _disable_tracking(cut.body)
    # Two images, because a batch of one would be captured as a constant.
    images = torch.zeros(2, 3, cut.preprocessing.height, cut.preprocessing.width)
    batches = {0: Dim("batch", min=1)}
    program = torch.export.export(cut, (images,), dynamic_shapes=(batches,), strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths and lines of code of this machine
    return program


def _disable_tracking(body: nn.Module) -> None:
    """Keep torch.export from recording calls of modules, in place.

    It replaces `nn.Module.__call__` by one that pushes each module on a stack and pops it when the
    call returns. The exception that ends a stopped pass would leave modules on the stack. Dynamo
    (strict=True) follows the exception, but is slower and fails on code that checks types as
    jaxtyping does.
    """
    for module in body.modules():
        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), {"__call__": nn.Module.__call__})


@contextmanager
def _exporting(cut: CutNetwork, format_name: str) -> Iterator[None]:
    """Suppress output, and turn failures into one line."""
    try:
        with silence():
            yield
    except _FAILURES as error:
        raise ModelError(
            f"{type(cut.body).__name__} cut after {cut.point.label} could not be written as "
            f"{format_name} ({_reason(error)}). The cut itself was written: use it without "
            "this file, or cut at another layer."
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of the original error; torch.onnx wraps it in general remarks."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return re.split(r"[.!] ", first_line(error))[0]


def _not_run(path: Path, error: Exception) -> str:
    return f"{path.name} cannot be run ({first_line(error)}). Export the cut again."


def _check_installed(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise ModelError(
                f"ONNX needs the package {package}, which is not installed. "
                "Run: pip install 'scalecut[onnx]'."
            )

"""A fitted auditor as a folder: the cut network, the regressions on it, and their errors.

`network` is a cut as `scalecut cut` writes it, `auditor.safetensors` holds the regressions and the
errors that others are compared with, `auditor.json` the views. No pickle, and no name of a patient:
the folder can be shared, and used offline.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from .. import runs
from ..cache import file_sha256
from ..cut.folder import load_cut, save_cut
from ..cut.network import cut_after
from ..errors import ModelError
from ..networks.network import Network, Weights
from ..networks.points import ProbePoint
from .verdict import Fit
from .views import Views

TENSORS, NETWORK = "auditor.safetensors", "network"
NEEDED = ("point.layer", "views.octaves", "views.grid", "blur", "fits", "sha256")


@dataclass(frozen=True, slots=True, eq=False)
class Auditor:
    """The network and where it is cut, how tiles are shown to it, and what is fitted.

    Args:
        network: whole, or a cut one as it was loaded; then the point is its output.
        point: where features are read.
        blur: standard deviation of the point spread of views whose blur is matched, in pixels.
        fits: by blur.
        label: of the layer, as tables name it.
    """

    network: Network
    point: ProbePoint
    views: Views
    blur: float
    fits: Mapping[str, Fit]
    label: str


def save_auditor(auditor: Auditor, folder: str | Path, *, command: str = "") -> Path:
    """Write the folder, complete or absent.

    Raises:
        OutputError: if `folder` exists and is no auditor, or cannot be written.
    """
    folder = Path(folder)
    with runs.new_run(folder, "auditor") as made:
        cut = cut_after(auditor.network, auditor.point)
        save_cut(cut, made / NETWORK, auditor.network, command=command)
        tensors: dict[str, np.ndarray] = {}
        numbers: dict[str, dict[str, object]] = {}
        for number, (name, fit) in enumerate(auditor.fits.items()):
            groups = np.unique(fit.groups, return_inverse=True)[1].astype(np.int64)
            arrays = {"weights": fit.weights, "mean": fit.mean, "deviation": fit.deviation}
            arrays |= {"errors": fit.errors, "groups": groups}
            tensors |= {f"{number}.{key}": np.ascontiguousarray(a) for key, a in arrays.items()}
            numbers[name] = {"intercept": fit.intercept, "range": fit.range_}
        (made / TENSORS).write_bytes(safetensors.numpy.save(tensors))
        facts = runs.stamp("auditor", command) | {
            "point": auditor.point,
            "label": auditor.label,
            "views": asdict(auditor.views),
            "blur": auditor.blur,
            "fits": numbers,
            "sha256": file_sha256(made / TENSORS),
        }
        runs.write_json(made / runs.MARKS["auditor"], facts)
    return folder


def load_auditor(folder: str | Path, network: str | None = None) -> Auditor:
    """The auditor in a folder, or in the run folder of an audit.

    Args:
        network: its `module.path:factory`, if it was fitted to a network of your own.

    Raises:
        DataError: if it holds none, or one of a newer version.
        ModelError: if a file was changed.
    """
    folder = Path(folder)
    inside = folder / "auditor"
    folder = inside if inside.is_dir() else folder
    facts = runs.read_run(folder, "auditor", NEEDED).facts
    file = folder / TENSORS
    if not file.is_file() or file_sha256(file) != facts["sha256"]:
        raise ModelError(
            f"{TENSORS} of {str(folder)!r} is missing or was changed after it was written, so it "
            "is not used. Copy the folder again, or audit again."
        )
    tensors = safetensors.numpy.load(file.read_bytes())
    fits = {}
    for number, (name, given) in enumerate(facts["fits"].items()):
        arrays = {key: tensors[f"{number}.{key}"] for key in ("weights", "mean", "deviation")}
        groups = tuple(f"reference {each}" for each in tensors[f"{number}.groups"].tolist())
        errors, range_ = tensors[f"{number}.errors"], tuple(given["range"])
        more = {"intercept": given["intercept"], "errors": errors, "groups": groups}
        fits[name] = Fit(**arrays, **more, range_=range_)
    cut = load_cut(folder / NETWORK, network)
    weights = Weights("pretrained", str(folder))
    loaded = Network("the auditor's network", cut, cut.preprocessing, weights)
    point = ProbePoint("features", "", 1.0, "", "output", channels=cut.num_features)
    views = Views(tuple(facts["views"]["octaves"]), facts["views"]["grid"])
    return Auditor(loaded, point, views, facts["blur"], fits, facts["label"])

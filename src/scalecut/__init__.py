"""Find the layer at which a vision model forgets how big things are, cut it there, and use it.

Names are imported when they are first used (PEP 562), so that `import scalecut` loads neither torch
nor timm.
"""

import importlib
from importlib import metadata
from typing import Any

# fmt: off
_NAMES = {
    "errors": ("DataError", "LayerError", "ModelError", "OutputError", "ScalecutError"),
    "data.images": ("Image", "ImageSet", "make_image_set"),
    "data.measures": ("Frame",),
    "data.read": ("Reading", "read_images"),
    "data.scenes": ("make_scenes",),
    "networks.load": ("load_network",),
    "networks.network": ("Network", "Preprocessing"),
    "networks.layers": ("ProbePoint",),
    "networks.selection": ("list_layers",),
    "features.extract": ("Computation", "extract_features"),
    "report.report": ("write_report",),
    "probing.probe": ("Fitting", "probe"),
    "probing.curve": ("Curve", "Evidence", "compare_curves"),
    "probing.choose": ("choose_layer",),
    "cut.network": ("CutNetwork", "cut_after"),
    "cut.folder": ("load_cut", "save_cut"),
    "cut.sklearn": ("CutFeatures", "create_transform"),
    "analyses.invariance": ("Invariance", "invariance"),
    "analyses.noise": ("Noise", "probe_noise"),
    "analyses.synthetic": ("Scenes", "probe_scenes"),
    "analyses.rcv": ("Directions", "rcv"),
    "analyses.visualise": ("Pictures", "visualise"),
    "pathology.patches": ("read_patches",),
    "pathology.transfer": ("Transfer", "transfer"),
    "runs": ("open_run",),
}
# fmt: on
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOME)
__version__ = metadata.version("scalecut")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

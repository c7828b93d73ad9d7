"""Find the layer at which a vision model forgets how big things are, cut it there, and use it.

Names are imported when they are first used (PEP 562), so that `import scalecut` loads neither torch
nor timm.
"""

import importlib
from typing import Any

# fmt: off
_NAMES = {
    "errors": ("DataError", "LayerError", "ModelError", "OutputError", "ScalecutError"),
    "data.images": ("Image", "ImageSet", "LeftOut", "Target", "make_image_set"),
    "data.decoding": ("Rendering",),
    "data.measures": ("Frame",),
    "data.options": ("Reading",),
    "data.read": ("read_images",),
    "data.summary": ("DataSummary", "describe_data"),
    "data.scenes": ("make_scenes",),
    "data.storage": ("Stored",),
    "networks.load": ("load_network",),
    "networks.network": ("Network", "Preprocessing", "Weights"),
    "networks.points": ("ProbePoint",),
    "networks.selection": ("list_layers",),
    "features.extract": (
        "Computation",
        "DecodedImages",
        "Extracted",
        "Task",
        "Variant",
        "extract_features",
    ),
    "features.backends": ("Backend", "Calibration"),
    "report.report": ("write_report",),
    "probing.probe": ("Fitting", "probe"),
    "probing.curve": ("Curve", "Evidence", "compare_curves"),
    "probing.comparison": ("Comparison", "compare_runs"),
    "probing.choose": ("Choice", "choose_layer"),
    "cut.network": ("CutNetwork", "cut_after"),
    "cut.folder": ("SavedCut", "check_cut", "load_cut", "save_cut"),
    "cut.verify": ("Costs", "Verification", "verify_cut"),
    "cut.sklearn": ("CutFeatures", "create_transform"),
    "analyses.invariance": ("Invariance", "Variation", "invariance"),
    "analyses.noise": ("Noise", "probe_noise"),
    "analyses.synthetic": ("Design", "Scenes", "probe_scenes"),
    "analyses.rcv": ("Directions", "Estimation", "rcv"),
    "analyses.atlas": ("Atlas", "Mapped", "atlas"),
    "analyses.visualise": ("Optimisation", "Visualisations", "visualise"),
    "pathology.patches": ("Blur", "Cutting", "Patches", "read_patches", "save_patches"),
    "pathology.audit": ("Audit", "Judging", "Trusted", "audit"),
    "pathology.verdict": ("Fit",),
    "pathology.saved_auditor": ("Auditor", "load_auditor", "save_auditor"),
    "pathology.claims": ("Claims",),
    "pathology.views": ("Views",),
    "pathology.passport": ("Examined", "Passport", "passport"),
    "pathology.encoders": ("Encoders", "compare_passports"),
    "pathology.transfer": ("CutPoint", "Transfer", "transfer"),
    "pathology.methods": ("Predicted", "Trial"),
    "pathology.finetune": ("Training",),
    "pathology.comparison": ("Held",),
    "report.results": ("open_run",),
    "runs": ("Run",),
}
# fmt: on
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # `--help` does without it
        metadata = importlib.import_module("importlib.metadata")
        found = metadata.version("scalecut")
    elif name in _HOME:
        found = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

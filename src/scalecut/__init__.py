"""Find the layer at which a vision model forgets how big things are."""

from .analyses.invariance import Invariance, invariance
from .analyses.noise import noise_curve
from .analyses.rcv import Directions, rcv
from .analyses.synthetic import Instrument, instrument
from .cut.folder import load
from .cut.network import CutNetwork, cut_after
from .cut.sklearn import Features, transform
from .data.annotations import read_images
from .data.images import Image, ImageSet, image_set
from .data.measures import Frame
from .data.scenes import made_up_scenes
from .errors import DataError, LayerError, ModelError, OutputError, ScalecutError
from .features.extract import extract
from .networks.hooks import pooled_outputs
from .networks.layers import ProbePoint, probe_points, select_layers
from .networks.network import Network, Preprocessing, load_network, random_twin
from .pathology.patches import read_patches
from .pathology.transfer import Transfer, transfer
from .probing.choose import choose
from .probing.curve import Curve, Evidence, compare
from .probing.probe import probe
from .stats.ridge import RidgePath, r_squared, ridge_path

__all__ = [
    "Curve",
    "CutNetwork",
    "DataError",
    "Directions",
    "Evidence",
    "Features",
    "Frame",
    "Image",
    "ImageSet",
    "Instrument",
    "Invariance",
    "LayerError",
    "ModelError",
    "Network",
    "OutputError",
    "Preprocessing",
    "ProbePoint",
    "RidgePath",
    "ScalecutError",
    "Transfer",
    "choose",
    "compare",
    "cut_after",
    "extract",
    "image_set",
    "instrument",
    "invariance",
    "load",
    "load_network",
    "made_up_scenes",
    "noise_curve",
    "pooled_outputs",
    "probe",
    "probe_points",
    "r_squared",
    "random_twin",
    "rcv",
    "read_images",
    "read_patches",
    "ridge_path",
    "select_layers",
    "transfer",
    "transform",
]

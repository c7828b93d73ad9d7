"""Find the layer at which a vision model forgets how big things are."""

from .annotations import read_images
from .curve import Curve, Evidence, compare
from .directions import Directions, rcv
from .errors import DataError, LayerError, ModelError, OutputError, ScalecutError
from .features import Features, extract, pooled_outputs
from .images import Image, ImageSet, image_set
from .instrument import Instrument, instrument
from .invariance import Invariance, invariance
from .layers import ProbePoint, probe_points, select_layers
from .measures import Frame
from .models import Network, Preprocessing, load_network, random_twin
from .noise import noise_curve
from .probe import probe
from .regression import RidgePath, r_squared, ridge_path
from .scenes import made_up_scenes

__all__ = [
    "Curve",
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
    "compare",
    "extract",
    "image_set",
    "instrument",
    "invariance",
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
    "ridge_path",
    "select_layers",
]

"""Find the layer at which a vision model forgets how big things are."""

from .annotations import read_images
from .bundle import load
from .choice import choose
from .curve import Curve, Evidence, compare
from .cut import CutNetwork, cut_after
from .directions import Directions, rcv
from .errors import DataError, LayerError, ModelError, OutputError, ScalecutError
from .features import extract
from .images import Image, ImageSet, image_set
from .instrument import Instrument, instrument
from .invariance import Invariance, invariance
from .layers import ProbePoint, probe_points, select_layers
from .measures import Frame
from .models import Network, Preprocessing, load_network, random_twin
from .noise import noise_curve
from .probe import probe
from .regression import RidgePath, r_squared, ridge_path
from .runs import read_patches
from .scenes import made_up_scenes
from .taps import pooled_outputs
from .transfer import Transfer, transfer
from .transformer import Features, transform

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

"""Find the layer at which a vision model forgets how big things are."""

from .annotations import read_images
from .curve import Curve
from .errors import DataError, LayerError, ModelError, OutputError, ScalecutError
from .features import Features, extract, pooled_outputs
from .images import Image, ImageSet, image_set
from .layers import ProbePoint, probe_points, select_layers
from .measures import Frame
from .models import Network, Preprocessing, load_network, random_twin
from .probe import probe
from .regression import RidgePath, r_squared, ridge_path
from .scenes import made_up_scenes

__all__ = [
    "Curve",
    "DataError",
    "Features",
    "Frame",
    "Image",
    "ImageSet",
    "LayerError",
    "ModelError",
    "Network",
    "OutputError",
    "Preprocessing",
    "ProbePoint",
    "RidgePath",
    "ScalecutError",
    "extract",
    "image_set",
    "load_network",
    "made_up_scenes",
    "pooled_outputs",
    "probe",
    "probe_points",
    "r_squared",
    "random_twin",
    "read_images",
    "ridge_path",
    "select_layers",
]

"""A cut network at work: for scikit-learn, for training loops, and as a table of features."""

import copy
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Float32
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor
from torchvision import transforms

from ..data.decoding import fitted
from ..data.images import Image, LeftOut, image_of
from ..errors import DataError
from ..features.extract import Computation, Progress, extract_features
from ..networks.network import Network, Preprocessing, Weights
from ..networks.points import ProbePoint
from .folder import load
from .network import CutNetwork

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Features(TransformerMixin, BaseEstimator):
    """Pictures to the features of a cut network: a transformer of scikit-learn.

    It has nothing to fit. Features are cached by the content of the pictures.

    Args:
        network: a folder that `scalecut cut` wrote, or a `CutNetwork`; its head is not used.
        fit_to: how pictures come to the input size: `squash`, `crop` or `pad`.
        precision: `float32`, `bfloat16` or `auto`.
        device: `auto`, `cpu` or as torch names it.
        batch_size: pictures a forward pass.
    """

    def __init__(
        self,
        network: str | Path | CutNetwork,
        fit_to: str = "squash",
        precision: str = "float32",
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        self.network = network
        self.fit_to = fit_to
        self.precision = precision
        self.device = device
        self.batch_size = batch_size

    def fit(self, pictures: object = None, y: object = None) -> "Features":
        """Nothing is learnt."""
        return self

    def transform(self, pictures: Iterable[Any]) -> Float32[np.ndarray, "n c"]:
        """Features, one row a picture.

        Args:
            pictures: paths, PIL images, or arrays of uint8 (h, w, 3) or (h, w).

        Raises:
            DataError: if one of them cannot be read.
        """
        images = [image_of(place, each) for place, each in enumerate(pictures)]
        matrix, left_out = self.of_images(images)
        if left_out:
            raise DataError(
                f"{len(left_out)} of {len(images)} pictures cannot be read, the first is "
                f"{left_out[0].name} ({left_out[0].reason}). Leave them out."
            )
        return matrix

    def of_images(
        self, images: list[Image], progress: Progress | None = None
    ) -> tuple[Float32[np.ndarray, "m c"], tuple[LeftOut, ...]]:
        """Features of the images that can be read, and those that cannot."""
        look = Computation(self.fit_to, self.precision, self.device, self.batch_size)
        cut = self._cut()
        network = Network("cut", cut, cut.preprocessing, Weights("pretrained", "a cut network"))
        point = ProbePoint("features", "", 1.0, "", "output", channels=cut.num_features)
        found = extract_features(network, images, [point], **asdict(look), progress=progress)
        return found.matrices["features"], found.left_out

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """`f0`, `f1`, ...: a name a column."""
        return np.array([f"f{column}" for column in range(self._cut().num_features)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _cut(self) -> CutNetwork:
        """The network without its head."""
        given = self.network
        cut = copy.deepcopy(given) if isinstance(given, CutNetwork) else load(given)
        cut.reset_classifier(0)
        return cut.eval()


def features_table(
    network: Features, images: list[Image], progress: Progress | None = None
) -> tuple[pd.DataFrame, tuple[LeftOut, ...]]:
    """One row an image: its name as `image`, its features as `f0`, `f1`, ...

    Returns:
        The table, and the images that cannot be read.
    """
    matrix, left_out = network.of_images(images, progress)
    unread = {item.name for item in left_out}
    names = [image.name for image in images if image.name not in unread]
    table = pd.DataFrame(matrix, columns=[f"f{column}" for column in range(matrix.shape[1])])
    table.insert(0, "image", names)
    return table, left_out


def pictures_in(places: list[Path]) -> list[Image]:
    """The pictures among files and, by their names, in folders and the folders inside them.

    Raises:
        DataError: if a place is not there or holds none.
    """
    images: list[Image] = []
    for place in places:
        found = [place] if place.is_file() else sorted(place.rglob("*"))
        found = [path for path in found if path.suffix.lower() in PICTURES or path == place]
        if not place.exists() or not [path for path in found if path.is_file()]:
            raise DataError(
                f"There is no picture at {str(place)!r}. Give files, or a folder with "
                f"{', '.join(PICTURES)} in it."
            )
        images += [Image(str(path), path) for path in found if path.is_file()]
    return images


def transform(network: str | Path | CutNetwork, is_training: bool = False) -> transforms.Compose:
    """PIL images to what a cut network takes, (3, h, w): for datasets and training loops.

    In training pictures are flipped and their colours changed, but not cropped or scaled, as by
    timm's default: the sizes of objects are what the network was kept for.
    """
    cut = network if isinstance(network, CutNetwork) else load(network)
    changes = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomVerticalFlip(),
        transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ]
    return transforms.Compose(
        [_Squash(cut.preprocessing), *(changes if is_training else []), _Tensor(cut.preprocessing)]
    )


class _Squash:
    """The whole picture, upright and in RGB, at the input size."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        upright = image_of(0, picture).decode()
        own = self.preprocessing
        return PIL.Image.fromarray(
            fitted(upright, own.frame("squash"), own.interpolation, own.fill())
        )

    def __repr__(self) -> str:
        return f"Squash({self.preprocessing.height} x {self.preprocessing.width})"


class _Tensor:
    """A picture as a tensor, normalised."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, picture: PIL.Image.Image) -> Tensor:
        return self.preprocessing.tensor(np.array(picture)[None])[0]

    def __repr__(self) -> str:
        return f"Tensor(mean={self.preprocessing.mean}, std={self.preprocessing.std})"

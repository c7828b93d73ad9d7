"""Features of a cut network: for scikit-learn, as a table, and its transform for training loops."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Float32
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from torch import Tensor
from torchvision import transforms

from ..data.decoding import COMMON, fitted, without_options
from ..data.files import Files
from ..data.images import Image, LeftOut, Progress, image_of
from ..errors import DataError
from ..features.extract import Computation, extract_features
from ..networks.network import Network, Preprocessing, Weights
from ..networks.points import ProbePoint
from .folder import load_cut
from .network import CutNetwork

Fit: TypeAlias = Literal["squash", "crop", "pad"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]


class CutFeatures(TransformerMixin, BaseEstimator):
    """Images to the features of a cut network: a stateless transformer of scikit-learn.

    Features are cached by the content of the images.

    Args:
        network: a folder that `scalecut cut` wrote, or a `CutNetwork`, whose head is ignored.
        fit_to: how images are brought to the input size: `squash`, `crop` or `pad`.
        precision: `float32`, `bfloat16` or `auto`.
        device: `auto`, `cpu`, or a device of torch.
        batch_size: images per forward pass, at least 1.
    """

    def __init__(
        self,
        network: str | Path | CutNetwork,
        fit_to: Fit = "squash",
        precision: Precision = "float32",
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        self.network = network
        self.fit_to: Fit = fit_to
        self.precision: Precision = precision
        self.device = device
        self.batch_size = batch_size

    def fit(self, X: object = None, y: object = None) -> "CutFeatures":
        """Do nothing, because there is nothing to fit."""
        return self

    def transform(self, X: Iterable[Any]) -> Float32[np.ndarray, "n c"]:
        """Features, one row per image.

        Args:
            X: paths, PIL images, or arrays of uint8 (h, w, 3) or (h, w).

        Raises:
            DataError: if an image cannot be read.
        """
        images = [image_of(place, each) for place, each in enumerate(X)]
        matrix, left_out = self.of_images(images)
        if left_out:
            raise DataError(
                f"{len(left_out)} of {len(images)} images cannot be read, the first is "
                f"{left_out[0].name} ({left_out[0].reason}). Fix or remove them."
            )
        return matrix

    def of_images(
        self, images: list[Image], progress: Progress | None = None
    ) -> tuple[Float32[np.ndarray, "m c"], tuple[LeftOut, ...]]:
        """The features of the images that can be read, and the images that were skipped."""
        computation = Computation(
            fit=self.fit_to,  # pyright: ignore[reportArgumentType] - checked there
            precision=self.precision,  # pyright: ignore[reportArgumentType] - checked there
            device=self.device,
            batch_size=self.batch_size,
        )
        cut = self._cut()
        network = Network("cut", cut, cut.preprocessing, Weights("pretrained", "a cut network"))
        point = ProbePoint("features", "", 1.0, "", "output", channels=cut.num_features)
        try:
            found = extract_features(network, images, [point], computation, progress=progress)
        except DataError as error:
            raise DataError(without_options(str(error))) from error
        left_out = [(each.name, without_options(each.reason)) for each in found.left_out]
        return found.matrices["features"], tuple(LeftOut(*each) for each in left_out)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """The names of the columns: `f0`, `f1`, ..."""
        return np.array([f"f{column}" for column in range(self._cut().num_features)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True  # of columns: what an image must be is checked by `transform`
        tags.transformer_tags.preserves_dtype = []  # features are float32
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def _cut(self) -> CutNetwork:
        """The network without its head."""
        given = self.network
        cut = copy.deepcopy(given) if isinstance(given, CutNetwork) else load_cut(given)
        cut.reset_classifier(0)
        return cut.eval()


def features_table(
    network: CutFeatures, images: list[Image], progress: Progress | None = None
) -> tuple[pd.DataFrame, tuple[LeftOut, ...]]:
    """The features as a table, one row per image.

    Returns:
        The table with the columns `image` (its name), `f0`, `f1`, ..., and the images skipped.
    """
    matrix, left_out = network.of_images(images, progress)
    unread = {item.name for item in left_out}
    names = [image.name for image in images if image.name not in unread]
    table = pd.DataFrame(matrix, columns=[f"f{column}" for column in range(matrix.shape[1])])
    table.insert(0, "image", names)
    return table, left_out


def images_in(places: list[Path]) -> list[Image]:
    """The given image files, and all images in the given folders and their subfolders.

    Links to folders are followed; hidden files and folders are skipped.

    Raises:
        DataError: if a place does not exist or holds no image.
    """
    images: list[Image] = []
    for place in places:
        files = Files(place, {*COMMON}) if place.is_dir() else None
        # links to files that are not there are skipped later, with the reason
        found = sorted([*files.paths, *files.broken]) if files else [place]
        if not place.exists() or not found:
            raise DataError(
                f"There is no image at {str(place)!r}. Give image files, or a folder with files "
                f"named {', '.join(COMMON)}."
            )
        images += [Image(str(path), path) for path in found]
    return images


def create_transform(
    network: str | Path | CutNetwork, is_training: bool = False
) -> transforms.Compose:
    """A transform from PIL images to the input of a cut network, (3, h, w).

    For training, images are flipped and their colours are changed. Unlike with timm's default, they
    are not cropped or scaled, because the network is used for the sizes of objects.

    Args:
        network: a folder that `scalecut cut` wrote, or a `CutNetwork`.
        is_training: whether to augment.
    """
    cut = network if isinstance(network, CutNetwork) else load_cut(network)
    flips = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    colours = transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)
    changes = [*flips, colours] if is_training else []
    return transforms.Compose([_Squash(cut.preprocessing), *changes, _Tensor(cut.preprocessing)])


@dataclass(frozen=True, repr=False)
class _Squash:
    """Resizes the whole image, upright and in RGB, to the input size."""

    preprocessing: Preprocessing

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        upright, own = image_of(0, image).decode(), self.preprocessing
        pixels = fitted(upright, own.frame("squash"), own.interpolation, own.fill())
        return PIL.Image.fromarray(pixels)

    def __repr__(self) -> str:
        return f"Squash({self.preprocessing.height} x {self.preprocessing.width})"


@dataclass(frozen=True, repr=False)
class _Tensor:
    """Normalises an image and converts it to a tensor."""

    preprocessing: Preprocessing

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        return self.preprocessing.tensor(np.array(image)[None])[0]

    def __repr__(self) -> str:
        return f"Tensor(mean={self.preprocessing.mean}, std={self.preprocessing.std})"

"""What an image shows besides the size of its object, in numbers: the concepts of an atlas.

Concepts of the pixels are computed on the image as the network sees it; JPEG blocking on the stored
image, before it is resized. Those of the object are computed from its box.

Shapes: n images, k concepts, h x w pixels.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from jaxtyping import Float64, UInt8
from scipy import ndimage
from skimage.color import rgb2gray, rgb2hsv
from skimage.feature import canny

from .decoding import fitted
from .images import ImageSet, Progress
from .measures import OF_BOX, Box, Frame, in_shares, share_of

LUMINANCE_STEP = 1 / 255  # of 8-bit images; keeps logarithms finite where nothing varies
BLOCK = 8  # side of the blocks of JPEG, in pixels
EDGE_SMOOTHING = 2.0  # standard deviation of the Gaussian of `canny`, in pixels
SPECTRUM = (0.02, 0.4)  # cycles per pixel, between which the slope is fitted
NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float64)

Grey = Float64[np.ndarray, "h w"]  # luminance, 0 to 1
Colours = UInt8[np.ndarray, "h w 3"]


def sharpness(grey: Grey) -> float:
    """log2 of the variance of the Laplacian."""
    return math.log2(ndimage.laplace(grey).var() + LUMINANCE_STEP**2)


def noise(grey: Grey) -> float:
    """log2 of the standard deviation of the noise, as estimated by `immerkaer1996`."""
    inner = ndimage.convolve(grey, NOISE_MASK)[1:-1, 1:-1]
    return math.log2(math.sqrt(math.pi / 2) / 6 * float(np.abs(inner).mean()) + LUMINANCE_STEP)


def edge_density(grey: Grey) -> float:
    """The share of pixels on edges (`canny1986`)."""
    return float(canny(grey, sigma=EDGE_SMOOTHING).mean())


def spectrum_slope(grey: Grey) -> float:
    """The slope of log amplitude over log frequency; about -1 for photographs (`field1987`)."""
    h, w = grey.shape
    window = np.hanning(h)[:, None] * np.hanning(w)
    amplitude = np.abs(np.fft.rfft2((grey - grey.mean()) * window))
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    low, high = SPECTRUM
    edges = np.geomspace(max(low, 2 / min(h, w)), high, 13)
    ring = np.digitize(frequency, edges)
    inside = [(ring == number) for number in range(1, len(edges))]
    means = [(frequency[each].mean(), amplitude[each].mean()) for each in inside if each.any()]
    x, y = np.log(np.maximum(np.array(means), np.finfo(np.float64).tiny)).T
    return float(np.polyfit(x, y, 1)[0])


def colourfulness(colours: Colours) -> float:
    """Spread and distance from grey of the opponent colours, 0 to about 110 (`hasler2003`)."""
    red, green, blue = colours.astype(np.float64).transpose(2, 0, 1)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    deviation, mean = opponents.std(axis=(1, 2)), opponents.mean(axis=(1, 2))
    return float(np.hypot(*deviation) + 0.3 * np.hypot(*mean))


def blocking(colours: Colours) -> float:
    """log2 of the mean step across the borders of JPEG blocks over that between other pixels."""
    grey = 255 * rgb2gray(colours)
    sums = np.zeros((2, 2))  # at borders and elsewhere: steps, pixels
    for steps in (np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1)).T):
        is_border = (np.arange(len(steps)) + 1) % BLOCK == 0
        for at, rows in enumerate((steps[is_border], steps[~is_border])):
            sums[at] += rows.sum(), rows.size
    (border, n_border), (other, n_other) = sums
    if not n_border:
        return 0.0
    return math.log2((border / n_border + 0.5) / (other / max(n_other, 1) + 0.5))


def of_pixels(shown: Colours, stored: UInt8[np.ndarray, "height width 3"]) -> dict[str, float]:
    """The concepts of one image.

    Args:
        shown: as the network sees it.
        stored: at its own size.
    """
    grey = rgb2gray(shown)
    hue, saturation, _ = rgb2hsv(shown).transpose(2, 0, 1)
    weight = saturation / max(saturation.sum(), 1e-9)
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "hue-cos": float((weight * np.cos(2 * np.pi * hue)).sum()),  # red 1, cyan -1
        "hue-sin": float((weight * np.sin(2 * np.pi * hue)).sum()),  # yellow-green 1, violet -1
        "saturation": float(saturation.mean()),
        "colourfulness": colourfulness(shown),
        "sharpness": sharpness(grey),
        "noise": noise(grey),
        "edge-density": edge_density(grey),
        "spectrum-slope": spectrum_slope(grey),
        "jpeg-blocking": blocking(stored),
    }


KNOWN = (
    *("area", "height", *OF_BOX, "objects", "brightness", "contrast", "hue-cos", "hue-sin"),
    *("saturation", "colourfulness", "sharpness", "noise", "edge-density", "spectrum-slope"),
    "jpeg-blocking",
)


def of_box(box: Box, window: Box) -> dict[str, float]:
    """Size, shape and place of an object.

    Args:
        box, window: in pixels of the upright image; what is shown of it.
    """
    area, tall = share_of(box, window)
    seen = in_shares(box, window)
    return {"area": area, "height": tall} | {name: of(seen) for name, of in OF_BOX.items()}


def concepts_of(
    image_set: ImageSet,
    frame: Frame,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = (124, 116, 104),
    columns: Mapping[str, Float64[np.ndarray, " n"]] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every concept of every image, the measure first; one row per image, one column per concept.

    Concepts of the object are nan where its box, or what is marked, is not known.

    Args:
        frame, interpolation, fill: how images are shown to the network.
        columns: more concepts, of a table; one of the name of a concept of the pixels replaces it.
        progress: called with ("concepts", images done, all images).

    Raises:
        DataError: if an image cannot be read.
    """
    counts = [len(marks) if isinstance(marks, tuple) else 0 for marks in image_set.marks]

    def of(number: int) -> dict[str, float]:
        image = image_set.images[number]
        decoded = image.decode()
        shown = fitted(image.decode(frame), frame, interpolation, fill)
        found = of_pixels(shown, np.array(decoded))
        box = image_set.box(number)
        if box is not None:
            found |= of_box(box, frame.window(*decoded.size))
        if counts and counts[number]:
            found["objects"] = float(counts[number])
        return found

    rows = []
    with ThreadPoolExecutor() as workers:
        for row in workers.map(of, range(len(image_set))):
            rows.append(row)
            if progress:
                progress("concepts", len(rows), len(image_set))
    table = pd.DataFrame(rows)
    of_object = [name for name in ("area", "height", *OF_BOX, "objects") if name in table]
    others = [name for name in table if name not in of_object]
    names = [name for name in (*of_object, *others) if name != image_set.measure_name]
    first = {image_set.measure_name: image_set.measure, **(columns or {})}
    return pd.DataFrame(first | {name: table[name] for name in names if name not in first})

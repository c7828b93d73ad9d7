"""Synthetic scenes: an object of known scale, cut out of a photograph, on an unrelated backdrop.

A `Scene` describes an image completely and `render` only turns it into pixels, so one property
(share, place, backdrop, ...) is changed by `dataclasses.replace` and the others stay.

The measure is the area of the object's tight box divided by that of the canvas, in the whole pixels
that are drawn. The backdrop fills the canvas; backdrop and light are independent of the measure.

Limits: a small object is sharper, pixel by pixel, than a large one, as in photographs; on a canvas
above about 320 px large objects are enlarged and therefore blurred. Objects that fill nearly all of
the canvas vary little in place and proportions.

All photographs are part of scikit-image; nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float64, UInt8
from PIL import ImageDraw, ImageFilter

from ..errors import DataError, check_names, several
from .images import Image, ImageSet
from .measures import Box

Points = tuple[tuple[int, int], ...]

# Outlines traced by eye, x and y in pixels of the photograph.
ASTRONAUT: Points = (
    *((230, 15), (250, 19), (270, 26), (285, 37), (295, 55), (300, 75), (301, 90), (296, 107)),
    *((288, 120), (276, 131), (273, 136), (267, 137), (261, 148), (257, 156), (254, 172)),
    *((268, 184), (285, 200), (295, 214), (303, 228), (304, 238), (315, 242), (330, 252)),
    *((343, 267), (351, 284), (355, 300), (358, 322), (362, 333), (365, 349), (375, 347)),
    *((395, 344), (415, 344), (435, 350), (456, 361), (472, 377), (486, 395), (492, 415)),
    *((496, 440), (498, 455), (503, 460), (507, 475), (508, 512), (42, 512), (37, 501), (30, 485)),
    *((25, 462), (22, 428), (20, 397), (22, 380), (25, 350), (28, 339), (34, 309), (41, 290)),
    *((46, 274), (58, 255), (68, 243), (82, 230), (101, 215), (115, 205), (113, 195), (115, 188)),
    *((121, 184), (124, 176), (131, 166), (143, 156), (155, 150), (170, 148), (185, 150)),
    *((183, 140), (180, 131), (176, 128), (172, 118), (163, 107), (156, 95), (153, 80), (155, 65)),
    *((164, 53), (175, 42), (188, 35), (195, 25), (210, 18)),
)
CAT: Points = (
    *((36, 60), (38, 35), (48, 18), (62, 7), (85, 2), (120, 0), (397, 0), (392, 15), (378, 40)),
    *((365, 62), (357, 74), (358, 90), (362, 110), (361, 135), (358, 155), (350, 172), (335, 190)),
    *((322, 205), (316, 225), (312, 245), (303, 264), (285, 280), (265, 288), (240, 288)),
    *((215, 276), (195, 269), (165, 262), (140, 250), (115, 232), (95, 212), (75, 190), (58, 172)),
    *((48, 155), (42, 135), (38, 120), (34, 95)),
)
COFFEE: Points = (
    *((180, 72), (192, 55), (210, 38), (235, 25), (262, 19), (285, 18), (310, 20), (335, 26)),
    *((358, 36), (380, 52), (396, 72), (404, 68), (412, 67), (421, 71), (424, 80), (420, 95)),
    *((416, 105), (428, 116), (445, 131), (458, 150), (470, 180), (477, 205), (479, 230)),
    *((475, 258), (465, 285), (448, 312), (425, 338), (400, 358), (370, 373), (330, 384)),
    *((290, 388), (255, 388), (220, 382), (190, 372), (160, 355), (130, 330), (105, 300)),
    *((90, 270), (80, 235), (77, 205), (79, 180), (88, 150), (100, 128), (120, 105), (145, 85)),
    *((165, 76),),
)
# Loose: the edge itself comes from the disparities, this keeps out what else stands near.
MOTORCYCLE: Points = (
    *((80, 185), (130, 190), (136, 150), (148, 140), (165, 145), (170, 158), (250, 165)),
    *((300, 185), (350, 178), (352, 165), (325, 140), (325, 125), (370, 105), (395, 112)),
    *((440, 130), (460, 140), (464, 132), (480, 118), (495, 113), (503, 104), (513, 97)),
    *((535, 97), (541, 112), (545, 125), (560, 120), (585, 115), (590, 140), (560, 155)),
    *((560, 190), (590, 260), (645, 290), (650, 300), (690, 380), (690, 420), (670, 455)),
    *((635, 460), (580, 445), (535, 410), (508, 370), (505, 335), (480, 330), (475, 370)),
    *((430, 385), (350, 380), (350, 405), (345, 418), (322, 418), (322, 375), (290, 370)),
    *((250, 405), (190, 408), (140, 380), (115, 320), (120, 280), (150, 245), (110, 250)),
    *((95, 240), (85, 205)),
)
# Where the front tyre meets the floor its disparity is that of the floor.
TYRE: Points = (
    *((534, 390), (544, 403), (556, 414), (570, 427), (590, 438), (610, 447), (630, 451)),
    *((650, 449), (665, 441), (676, 430), (660, 420), (645, 432), (625, 435), (600, 428)),
    *((580, 417), (560, 398), (545, 380)),
)

OUTLINES: dict[str, tuple[str, Points]] = {  # function of skimage.data, outline
    "astronaut": ("astronaut", ASTRONAUT),
    "cat": ("chelsea", CAT),
    "coffee": ("coffee", COFFEE),
    "motorcycle": ("stereo_motorcycle", MOTORCYCLE),
}
OBJECTS = tuple(OUTLINES)

Region = tuple[slice, slice]  # rows, columns
Tint = tuple[float, float, float]
ALL: Region = (slice(None), slice(None))

# Parts of photographs without an object; the grey ones are given a colour.
SURFACES: dict[str, tuple[str, Region, Tint]] = {
    "brick": ("brick", ALL, (1.15, 0.75, 0.65)),
    "grass": ("grass", ALL, (0.85, 1.1, 0.55)),
    "gravel": ("gravel", ALL, (1.0, 0.97, 0.9)),
    "moon": ("moon", ALL, (1.1, 1.0, 0.8)),
    "shelves": ("stereo_motorcycle", (slice(0, 105), slice(545, 741)), (1.0, 1.0, 1.0)),
    "sky": ("rocket", (slice(0, 118), slice(215, 550)), (1.0, 1.0, 1.0)),
    "stars": ("hubble_deep_field", ALL, (1.0, 1.0, 1.0)),
    "tissue": ("immunohistochemistry", ALL, (1.0, 1.0, 1.0)),
    "tower": ("rocket", (slice(0, 340), slice(0, 190)), (1.0, 1.0, 1.0)),
    "wood": ("coffee", (slice(40, 400), slice(482, 600)), (1.0, 1.0, 1.0)),
}
BACKDROPS = (*SURFACES, "noise", "gradient")

SHARES = (0.02, 0.9)  # of the canvas; those of the animals of VOC have quartiles of .2, .45 and .7
STRETCH = 1.15  # width over height is changed by up to this factor, either way
SMALLEST_CANVAS = 32


@dataclass(frozen=True, slots=True)
class Scene:
    """The complete description of a synthetic image.

    Args:
        share: area of the object's box / area of the canvas, above 0, at most `largest_share`.
        place: position of the box in the room left for it, across (0 left, 1 right) and down
            (0 top, 1 bottom).
        stretch: factor on the object's width over height.
        canvas: side of the image, in pixels.
        seed: random seed of the backdrop (crop, colours) and of the light on both.
        drawn_as: the share at whose size the object is drawn before it is resized to `share`; only
            the blur of this remains.
    """

    subject: str
    backdrop: str
    share: float
    place: tuple[float, float] = (0.5, 0.5)
    is_flipped: bool = False
    stretch: float = 1.0
    canvas: int = 256
    seed: int = 0
    drawn_as: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RenderedScene:
    """A scene's pixels, and the box that the object fills in them."""

    pixels: UInt8[np.ndarray, "h w 3"]
    box: Box

    @property
    def share(self) -> float:
        """Area of the box / area of the image, exactly as drawn."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top) / (self.pixels.shape[0] * self.pixels.shape[1])


def make_scenes(
    n: int = 600,
    *,
    canvas: int = 256,
    seed: int = 0,
    objects: Sequence[str] = OBJECTS,
    shares: tuple[float, float] = SHARES,
) -> ImageSet:
    """n synthetic images, evenly divided among the objects, whose measure is known exactly.

    Scene i of an object depends on (seed, object, i) only: a larger n only adds scenes.

    Args:
        canvas: side of the images, in pixels; they are kept in memory, 0.2 MB each at 256.
        objects: names of the objects; they become the subsets.
        shares: smallest and largest share of the canvas; objects that are not square end earlier.

    Raises:
        DataError: if an object is unknown or gets no scene, or shares, canvas or seed are out of
            range.
    """
    names = tuple(dict.fromkeys(several(objects)))
    _check_request(n, names)
    scenes = [
        (f"{name}-{i:04d}", random_scene(name, i, canvas=canvas, seed=seed, shares=shares))
        for rank, name in enumerate(names)
        for i in range(n // len(names) + (rank < n % len(names)))
    ]
    pictures = [render(scene) for _, scene in scenes]
    return ImageSet(
        images=tuple(Image(name, p.pixels) for (name, _), p in zip(scenes, pictures, strict=True)),
        measure=np.array([picture.share for picture in pictures]),
        measure_name="area",
        subset=tuple(scene.subject for _, scene in scenes),
        group=tuple(name for name, _ in scenes),
        boxes=np.array([picture.box for picture in pictures]),
    )


def random_scene(
    subject: str,
    index: int,
    *,
    canvas: int = 256,
    seed: int = 0,
    shares: tuple[float, float] = SHARES,
) -> Scene:
    """Scene number `index` of an object: its share is uniform, all else is independent of it.

    The only exception is the stretch, which must keep the box inside the canvas.
    """
    check_names(subject, OBJECTS, "object")
    smallest, largest = _checked_shares(subject, shares)
    if seed < 0:
        raise DataError(f"The seed must be 0 or more, got {seed}.")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*subject.encode(), index)))
    share = float(rng.uniform(smallest, largest))
    # The box fits while  share <= aspect * stretch <= 1 / share.
    aspect = _aspect(subject)
    low, high = max(1 / STRETCH, share / aspect), min(STRETCH, 1 / (share * aspect))
    return Scene(
        subject=subject,
        share=share,
        stretch=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        place=(float(rng.random()), float(rng.random())),
        is_flipped=bool(rng.random() < 0.5),
        backdrop=BACKDROPS[rng.integers(len(BACKDROPS))],
        canvas=canvas,
        seed=int(rng.integers(2**32)),
    )


def render(scene: Scene) -> RenderedScene:
    """The object of a scene drawn on its backdrop:  backdrop + α (object - backdrop)."""
    pixels = _backdrop(scene)
    left, top, right, bottom = _box(scene)
    patch = PIL.Image.fromarray(cutout(scene.subject))
    if scene.is_flipped:
        patch = patch.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    # Pillow weighs the colours by α when it resizes RGBA.
    if scene.drawn_as is not None:
        patch = patch.resize(_sides(scene, scene.drawn_as), PIL.Image.Resampling.BICUBIC)
    patch = patch.resize((right - left, bottom - top), PIL.Image.Resampling.BICUBIC)
    values = np.asarray(patch) / 255
    lit = _relit(values[..., :3], _generators(scene)[1])
    window = pixels[top:bottom, left:right]
    window += values[..., 3:] * (lit - window)
    return RenderedScene(_eight_bit(pixels), (float(left), float(top), float(right), float(bottom)))


def backdrop(scene: Scene) -> UInt8[np.ndarray, "h w 3"]:
    """A scene drawn without its object."""
    return _eight_bit(_backdrop(scene))


@cache
def cutout(subject: str) -> UInt8[np.ndarray, "h w 4"]:
    """An object cropped to its tight box, as colours and α, at the photograph's resolution."""
    check_names(subject, OBJECTS, "object")
    name, outline = OUTLINES[subject]
    pixels = _photograph(name)
    height, width = pixels.shape[:2]
    inside = _filled(outline, height, width)
    if subject == "motorcycle":
        inside &= _near(_loaded("stereo_motorcycle")[2]) | _filled(TYRE, height, width)
    alpha = _feathered(inside)
    rows, columns = (np.flatnonzero((alpha >= 128).any(axis=axis)) for axis in (1, 0))
    whole = np.dstack([pixels, alpha])
    tight = whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    tight.flags.writeable = False  # since it is cached
    return tight


def largest_share(subject: str) -> float:
    """The largest share of the canvas that an object can fill, at the strongest stretch."""
    aspect = _aspect(subject)
    return min(1.0, STRETCH * min(aspect, 1 / aspect))


def _aspect(subject: str) -> float:
    height, width = cutout(subject).shape[:2]
    return width / height


def _rounded_down(share: float) -> str:
    return f"{np.floor(100 * share) / 100:.2f}"


def _sides(scene: Scene, share: float) -> tuple[int, int]:
    """The width and height, in whole pixels, at which the object fills a share."""
    aspect = _aspect(scene.subject) * scene.stretch
    across, down = (scene.canvas * np.sqrt(share * ratio) for ratio in (aspect, 1 / aspect))
    return max(1, round(across)), max(1, round(down))


def _box(scene: Scene) -> tuple[int, int, int, int]:
    aspect = _aspect(scene.subject) * scene.stretch
    width, height = _sides(scene, scene.share)
    if max(width, height) > scene.canvas:
        raise DataError(
            f"The {scene.subject} with a share of {scene.share:g} has {width} x {height} pixels, "
            f"but the canvas {scene.canvas} x {scene.canvas}. Ask for a share of at most "
            f"{_rounded_down(min(aspect, 1 / aspect))}, or change the stretch."
        )
    across, down = scene.place
    left, top = round(across * (scene.canvas - width)), round(down * (scene.canvas - height))
    return left, top, left + width, top + height


def _filled(outline: Points, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    drawing = PIL.Image.new("L", (width, height))
    ImageDraw.Draw(drawing).polygon(outline, fill=1)
    return np.asarray(drawing) > 0


def _near(disparity: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Pixels in front of the wall and above the floor, whose disparity grows row by row."""
    row = np.arange(len(disparity))[:, None]
    floor = 39.8 + 0.175 * (row - 400)  # pixels, read off next to the wheels
    near = np.isfinite(disparity) & (disparity > np.maximum(30, floor + 3))
    # Where the right photograph shows nothing there is no disparity: close these gaps.
    mask = PIL.Image.fromarray(near.astype(np.uint8))
    closed = mask.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5))
    return np.asarray(closed).astype(bool)


def _feathered(inside: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """α with a soft edge drawn inwards, so that nothing of the old backdrop shows."""
    mask = PIL.Image.fromarray(inside.astype(np.uint8) * 255)
    blurred = np.asarray(mask.filter(ImageFilter.GaussianBlur(1.2))) / 255
    return np.round(255 * np.clip((blurred - 0.5) / 0.45, 0, 1)).astype(np.uint8)


def _generators(scene: Scene) -> tuple[np.random.Generator, np.random.Generator]:
    """Separate generators for the backdrop and for the light on the object."""
    behind, before = np.random.SeedSequence(scene.seed).spawn(2)
    return np.random.default_rng(behind), np.random.default_rng(before)


def _backdrop(scene: Scene) -> Float64[np.ndarray, "h w 3"]:
    _check_scene(scene)
    rng = _generators(scene)[0]
    if scene.backdrop == "noise":
        return np.clip(_pink_noise(rng, scene.canvas), 0, 1)
    if scene.backdrop == "gradient":
        return np.clip(_gradient(rng, scene.canvas), 0, 1)
    surface = _surface(scene.backdrop)
    side = rng.uniform(0.5, 1.0) * min(surface.size)
    left, top = rng.uniform(0, surface.width - side), rng.uniform(0, surface.height - side)
    crop = surface.resize(
        (scene.canvas, scene.canvas),
        PIL.Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
    )
    if rng.random() < 0.5:
        crop = crop.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    return _relit(np.asarray(crop) / 255, rng)


def _loaded(name: str) -> Any:
    """What a function of skimage.data returns; imported here, since scikit-image loads slowly."""
    from skimage import data

    return getattr(data, name)()


def _photograph(name: str) -> np.ndarray:
    loaded = _loaded(name)
    return loaded[0] if isinstance(loaded, tuple) else loaded  # a stereo pair and its disparity


@cache
def _surface(name: str) -> PIL.Image.Image:
    photograph, region, tint = SURFACES[name]
    pixels = _photograph(photograph)[region]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return PIL.Image.fromarray(_eight_bit(np.clip(pixels / 255 * np.array(tint), 0, 1)))


def _pink_noise(rng: np.random.Generator, side: int) -> Float64[np.ndarray, "h w 3"]:
    """Noise of amplitude 1 / frequency^slope, its three channels mixed at random."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf  # no constant part
    amplitude = frequency ** -rng.uniform(0.8, 1.6)
    phases = np.exp(2j * np.pi * rng.random((3, *frequency.shape)))
    noise = np.fft.irfft2(amplitude * phases, s=(side, side))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    mixing = rng.normal(size=(3, 3)) + 1.0  # shared brightness outweighs colour, as in photographs
    mixed = np.einsum("chw,cd->hwd", noise, mixing / np.linalg.norm(mixing, axis=0))
    return rng.uniform(0.3, 0.7, size=3) + rng.uniform(0.1, 0.2) * mixed


def _gradient(rng: np.random.Generator, side: int) -> Float64[np.ndarray, "h w 3"]:
    """A linear gradient from one colour to another, with faint grain."""
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, side)
    along = 0.5 + (np.cos(angle) * ramp + np.sin(angle) * ramp[:, None]) / np.sqrt(2)
    one, other = rng.uniform(0.1, 0.9, size=(2, 3))
    grain = rng.normal(scale=0.015, size=(side, side, 1))
    return one + along[..., None] * (other - one) + grain


def _relit(
    values: Float64[np.ndarray, "h w 3"], rng: np.random.Generator
) -> Float64[np.ndarray, "h w 3"]:
    """Change contrast and brightness, and the colour of the light."""
    # Wide: where each object has one colour, its share can be decoded from the mean colour of the
    # image, even by a randomly initialised network.
    contrast, brightness = rng.uniform(0.6, 1.3), rng.uniform(-0.2, 0.2)
    colour = rng.uniform(0.82, 1.18, size=3)
    return np.clip(((values - 0.5) * contrast + 0.5 + brightness) * colour, 0, 1)


def _eight_bit(values: Float64[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.round(255 * values).astype(np.uint8)


def _check_request(n: int, names: Sequence[str]) -> None:
    if not names:
        raise DataError(f"No object is named. Choose from {', '.join(OBJECTS)}.")
    check_names(names, OBJECTS, "object")
    if n < len(names):
        raise DataError(
            f"{n} scenes cannot be divided among {len(names)} objects. "
            f"Ask for at least {len(names)} scenes, or name fewer objects."
        )


def _checked_shares(subject: str, shares: tuple[float, float]) -> tuple[float, float]:
    smallest, largest = shares
    if not 0 < smallest <= largest <= 1:
        raise DataError(
            f"Shares must be above 0, at most 1, and the smaller first, got {smallest:g} to "
            f"{largest:g}. Give shares such as {SHARES[0]:g} to {SHARES[1]:g}."
        )
    limit = largest_share(subject)
    if smallest > limit:
        raise DataError(
            f"The {subject} can fill at most {_rounded_down(limit)} of the canvas, but shares "
            f"start at {smallest:g}. Give a smaller share, or omit this object."
        )
    return smallest, min(largest, limit)


def _check_scene(scene: Scene) -> None:
    check_names(scene.subject, OBJECTS, "object")
    check_names(scene.backdrop, BACKDROPS, "backdrop")
    wrong = [s for s in (scene.share, scene.drawn_as) if s is not None and not 0 < s <= 1]
    if wrong:
        raise DataError(
            f"A share must be above 0 and at most 1, got {wrong[0]:g}. "
            "Give the area of the object's box divided by that of the canvas."
        )
    if not all(0 <= where <= 1 for where in scene.place):
        raise DataError(
            f"The place {scene.place} is outside the canvas. Give two numbers from 0 (left, top) "
            "to 1 (right, bottom)."
        )
    if scene.canvas < SMALLEST_CANVAS:
        raise DataError(
            f"The canvas must have at least {SMALLEST_CANVAS} pixels, got {scene.canvas}."
        )

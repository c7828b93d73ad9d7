"""DICOM and NIfTI files as arrays of values; the packages that read them are optional.

DICOM: values after rescale slope and intercept (or the modality table); MONOCHROME1 is white at its
smallest value. NIfTI: one slice of a volume in the orientation RAS+ (axis 0 from left to right,
1 from back to front, 2 from foot to head), whatever the order in the file, with the end of the
second of its two axes at the top. Grey values are 32-bit floats, so that files of one set compare
whatever their types are.

Shapes: h x w pixels, i x j x k voxels.
"""

import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped

from ..errors import DataError
from .decoding import (
    DICOM,
    MOST_PIXELS,
    PAGES,
    Contents,
    FileError,
    NeededError,
    Rendering,
    planes_of,
    quiet,
)

_PACKAGES = {DICOM: "pydicom", "NIfTI": "nibabel"}
SHIFT = 0.1  # of a voxel, by which rounded affines can differ
_DECODERS = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"  # of all compressed syntaxes
_CONVERTED = {  # objects of DICOM that are no images, and what converts them
    "SEG": "a segmentation (DICOM SEG); convert it to NIfTI with segimage2itkimage of dcmqi",
    "RTSTRUCT": "contours (DICOM RTSTRUCT); convert it to NIfTI with the package dcmrtstruct2nii",
}
_SLICE = re.compile(r"([012]):(\d+)")


def check_slice(text: str) -> tuple[int, int] | None:
    """Axis and index of the option --slice; None for an empty text.

    Raises:
        DataError: if it is not of the form AXIS:INDEX.
    """
    found = _SLICE.fullmatch(text)
    if text and found is None:
        raise DataError(
            "--slice must be AXIS:INDEX with the axis 0, 1 or 2 and the index counted from 0, such "
            f"as 2:40, got {text!r}."
        )
    return None if found is None else (int(found[1]), int(found[2]))


def contents(file: Path | io.BytesIO, form: str, slice_: str) -> Contents:
    """What a file of the form DICOM or NIfTI holds; pixels are not decoded.

    Raises:
        DataError: if it cannot be read, or has several slices and none is chosen.
    """
    if form == DICOM and slice_:
        raise NeededError("it is DICOM, and --slice is for NIfTI; use --page for its frames")
    with _refused_if_broken():
        if form == DICOM:
            with quiet():
                return _dicom_contents(_dicom(file, is_whole=False))
        return _nifti_contents(_nifti(file), slice_)


def values(
    file: Path | io.BytesIO, found: Contents, asked: Rendering, page: int
) -> Shaped[np.ndarray, "h w *c"]:
    """The values of one page, counted from 1, upright."""
    with _refused_if_broken():
        if found.form == DICOM:
            with quiet():
                return _dicom_values(_dicom(file, is_whole=True), page)
        return _nifti_values(_nifti(file), asked.slice, page)


@contextmanager
def _refused_if_broken() -> Iterator[None]:
    """What a package raises on a broken file becomes a FileError, wherever a value is converted."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of pydicom, nibabel and what they call: any kind
        raise FileError(f"it is truncated or broken ({_line(error)}); copy it again") from error


def _package(form: str) -> Any:
    try:
        return import_module(_PACKAGES[form])
    except ImportError as error:
        raise NeededError(
            f"it is {form}, which is read with pip install 'scalecut[medical]'"
        ) from (error)


# --- DICOM ---------------------------------------------------------------------------------------


def _dicom(file: Path | io.BytesIO, *, is_whole: bool) -> Any:
    """The data set of a file, without its pixels unless it is wanted whole."""
    pydicom = _package(DICOM)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        found = pydicom.dcmread(file, stop_before_pixels=not is_whole)
    except pydicom.errors.InvalidDicomError as error:
        raise FileError("it is no DICOM file; check its name") from error
    if (way := _CONVERTED.get(str(found.get("Modality")))) is not None:
        raise NeededError(f"it is {way}")
    if not (found.get("Rows") and found.get("Columns")):
        raise FileError(f"it is DICOM without an image ({found.get('Modality', 'no modality')})")
    return found


def _dicom_contents(data: Any) -> Contents:
    is_grey = str(data.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    width, height = int(data.Columns), int(data.Rows)
    if width * height > MOST_PIXELS:
        raise FileError(f"its header says {width} x {height} pixels; scale it down or tile it")
    spacing = _stated(data, 0, "PixelMeasuresSequence", "PixelSpacing")
    return Contents(
        "float32" if is_grey else "uint8",
        1 if is_grey else 3,
        False,
        (width, height),
        planes_of({"frames": int(data.get("NumberOfFrames") or 1)}),
        is_white=data.get("PhotometricInterpretation") == "MONOCHROME1",
        form=DICOM,
        window=_window(data) if is_grey else None,
        spacing=None if not spacing else (float(spacing[0]), float(spacing[1])),
        no_data=_padding(data) if is_grey else None,
        patient=str(data.get("PatientID") or "").strip(),
    )


def _padding(data: Any) -> float | None:
    """The value, after rescaling, of pixels that only pad an image."""
    padding = data.get("PixelPaddingValue")
    if not isinstance(padding, int) or "ModalityLUTSequence" in data:
        return None
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    scaled = padding * float(1 if slope is None else slope) + float(intercept or 0)
    return float(np.float32(scaled))


def _dicom_values(data: Any, page: int) -> np.ndarray:
    from pydicom.pixels import processing, utils

    try:
        stored = utils.pixel_array(data, index=page - 1)
        if data.get("PhotometricInterpretation") == "PALETTE COLOR":
            stored = processing.apply_color_lut(stored, data)
    except RuntimeError as error:
        name = data.file_meta.TransferSyntaxUID.name
        if "missing dependencies" in str(error) or "Unable to decompress" in str(error):
            raise NeededError(
                f"its pixels are compressed as {name}, which pydicom cannot decode here; "
                f"pip install {_DECODERS}"
            ) from error
        raise FileError(f"it cannot be decoded ({_line(error)}); save it anew") from error
    if stored.ndim == 3:  # colours
        return (stored >> 8).astype(np.uint8) if stored.dtype == np.uint16 else stored
    if "ModalityLUTSequence" in data:
        return processing.apply_modality_lut(stored, data).astype(np.float32)
    sequence = "PixelValueTransformationSequence"
    slope = _stated(data, page - 1, sequence, "RescaleSlope")
    intercept = _stated(data, page - 1, sequence, "RescaleIntercept")
    scaled = stored * float(1 if slope is None else slope) + float(intercept or 0)
    return scaled.astype(np.float32)


def _window(data: Any) -> tuple[float, float] | None:
    """The values that the first linear window of a file shows as black and white."""
    sequence = "FrameVOILUTSequence"
    centre = _first(_stated(data, 0, sequence, "WindowCenter"))
    width = _first(_stated(data, 0, sequence, "WindowWidth"))
    function = _stated(data, 0, sequence, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width <= 1 or function == "SIGMOID":
        return None
    if function == "LINEAR_EXACT":
        return centre - width / 2, centre + width / 2
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2  # PS3.3, C.11.2.1.2.1


def _first(given: Any) -> float | None:
    """The first of one or several numbers."""
    if given is None or given == "":
        return None
    return float(given if isinstance(given, int | float | str) else given[0])


def _stated(data: Any, frame: int, sequence: str, name: str) -> Any:
    """An element of a data set: its own, else that of a frame, else that of all frames."""
    if data.get(name) not in (None, ""):
        return data.get(name)
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for group in [*frames[frame : frame + 1], *shared[:1]]:
        for item in group.get(sequence) or []:
            if item.get(name) not in (None, ""):
                return item.get(name)
    return None


# --- NIfTI ---------------------------------------------------------------------------------------


def _nifti(file: Path | io.BytesIO) -> Any:
    """The volume of a file; its voxels are not read yet."""
    nibabel = _package("NIfTI")
    try:
        if isinstance(file, Path):
            return nibabel.load(file)
        content = file.getvalue()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        return nibabel.Nifti1Image.from_bytes(content)
    except nibabel.filebasedimages.ImageFileError as error:
        raise FileError("it is no NIfTI file; check its name") from error


def _axes(volume: Any) -> tuple[list[int], list[bool], tuple[int, int, int]]:
    """The stored axis of each axis of RAS+, whether it is reversed, and the lengths of these."""
    from nibabel.orientations import io_orientation

    found = io_orientation(volume.affine)
    if not np.isfinite(found).all():
        raise FileError("its affine does not say where its axes point to; set its orientation")
    stored = [int(np.flatnonzero(found[:, 0] == axis)[0]) for axis in range(3)]
    lengths = *map(int, volume.shape), 1, 1
    shape = cast(tuple[int, int, int], tuple(lengths[axis] for axis in stored))
    return stored, [bool(found[axis, 1] < 0) for axis in stored], shape


def _chosen(volume: Any, slice_: str) -> tuple[int, int]:
    """Axis of RAS+ and index of the chosen slice, or of the only one."""
    _, _, shape = _axes(volume)
    asked = check_slice(slice_)
    if asked is None:
        if 1 in shape:
            return shape.index(1), 0
        ranges = ", ".join(f"{axis}:0 to {axis}:{n - 1}" for axis, n in enumerate(shape))
        raise NeededError(
            f"it is a volume of {' x '.join(map(str, shape))}; choose one slice with "
            f"--slice AXIS:INDEX ({ranges}), such as --slice 2:{shape[2] // 2}"
        )
    if asked[1] >= shape[asked[0]]:
        raise FileError(
            f"it has the slices {asked[0]}:0 to {asked[0]}:{shape[asked[0]] - 1}, but --slice asks "
            f"for {slice_}"
        )
    return asked


def _nifti_contents(volume: Any, slice_: str) -> Contents:
    if len(volume.shape) > 4 or volume.get_data_dtype().kind not in "biuf":
        raise FileError("it has more than four dimensions, colours or complex values")
    axis, _ = _chosen(volume, slice_)
    _, _, shape = _axes(volume)
    across, up = (other for other in range(3) if other != axis)
    zooms = np.sqrt((volume.affine[:3, :3] ** 2).sum(axis=0))
    stored, _, _ = _axes(volume)
    return Contents(
        "float32",
        1,
        False,
        (shape[across], shape[up]),
        planes_of({PAGES: volume.shape[3] if len(volume.shape) == 4 else 1}),
        form="NIfTI",
        spacing=(float(zooms[stored[up]]), float(zooms[stored[across]])),
        is_oriented=any(int(volume.header.get(name, 1)) for name in ("sform_code", "qform_code")),
    )


def same_space(one: Path, other: Path) -> bool:
    """Whether two volumes have their voxels in the same places, in whatever order."""
    first, second = (_upright(_nifti(file)) for file in (one, other))
    return bool(np.allclose(first, second, atol=SHIFT * np.abs(first[:3, :3]).max()))


def _upright(volume: Any) -> np.ndarray:
    """The affine of a volume after its axes are brought to RAS+."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    found = io_orientation(volume.affine)
    return volume.affine @ inv_ornt_aff(found, volume.shape[:3])


def _nifti_values(volume: Any, slice_: str, page: int) -> np.ndarray:
    axis, index = _chosen(volume, slice_)
    stored, is_reversed, shape = _axes(volume)
    place = [slice(None)] * len(volume.shape)
    if stored[axis] < len(place):
        start = shape[axis] - 1 - index if is_reversed[axis] else index
        place[stored[axis]] = slice(start, start + 1)
    if len(place) == 4:
        place[3] = slice(page - 1, page)
    part: np.ndarray = np.asarray(volume.dataobj[tuple(place)], dtype=np.float32)
    cube = part.reshape((*part.shape, 1, 1)[:3]).transpose(stored)
    cube = cube[tuple(slice(None, None, -1 if each else 1) for each in is_reversed)]
    return np.ascontiguousarray(cube.take(0, axis=axis).T[::-1])  # rows from the top down


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120].strip(" .")

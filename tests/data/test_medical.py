"""DICOM and NIfTI files, written with pydicom and nibabel, give the values that were planted."""

import sys

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1, generate_uid

from scalecut.data.images import make_image_set
from scalecut.data.summary import summary_of
from tests.data.layouts import read, said, skipped

N, HIGH, WIDE = 6, 24, 40
JPEG_LOSSLESS = JPEGLosslessSV1


def density(number):
    """Hounsfield units from -1000 to 1000."""
    y, x = np.mgrid[0:HIGH, 0:WIDE]
    return (-1000 + (2000 - number) * (x * y) // ((HIGH - 1) * (WIDE - 1))).astype(np.int16)


def dicom(path, stored, *, syntax=ExplicitVRLittleEndian, content=None, **facts):
    """A file of these stored values, with what `facts` states."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    is_colour = stored.shape[-1] == 3
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    if is_colour:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = stored.shape[-3:-1] if is_colour else stored.shape[-2:]
    if stored.ndim == 3 and not is_colour:
        data.NumberOfFrames = len(stored)
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(stored.dtype.kind == "i")
    for name, value in facts.items():
        setattr(data, name, value)
    if content is None:
        data.add_new(0x7FE00010, "OB" if stored.dtype.itemsize == 1 else "OW", stored.tobytes())
    else:
        data.PixelData = pydicom.encaps.encapsulate([content])
        data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)


def ct(path, values, slope=1, intercept=-1024, **facts):
    """Densities as a scanner stores them."""
    stored = ((values.astype(int) - intercept) // slope).astype(np.uint16)
    dicom(path, stored, RescaleSlope=slope, RescaleIntercept=intercept, **facts)


def table(folder, write, n=N, suffix=".dcm"):
    folder.mkdir(exist_ok=True)
    for number in range(n):
        write(folder / f"{number}{suffix}", number)
    lines = ["image,measure", *(f"{number}{suffix},{number}" for number in range(n))]
    (folder / "t.csv").write_text("\n".join(lines))
    return f"csv:{folder}/t.csv"


def shown(images):
    return [np.asarray(image.decode())[..., 0] for image in images.images]


def grey(values, low, high):
    return np.clip(np.rint((values.astype(float) - low) * 255 / (high - low)), 0, 255)


LUNG = {"WindowCenter": -600, "WindowWidth": 1500}
LUNG_RANGE = -600 - 0.5 - 1499 / 2, -600 - 0.5 + 1499 / 2  # of part 3 of the standard


@pytest.mark.parametrize("suffix", [".dcm", "", ".840.113"])
def test_the_window_that_all_files_state_is_used_and_stated(tmp_path, suffix):
    write = lambda path, i: ct(path, density(i), PixelSpacing=[0.5, 0.7], **LUNG)  # noqa: E731 - a line each
    images = read(table(tmp_path, write, suffix=suffix))
    for number, pixels in enumerate(shown(images)):
        np.testing.assert_array_equal(pixels, grey(density(number), *LUNG_RANGE))
    assert images.facts["assumed"] == [
        "32-bit float values are shown from -1350 (black) to 149 (white), the window of all files, "
        "as --intensity -1350,149 would"
    ]
    assert images.facts["pixel_spacing_mm"] == {"smallest": (0.5, 0.7), "largest": (0.5, 0.7)}


@pytest.mark.parametrize(
    ("intensity", "low", "high"), [("-160,240", -160, 240), ("auto", -1000, 1000)]
)
def test_values_are_those_after_rescaling_however_they_are_stored(tmp_path, intensity, low, high):
    def write(path, number):
        slope, intercept = [(1, -1024), (2, -1000), (1, 0)][number % 3]
        values = density(number) if intercept else density(number) // 1
        if intercept:
            ct(path, values // 2 * 2, slope, intercept)
        else:
            dicom(path, values // 2 * 2)  # signed, not rescaled

    images = read(table(tmp_path, write), intensity=intensity)
    for number, pixels in enumerate(shown(images)):
        np.testing.assert_array_equal(pixels, grey(density(number) // 2 * 2, low, high))


def test_every_file_of_many_is_examined(tmp_path):
    images = read(table(tmp_path, lambda path, i: ct(path, density(i)[:4, :4]), n=70))
    assert {image.rendering.low for image in images.images} == {-1000}


def test_monochrome1_is_inverted_and_stated(tmp_path):
    def write(path, number):
        if number % 2:
            dicom(path, density(number), PhotometricInterpretation="MONOCHROME1")
        else:
            dicom(path, (-density(number)).astype(np.int16))

    images = read(table(tmp_path, write), intensity="-1000,1000", strict=True)
    for number, pixels in enumerate(shown(images)):
        np.testing.assert_allclose(pixels, grey(-density(number), -1000, 1000), atol=1)
    assert images.facts["stated"] == ["3 images are MONOCHROME1, and are inverted"]


def test_what_files_state_is_said_of_the_data(tmp_path):
    def write(path, number):
        space = [0.5 + number % 2, 0.25] if number else None
        more = {"PixelSpacing": space} if space else {}
        ct(path, density(number), WindowCenter=40 + number, WindowWidth=401, **more)

    spec = table(tmp_path, write)
    lines = summary_of(read(spec, intensity="window")).lines()
    assert [text for title, text in lines if title == "Stated"] == [
        "6 images are shown by the window that each states (-160.5,239.5 to -155.5,244.5).",
        "5 images state the size of their pixels, 0.5 x 0.25 to 1.5 x 0.25 mm (down x across).",
    ]
    bare = summary_of(read(table(tmp_path / "bare", lambda path, i: ct(path, density(i)))))
    assert "Stated" not in dict(bare.lines())


@pytest.mark.parametrize(
    ("modality", "way"),
    [
        ("SEG", "a segmentation (DICOM SEG); convert it to NIfTI with segimage2itkimage of dcmqi"),
        ("RTSTRUCT", "contours (DICOM RTSTRUCT); convert it to NIfTI with the package "
         "dcmrtstruct2nii"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["images", "masks"])
def test_objects_that_are_no_images_are_refused_with_a_converter(tmp_path, modality, way, place):
    frames = np.zeros((3, HIGH, WIDE), np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            more = {"Modality": modality} if (folder, number) == (place, 1) else {}
            dicom(tmp_path / folder / f"{number}.dcm", frames if more else frames[0] + 1, **more)
    assert said(read, f"masks:{tmp_path}") == f"1.dcm: it is {way}."


def test_windows_of_each_file_are_used_only_if_asked(tmp_path):
    spec = table(
        tmp_path,
        lambda path, i: ct(path, density(i), WindowCenter=[40 + i % 2, 99], WindowWidth=[401, 9]),
    )
    assert said(read, spec) == (
        "The 6 images state 2 windows (-160.5 to 239.5, -159.5 to 240.5), so equal values could be "
        "shown differently. Choose --intensity window (each its own), data, percentiles, or "
        "LOW,HIGH."
    )
    for number, pixels in enumerate(shown(read(spec, intensity="window"))):
        low = -160.5 + number % 2
        np.testing.assert_array_equal(pixels, grey(density(number), low, low + 400))
    bare = table(tmp_path / "bare", lambda path, i: ct(path, density(i), **(LUNG if i else {})))
    assert skipped(read(bare, intensity="window")) == {
        "0.dcm": "it states no window; choose --intensity percentiles or LOW,HIGH"
    }


def test_a_frame_is_chosen_by_page(tmp_path):
    several = table(
        tmp_path,
        lambda path, i: dicom(path, np.stack([density(0), density(500 * i), density(1)])),
    )
    assert said(read, several).startswith("0.dcm: it has 3 frames; choose one with --page 1 (to 3)")
    for number, pixels in enumerate(shown(read(several, page=2, intensity="-1000,1000"))):
        np.testing.assert_array_equal(pixels, grey(density(500 * number), -1000, 1000))


def test_facts_of_frames_are_read_from_their_groups(tmp_path):
    def write(path, number):
        groups = []
        for intercept in (0, -1000):
            rescaled, group = pydicom.Dataset(), pydicom.Dataset()
            rescaled.RescaleSlope, rescaled.RescaleIntercept = 1, intercept
            group.PixelValueTransformationSequence = [rescaled]
            groups.append(group)
        stored = (density(number) + 1000).astype(np.uint16)
        dicom(path, np.stack([stored, stored]), PerFrameFunctionalGroupsSequence=groups)

    spec = table(tmp_path, write)
    for page, offset in ((1, 1000), (2, 0)):
        pixels = shown(read(spec, page=page, intensity="-1000,2000"))[3]
        np.testing.assert_array_equal(pixels, grey(density(3) + offset, -1000, 2000))


def test_colours_are_plain(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (N, HIGH, WIDE, 3)).astype(np.uint8)
    images = read(table(tmp_path, lambda path, i: dicom(path, colour[i])))
    np.testing.assert_array_equal([np.asarray(each.decode()) for each in images.images], colour)
    assert "assumed" not in images.facts


def lossless(path, number):
    dicom(path, density(number), syntax=JPEG_LOSSLESS, content=b"\xff\xd8\xff\xd9")


def test_compression_that_cannot_be_decoded_is_named(tmp_path):
    message = said(read, table(tmp_path, lossless))
    assert message.startswith("0.dcm: its pixels are compressed as JPEG Lossless")
    assert message.endswith("pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg.")


@pytest.mark.parametrize("package", ["pydicom", "nibabel"])
def test_without_the_extra_it_is_named(tmp_path, monkeypatch, package):
    write, suffix = (lambda p, i: ct(p, density(i)), ".dcm")
    if package == "nibabel":
        write, suffix = (lambda p, i: nifti(p, volume(i)), ".nii.gz")
    spec = table(tmp_path, write, suffix=suffix)
    monkeypatch.setitem(sys.modules, package, None)
    form = "DICOM" if package == "pydicom" else "NIfTI"
    assert said(read, spec) == (
        f"0{suffix}: it is {form}, which is read with pip install 'scalecut[medical]'."
    )


# --- NIfTI ---------------------------------------------------------------------------------------

SHAPE = 9, 12, 15  # to the right, forward, up


def volume(number):
    """Different everywhere: 0 to 1619."""
    x, y, z = np.indices(SHAPE)
    return (x + 9 * y + 108 * z - number).astype(np.int16) + 5


def nifti(path, values, codes="RAS", zooms=(1, 2, 3)):
    """The volume of RAS+ stored with other axes."""
    affine = np.diag([*zooms, 1.0])
    image = nibabel.Nifti1Image(values, affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    nibabel.save(image.as_reoriented(turn), path)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_slice_is_the_same_however_the_volume_is_stored(tmp_path, codes, suffix):
    write = lambda path, i: nifti(path, volume(i), codes)  # noqa: E731 - a line each
    spec = table(tmp_path, write, suffix=suffix)
    for axis, spacing in ((0, (3, 2)), (1, (3, 1)), (2, (2, 1))):
        images = read(spec, slice=f"{axis}:4", intensity="0,2040")
        for number, pixels in enumerate(shown(images)):
            plane = volume(number).take(4, axis)
            np.testing.assert_array_equal(pixels, grey(np.rot90(plane), 0, 2040))
        np.testing.assert_allclose(images.facts["pixel_spacing_mm"]["largest"], spacing)


def test_volumes_of_one_slice_or_of_several_times(tmp_path):
    flat = table(tmp_path, lambda p, i: nifti(p, volume(i)[:, :, 3:4]), suffix=".nii")
    for number, pixels in enumerate(shown(read(flat, intensity="0,2040"))):
        np.testing.assert_array_equal(pixels, grey(np.rot90(volume(number)[:, :, 3]), 0, 2040))
    times = lambda p, i: nifti(p, np.stack([volume(i), volume(2 * i)], axis=-1))  # noqa: E731 - a line each
    spec = table(tmp_path / "t", times, suffix=".nii")
    assert "it has 2 pages; choose one with --page 1 (to 2)" in said(read, spec, slice="2:3")
    for number, pixels in enumerate(shown(read(spec, slice="2:3", page=2, intensity="0,2040"))):
        plane = volume(2 * number)[:, :, 3]
        np.testing.assert_array_equal(pixels, grey(np.rot90(plane), 0, 2040))


def test_scaled_values_of_nifti_are_shown(tmp_path):
    def write(path, number):
        image = nibabel.Nifti1Image(volume(number), np.eye(4))
        image.header.set_slope_inter(2, 100)
        nibabel.save(image, path)

    pixels = shown(read(table(tmp_path, write, suffix=".nii"), slice="2:3", intensity="0,4080"))
    plane = np.rot90(2.0 * volume(1)[:, :, 3] + 100)
    np.testing.assert_array_equal(pixels[1], grey(plane, 0, 4080))


def labelled_volumes(folder, suffix=".nii.gz"):
    """Volumes and masks with an object of 3 x 4 of 9 x 12 pixels at 2:5; its specification."""
    marks = np.zeros(SHAPE, np.uint8)
    marks[1:4, 2:6, 5] = 1
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(N):
        nifti(folder / "images" / f"{number}.nii.gz", volume(number))
        mask = folder / "masks" / f"{number}{suffix}"
        if suffix == ".png":
            PIL.Image.fromarray(np.rot90(marks[:, :, 5])).save(mask)
        else:
            nifti(mask, marks, "LPS" if number % 2 else "RAS")
    return f"masks:{folder}"


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_masks_of_volumes_are_measured_in_the_slice(tmp_path, suffix):
    images = read(labelled_volumes(tmp_path, suffix), slice="2:5")
    np.testing.assert_allclose(images.measure, [3 * 4 / (9 * 12)] * N)
    np.testing.assert_array_equal(images.boxes, [(1, 12 - 6, 4, 12 - 2)] * N)


def test_yolo_labels_of_slices_are_shares_of_the_slice(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    nifti(tmp_path / "images" / "a.nii.gz", volume(0))
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.25")
    np.testing.assert_allclose(read(f"yolo:{tmp_path}", slice="2:5").measure, [0.125])


def test_files_can_be_given_in_python(tmp_path):
    dicom(tmp_path / "0.dcm", density(0))
    nifti(tmp_path / "0.nii", volume(0)[:, :, :1])
    images = make_image_set([tmp_path / "0.dcm"], [1.0])
    np.testing.assert_array_equal(shown(images)[0], grey(density(0), -1000, 1000))
    assert shown(make_image_set([tmp_path / "0.nii"], [1.0]))[0].shape == (12, 9)


# --- what is refused -----------------------------------------------------------------------------


def written(content):
    return lambda path, i: path.write_bytes(content)


PLAIN = lambda path, i: PIL.Image.fromarray(np.full((9, 9), i, np.uint8)).save(path)  # noqa: E731 - a line each
NII = lambda path, i: nifti(path, volume(i))  # noqa: E731 - a line each
CT = lambda path, i: ct(path, density(i))  # noqa: E731 - a line each


@pytest.mark.parametrize(
    ("write", "suffix", "reading", "message"),
    [
        (NII, ".nii", {}, "0.nii: it is a volume of 9 x 12 x 15; choose one slice with --slice "
         "AXIS:INDEX (0:0 to 0:8, 1:0 to 1:11, 2:0 to 2:14), such as --slice 2:7."),
        (NII, ".nii", {"slice": "2:15"}, "0.nii: it has the slices 2:0 to 2:14, but --slice asks "
         "for 2:15."),
        (CT, ".dcm", {"slice": "2:1"}, "0.dcm: it is DICOM, and --slice is for NIfTI; use --page "
         "for its frames."),
        (PLAIN, ".png", {"slice": "2:1"}, "0.png: --slice chooses from volumes of NIfTI, and this "
         "is none; omit --slice."),
        (NII, ".nii", {"slice": "3:1"}, "--slice must be AXIS:INDEX with the axis 0, 1 or 2 and "
         "the index counted from 0, such as 2:40, got '3:1'."),
        (written(b"x" * 400), ".dcm", {}, "0.dcm: it is no DICOM file; check its name."),
        (written(b"x" * 400), ".nii", {"slice": "2:1"}, "0.nii: it is no NIfTI file; check its "
         "name."),
        (written(b"x"), ".svs", {}, "0.svs: it is a whole slide; cut patches from it "
         "with scalecut patches --mpp."),
        (written(b"x"), ".fits", {}, "0.fits: it is FITS; save it as TIFF with astropy and "
         "tifffile."),
        (written(b"x"), ".mp4", {}, "0.mp4: it is a video; save its frames as PNG with ffmpeg."),
        (written(b"x"), ".heic", {}, "0.heic: it is HEIC; pip install pillow-heif, or convert it "
         "to PNG."),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_what_helps(tmp_path, write, suffix, reading, message):
    assert message in said(read, table(tmp_path, write, suffix=suffix), **reading)


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: content[:-100],
        lambda content: content.replace(b"-1024", b"0 (  "),  # the intercept
        lambda content: content.replace(
            b"\x28\x00\x02\x00US\x02\x00", b"\x28\x00\x02\x00UL\x02\x00"
        ),
    ],
    ids=["half of the pixels", "words in a number", "another type"],
)
def test_broken_files_are_skipped(tmp_path, broken):
    def write(path, number):
        ct(path, density(number))
        if number == 2:
            content = path.read_bytes()
            path.write_bytes(broken(content))
            assert path.read_bytes() != content

    images = read(table(tmp_path, write))
    assert list(skipped(images)) == ["2.dcm"]
    assert "it is truncated or broken" in skipped(images)["2.dcm"]


def test_pixels_that_pad_an_image_are_black_and_do_not_count(tmp_path):
    def write(path, number):
        values = density(number).astype(int)
        values[:6] = -2000
        ct(path, values, intercept=-2048, PixelPaddingValue=48)

    images = read(table(tmp_path, write))
    for number, pixels in enumerate(shown(images)):
        expected = grey(density(number), density(0)[6:].min(), 1000)
        np.testing.assert_allclose(pixels[6:], expected[6:], atol=1)
        assert (pixels[:6] == 0).all()
    assert images.facts["stated"][0] == (
        "6 images have pixels without data (-2000, as they declare), which are black, and do not "
        "count for the range"
    )


def test_patients_of_dicom_are_groups_unless_a_column_or_an_option_says_otherwise(tmp_path):
    def write(path, number):
        ct(path, density(number), PatientID=f"P{number // 2}" if number < 4 else "")

    spec = table(tmp_path, write)
    images = read(spec)
    assert images.group == ("patient P0",) * 2 + ("patient P1",) * 2 + ("4.dcm", "5.dcm")
    assert images.facts["groups_by"] == "the PatientID of DICOM files"
    assert len(set(read(spec, no_groups=True).group)) == N


def test_patients_of_dicom_also_join_the_groups_of_names(tmp_path):
    """video1 has P0 and P1, so both are one; the image of no patient and no video is alone."""
    given = {"video1/a": "P0", "video1/b": "P1", "c": "P1", "d": "P2", "e": "P2", "f": ""}
    rows = ["image,measure"]
    for number, (name, patient) in enumerate(given.items()):
        file = tmp_path / f"{name}.dcm"
        file.parent.mkdir(exist_ok=True)
        ct(file, density(number), PatientID=patient)
        rows.append(f"{name}.dcm,{number}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    images = read(f"csv:{tmp_path}/t.csv")
    group = {image.name[:-4]: of for image, of in zip(images.images, images.group, strict=True)}
    assert group["video1/a"] == group["video1/b"] == group["c"] != group["d"] == group["e"]
    assert group["f"] == "f.dcm" and len(set(images.group)) == 3
    assert images.facts["groups_by"] == "the names of images and the PatientID of DICOM files"
    alone = "1 of 6 images are in no group (the first is f.dcm), and each is its own"
    assert alone in images.facts["assumed"]
    by_name = read(f"csv:{tmp_path}/t.csv", group_from_name="(.)$").group
    assert set(by_name) == {"m"}


def test_one_patient_of_all_files_is_no_group(tmp_path):
    spec = table(tmp_path, lambda path, i: ct(path, density(i), PatientID="ANON"))
    images = read(spec)
    assert len(set(images.group)) == N
    assert "6 images state one PatientID" in images.facts["assumed"][-1]


def test_masks_of_another_space_are_skipped(tmp_path):
    """The same voxels in another order are fine, in another place they are not."""
    values = np.zeros((8, 9, 3), np.float32)
    values[2:5, 2:6] = 1
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    moved = np.diag([1.0, 1.0, 1.0, 1.0])
    moved[0, 3] = 4
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 7
    pairs = {"a": (values, np.eye(4)), "b": (values[::-1], flipped), "c": (values, moved)}
    for name, (mask, affine) in pairs.items():
        image = np.arange(216.0).reshape(8, 9, 3) + ord(name)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "images" / f"{name}.nii")
        nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "masks" / f"{name}.nii")
    images = read(f"masks:{tmp_path}", slice="2:1", intensity="full")
    np.testing.assert_allclose(images.measure, [12 / 72] * 2)
    assert skipped(images)["c.nii"].endswith("by their affines; resample it to the image")

"""What is asked for: measures, frames, subsets, a random part; and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from scalecut import Frame, Reading, make_image_set, read_images
from scalecut.data.images import image_facts
from scalecut.data.read import READERS, images_of
from tests.data.layouts import (
    CAT,
    DOG,
    SQUARE,
    add_voc,
    draw,
    names,
    read,
    said,
    skipped,
)


@pytest.mark.parametrize(
    ("measure", "value"),
    [("area", 0.25), ("sqrt-area", 0.5), ("log-area", -2), ("height", 0.5), ("pixels", 2500)],
)
def test_measure_is_the_one_asked_for(tmp_path, measure, value):
    images = read(add_voc(tmp_path, "1", DOG), measure=measure)
    assert (images.measure_name, images.measure[0]) == (measure, pytest.approx(value))


@pytest.mark.parametrize(
    ("frame", "area"),
    [
        (None, 1200 / 4800),
        (Frame(9, 9, "squash"), 1200 / 4800),
        (Frame(9, 9, "crop"), 38 * 30 / 3600),  # columns 10 to 70
        (Frame(9, 9, "pad"), 1200 / 6400),
    ],
)
def test_measure_follows_the_frame(tmp_path, frame, area):
    np.testing.assert_allclose(read(add_voc(tmp_path, "1", DOG), frame).measure, [area])


def test_table_is_read_by_its_specification(tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / "sizes.csv").write_text("image,measure,subset\na.jpg,17,x\n")
    images = read_images(f"csv:{tmp_path}/sizes.csv", reading=Reading(subset=("x",)))
    assert (images.measure[0], images.measure_name) == (17, "measure")


# --- a random part -------------------------------------------------------------------------------


def grouped(n=60):
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (n, 4, 4, 3)).astype(np.uint8))
    return make_image_set(pixels, np.arange(n) / n, group=[f"slide {i // 3}" for i in range(n)])


def test_random_part_has_whole_groups_and_is_stated():
    whole, seeds = grouped(), set()
    for seed in (0, 1):
        part, again = (images_of(whole, SQUARE, Reading(at_most=32), seed=seed) for _ in range(2))
        assert len(part) == 30  # ten groups of three; an eleventh would be too many
        assert all(part.group.count(group) == 3 for group in part.group)
        assert part.group == again.group
        assert list(part.measure) == sorted(part.measure)  # in their order
        seeds.add(part.group)
        assert skipped(part) == {}  # asked for
        assert image_facts(part)["drawn"] == {"n": 30, "of": 60, "seed": seed}
    assert len(seeds) == 2
    everything = images_of(whole, SQUARE, Reading(at_most=60))
    assert (len(everything), everything.left_out, everything.facts) == (60, (), {})


def test_images_are_drawn_equally_often():
    """Each group has the same chance: 400 draws of 10 of 20, within 4 standard errors."""
    whole, counts = grouped(), np.zeros(60)
    for seed in range(400):
        part = images_of(whole, SQUARE, Reading(at_most=30), seed=seed)
        counts[(60 * part.measure).round().astype(int)] += 1
    assert np.abs(counts / 400 - 0.5).max() < 4 * 0.5 / np.sqrt(400)


def test_subsets_too_small_are_skipped_unless_named():
    pixels = [np.full((2, 2, 3), i, np.uint8) for i in range(45)]
    many = make_image_set(pixels, np.arange(45), subset=["a"] * 40 + ["b"] * 5)
    kept = images_of(many, SQUARE, Reading())
    assert kept.subsets == ("a",)
    assert skipped(kept) == {"b": "5 images, fewer than the 20 needed for training and testing"}


# --- messages ------------------------------------------------------------------------------------


def few(n=30, measure=None, subset="a", group=None):
    pixels = [np.full((2, 2, 3), i, np.uint8) for i in range(n)]
    measure = np.arange(n) if measure is None else np.full(n, measure)
    return make_image_set(pixels, measure, subset=subset, group=group)


@pytest.mark.parametrize(
    ("images", "reading", "message"),
    [
        (few(19), {}, "Subset 'a' needs at least 20 images for training and testing, got 19. "
         "Add images, or choose other subsets."),
        (few(group=[i % 3 for i in range(30)]), {}, "Subset 'a' needs images of at least 4 groups, "
         "since groups are never split, but its 30 images have 3. Add images of more groups."),
        (few(measure=2), {}, "All 30 images of 'a' have the same measure, 2, so nothing can be "
         "regressed on it. Choose images whose objects differ in size."),
        (few(subset="mean"), {}, "A subset is named 'mean', which is reserved for the mean over "
         "subsets. Rename it."),
        (few(), {"subset": ("b",)}, "No subset is named 'b'. Give one or more of a."),
    ],
)  # fmt: skip
def test_set_that_cannot_be_probed_is_refused(images, reading, message):
    assert said(images_of, images, SQUARE, Reading(**reading)) == message


KINDS = (
    "The kinds are voc: a folder with Annotations and JPEGImages; coco: an instances file, JSON; "
    "csv: a table with image and measure; parquet: such a table as Parquet; tar: shards of images, "
    "each with a .json; masks: a folder with images and masks; yolo: a folder with images and "
    "labels, or with data.yaml; labelme: a folder with a JSON file per image; cvat: an XML file of "
    "CVAT for images; patches: a folder that `scalecut patches` wrote."
)


@pytest.mark.parametrize(
    ("spec", "reading", "message"),
    [
        ("photos", {}, "Data 'photos' is not of the form KIND:PATH. " + KINDS),
        ("vok:photos", {}, "Data 'vok:photos' is not of the form KIND:PATH. " + KINDS),
        ("voc:", {}, "Data 'voc:' is not of the form KIND:PATH. " + KINDS),
        ("voc:{}/none", {}, "There is no folder {}/none. Give voc: a folder with Annotations and "
         "JPEGImages."),
        ("coco:{}", {}, "There is no file {}. Give coco: an instances file, JSON."),
        ("csv:{}", {}, "There is no file {}. Give csv: a table with image and measure."),
        ("voc:{}", {}, "There is no XML file in {}. Give a folder with one per image."),
        ("masks:{}", {}, "{} has no folder masks (or labels). Give one with images and "
         "masks in it."),
        ("masks:{}/half", {}, "{}/half has no folder images. Give one with images and masks "
         "in it."),
        ("masks:{}/bare", {}, "There is no image in {}/bare/images. Give a folder with images "
         "in it."),
        ("voc:s3://bucket/a", {}, "'voc:s3://bucket/a' is an address, which only csv:, parquet:, "
         "tar: can be read from. Give one of these, or a local copy."),
        ("voc:{}", {"measure": "volume"}, "No measure is named 'volume'. Give one or more of "
         "area, sqrt-area, log-area, height, pixels, x, y, centre-distance, aspect, class."),
        ("voc:{}", {"at_most": -1}, "--at-most must be 0 (all images) or more, got -1."),
        ("voc:{}", {"images": "nowhere"}, "There is no folder nowhere. Give the one that holds the "
         "images."),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(tmp_path, spec, reading, message):
    for folder in ("half/masks", "bare/masks", "bare/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "t.csv").touch()
    assert said(read, spec.format(tmp_path), **reading) == message.replace("{}", str(tmp_path))


MEASURED = "voc:, coco:, masks:, yolo:, labelme:, cvat:"
# a value of each option that is none of all files, and what it has an effect on
EFFECTS = {
    "images": (".", "voc:, coco:, csv:, parquet:, masks:, yolo:, labelme:, cvat:"),
    "measure": ("height", MEASURED),
    "objects": ("mean", MEASURED),
    "boxes": (["xywh"], "voc:, coco:, yolo:, labelme:, cvat:"),
    "marks": ("masks", "coco:, masks:, yolo:, labelme:, cvat:"),
    "skip_truncated": (True, "voc:"),
    "skip_difficult": (True, "voc:"),
    "mask_kind": ("binary", "masks:"),
    "background": ("1", "masks:"),
    "group": ("patient", "csv:, parquet:, tar:"),
}
INSTEAD = {
    "measure": "; its own measure is used",
    "group": "; --group-from-name finds groups in names of images",
}


@pytest.mark.parametrize("option", EFFECTS)
@pytest.mark.parametrize("kind", [*READERS, "scenes", "an image set"])
def test_options_without_effect_are_refused(tmp_path, option, kind):
    value, able = EFFECTS[option]
    if f"{kind}:" in able or (kind, option) == ("scenes", "measure"):
        return
    is_folder = kind in READERS and READERS[kind].place == "folder"
    (tmp_path / "x").mkdir() if is_folder else (tmp_path / "x").touch()
    data = f"{kind}:{tmp_path}/x" if kind in READERS else kind if kind == "scenes" else few()
    what = f"{kind}: data" if kind in READERS else kind
    assert said(images_of, data, SQUARE, Reading(**{option: value})) == (
        f"--{option.replace('_', '-')} has no effect on {what}, only on {able} data. Omit it"
        f"{INSTEAD.get(option, '')}."
    )


def test_options_without_effect_may_have_their_default(tmp_path):
    images = read(add_voc(tmp_path, "1", DOG), boxes=[], channels=[], objects="single", group="")
    assert len(images) == 1
    assert said(images_of, few(), SQUARE, Reading(page=2)) == (
        "--page has no effect on an image set, only on voc:, coco:, csv:, parquet:, tar:, masks:, "
        "yolo:, labelme:, cvat:, patches: data. Omit it."
    )


def test_groups_larger_than_what_is_drawn_are_refused():
    whole = few(60, group=["a"] * 40 + [f"b{i}" for i in range(20)])
    for seed in range(5):
        assert said(images_of, whole, SQUARE, Reading(at_most=39), seed=seed) == (
            "--at-most 39 is less than the 40 images of the group 'a', and groups are drawn whole. "
            "Give 40 or more."
        )
        part = images_of(whole, SQUARE, Reading(at_most=40), seed=seed, enough=False)
        assert 0 < len(part) <= 40


def test_a_part_that_is_too_small_is_answered_by_the_option_that_drew_it():
    assert said(images_of, few(60), SQUARE, Reading(at_most=10)) == (
        "Subset 'a' needs at least 20 images for training and testing, got 10. Draw more than 10 "
        "of 60: --at-most."
    )
    whole = few(60, group=[number % 5 for number in range(60)])
    assert said(images_of, whole, SQUARE, Reading(at_most=24)) == (
        "Subset 'a' needs images of at least 4 groups, since groups are never split, but its 24 "
        "images have 2. Draw more than 24 of 60: --at-most."
    )


def test_pixels_of_no_frame_are_refused(tmp_path):
    assert said(read, add_voc(tmp_path, "1", DOG), None, measure="pixels") == (
        "Measure 'pixels' counts pixels of the network's input. Give a frame."
    )


def test_set_of_which_nothing_is_left_is_refused(tmp_path):
    spec = add_voc(tmp_path, "1", DOG, CAT)
    assert said(read, spec, subset=("cat", "cot")) == (
        f"{tmp_path} has no subset 'cot'. It has 2, the nearest first: 'cat', 'dog'."
    )
    add_voc(tmp_path, "1", DOG, ("dog", 0, 0, 8, 6), CAT)
    assert read(spec).subset == ("cat",)
    assert said(read, spec, subset=("cat", "dog")) == (
        f"{tmp_path} has no image of subset 'dog' with exactly one object that can be used. "
        "--objects largest or mean takes those with several. "
        "1 were skipped, the first is 1.jpg: it has 2 objects of dog, and --objects single takes "
        "one."
    )
    add_voc(tmp_path, "1", ("dog", 0, 0, 9, 60))
    assert said(read, spec, Frame(9, 9, "crop"), objects="largest") == (
        f"{tmp_path} has no image that can be used. 1 were skipped, the first is 1.jpg: its dog "
        "lies outside the part that the network is shown; --fit squash or pad shows all of it."
    )
    shutil.rmtree(tmp_path / "JPEGImages")
    assert said(read, spec) == (
        f"Nothing in {tmp_path} can be used. 1 were skipped, the first is Annotations/1.xml: "
        "there is no image named 1.jpg; add it, or give its folder."
    )


# --- real data -----------------------------------------------------------------------------------


@pytest.fixture
def real():
    folder = os.environ.get("SCALECUT_DATA")
    if not folder:
        pytest.skip("SCALECUT_DATA is unset, so there are no real photographs to read")
    return Path(folder)


@pytest.mark.data
def test_animals_have_the_documented_numbers_and_quartiles(real):
    images = read(f"voc:{real}/voc-animals", subset=("dog", "cat", "horse"))
    assert images.left_out == ()
    documented = {
        "cat": (430, [0.012, 0.32, 0.55, 0.76, 1.0]),
        "dog": (430, [0.005, 0.20, 0.45, 0.68, 1.0]),
        "horse": (314, [0.005, 0.22, 0.45, 0.63, 1.0]),
    }
    assert images.subsets == tuple(documented)
    for subset, (n, quartiles) in documented.items():
        measure = images.measure[np.array(images.subset) == subset]
        assert len(measure) == n
        found = np.quantile(measure, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(found, quartiles, atol=0.011)
    assert max(images.images[0].decode().size) == 400


@pytest.mark.data
def test_nuclei_have_the_mean_areas_of_their_table(real):
    lines = (real / "monuseg" / "images.csv").read_text().splitlines()[1:]
    areas = {line.split(",")[0] + ".jpg": float(line.split(",")[4]) for line in lines}
    images = read(f"masks:{real}/monuseg", Frame(1000, 1000), objects="mean", measure="pixels")
    assert len(images) == len(areas) == 44
    expected = [areas[name] for name in names(images)]
    np.testing.assert_allclose(images.measure, expected, rtol=1e-3)

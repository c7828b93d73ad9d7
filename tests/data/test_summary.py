"""What is said of data is what was planted in it; what a sheet shows lies where it was drawn."""

import base64
import html
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scalecut import DataError, Reading, describe_data, make_image_set, open_run
from scalecut.data import contact
from scalecut.data.images import LeftOut
from scalecut.data.read import images_of
from scalecut.data.summary import REASONS, summary_in, summary_of
from tests.data.layouts import CAT, DOG, SQUARE, add_mask, add_voc, draw, nuclei, read

MARK = np.array(PIL.ImageColor.getrgb(contact.MARK))


def headed(summary, heading):
    return [text for each, text in summary.lines() if each == heading]


@pytest.fixture
def deep(tmp_path):
    """A table of 24 images of 12 bits in six groups, and two images that are not there."""
    rng, rows = np.random.default_rng(0), []
    for number in range(26):
        if number < 24:
            values = rng.integers(0, 4096, (12, 12)).astype(np.uint16)
            values[0, :2] = 0, 4095
            PIL.Image.fromarray(values).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", (number + 1) / 32, "ab"[number % 2], f"p{number % 6}"))
    columns = ["image", "measure", "subset", "patient"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "t.csv", index=False)
    return f"csv:{tmp_path}/t.csv"


def test_what_is_said_is_what_was_planted(deep):
    summary = describe_data(deep, reading=Reading(group="patient"))
    assert headed(summary, "Images") == ["24 (a 12, b 12)"]
    missing = "there is no such file; check its name and folder (24.png, 25.png)"
    assert headed(summary, "Skipped") == [f"2: {missing}"]
    assert headed(summary, "Groups") == ["6, by the column patient"]
    assert headed(summary, "Pixels") == ["from 0 (black) to 4095 (white) (24 images)"]
    (assumed,) = headed(summary, "Assumed")
    assert assumed.startswith("16-bit values are shown from 0 (black) to 4095 (white)")
    assert headed(summary, "Masks") == headed(summary, "Drawn") == []
    assert summary.finding() == (
        "24 images of 2 subsets in 6 groups, measure from 0.0312 to 0.75; 2 skipped."
    )
    for row, start in zip(summary.targets.to_dict("records"), (1, 2), strict=True):
        expected = pd.Series(np.arange(start, 25, 2) / 32).describe()
        assert (row["images"], row["groups"]) == (12, 3)
        for name, other in (("25 %", "25%"), ("median", "50%"), ("75 %", "75%")):
            assert row[name] == pytest.approx(expected[other])
        assert (row["min"], row["max"]) == (expected["min"], expected["max"])
    assert summary.examples["image"].tolist()[::4] == ["0.png", "23.png"]
    assert summary.examples["measure"].is_monotonic_increasing and len(summary.examples) == 5
    assert summary.examples["group"].tolist()[0] == "p0"


def test_a_run_says_the_same_again(deep, tmp_path):
    summary = describe_data(deep, reading=Reading(group="patient", at_most=13))
    assert headed(summary, "Drawn") == ["12 of 24, with seed 0"]
    assert summary.n_images == 12
    folder = summary.save(tmp_path / "run", command="scalecut data")
    facts = json.loads((folder / "run.json").read_text())
    again = open_run(folder)
    for kept in (summary_in(facts), again):
        assert (kept.lines(), kept.finding()) == (summary.lines(), summary.finding())
        pd.testing.assert_frame_equal(kept.to_frame(), summary.to_frame())
    assert [each["name"] for each in facts["images_left_out"]][:2] == ["24.png", "25.png"]
    assert (folder / "figures" / "data.png").is_file()
    with pytest.raises(DataError, match=r"^This summary holds no images\. Make it with describe"):
        again.save(tmp_path / "other")
    assert summary_in({"images": {"n_images": 3}}) is summary_in({}) is None


def test_a_notebook_shows_the_sheet_and_what_was_understood_with_names_as_text(tmp_path):
    rows = [(f"<i>{n} & {n}.png", (n + 1) / 32, f"<b>{n % 2} & co") for n in range(40)]
    for number, (name, *_) in enumerate(rows[:-1]):
        PIL.Image.linear_gradient("L").rotate(9 * number).save(tmp_path / name)
    columns = ["image", "measure", "subset"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "t.csv", index=False)
    found = describe_data(f"csv:{tmp_path}/t.csv")
    page = found._repr_html_()
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)]
    assert [*zip(cells[::2], cells[1::2], strict=True)] == found.lines()
    assert any("<i>39 & 39.png" in text for _, text in found.lines())
    tags = set(re.findall(r"<(\w+)", page))
    assert tags == {"p", "b", "img", "table", "thead", "tbody", "tr", "th", "td"}
    (stored,) = re.findall(r'<img src="data:image/png;base64,(\S+)"', page)
    shown = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(stored))).convert("RGB"))
    sheet = contact.contact_sheet(found.image_set, contact.SMALL)
    np.testing.assert_allclose(shown, np.asarray(sheet), atol=16)
    again = summary_in({"images": {"understood": found.facts()}})
    assert again._repr_html_() == page.replace(page[page.index("<img") : page.index("<table")], "")


def test_reasons_that_differ_by_names_and_numbers_are_counted_together():
    items = [
        *(LeftOut(f"{n}.jpg", f"it has {n} objects, and one is taken") for n in range(2, 7)),
        *(LeftOut(f"{n}.jpg", f"its mask {n}.png cannot be used: it is torn") for n in (1, 2)),
        *(
            LeftOut("x.jpg", "".join(rng))
            for rng in ("abc", "bcd", "cde", "def", "efg", "fgh", "ghi")
        ),
    ]
    summary = summary_of(make_image_set([np.zeros((4, 4), np.uint8)], [0.5]), items)
    said = headed(summary, "Skipped")
    assert said[0] == "5: it has 2 objects, and one is taken (2.jpg, 3.jpg, 4.jpg, ...)"
    assert said[1] == "2: its mask 1.png cannot be used: it is torn (1.jpg, 2.jpg)"
    assert len(said) == REASONS + 1 and said[-1] == "1, for 1 other reason"
    assert headed(summary, "Pixels") == ["8 bits, as stored (1 image)"]
    assert headed(summary_of(summary.image_set), "Skipped") == ["none"]


def test_masks_and_copies_are_stated(tmp_path):
    for name in ("a", "b", "c"):
        spec = add_mask(tmp_path, name, nuclei())
    for name in ("b", "c"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(
            (tmp_path / "images" / "a.jpg").read_bytes()
        )
    summary = summary_of(read(spec, objects="mean", mask_kind="instances"))
    assert headed(summary, "Masks") == [
        "instances, so each value is an object; the background is 0"
    ]
    assert headed(summary, "Groups") == [
        "1, each image its own; 3 of the files read are identical to another, and share its group"
    ]


def test_a_background_that_is_a_colour_is_stated_as_one(tmp_path):
    colours = np.array([[68, 1, 84], [255, 255, 0]], np.uint8)
    spec = add_mask(tmp_path, "a", colours[(nuclei() == 2).astype(int)])
    (said,) = headed(summary_of(read(spec, background="68,1,84")), "Masks")
    assert said.endswith("the background is 68,1,84")


def test_what_is_said_of_copies_is_what_was_counted(tmp_path):
    """Of eight files, two pairs are equal, and one file has rows of two subsets."""
    for number in range(8):
        spec = add_voc(tmp_path, str(number), DOG, *[CAT] * (number == 7))
    for one, copy in ((0, 1), (2, 3)):
        shutil.copy(tmp_path / f"JPEGImages/{one}.jpg", tmp_path / f"JPEGImages/{copy}.jpg")
    summary = describe_data(spec)
    assert headed(summary, "Images") == [
        "9 (cat 1, dog 8), rows of 8 files: one can have several, such as one per subset"
    ]
    assert headed(summary, "Groups") == [
        "6, each image its own; 4 of the files read are identical to another, and share its group"
    ]
    given = make_image_set([tmp_path / "JPEGImages" / "5.jpg"] * 2, [1.0, 2.0], group=["a", "a"])
    assert headed(summary_of(given), "Images") == [
        "2 (images 2), rows of 1 files: one can have several, such as one per subset"
    ]


def marked(tile):
    """The rectangle of the pixels in the colour of marks."""
    down, across = np.nonzero((np.asarray(tile) == MARK).all(axis=2))
    return across.min(), down.min(), across.max() + 1, down.max() + 1


def test_a_sheet_shows_boxes_and_masks_where_they_are(tmp_path):
    of_boxes = read(add_voc(tmp_path / "voc", "a", DOG))
    of_masks = read(add_mask(tmp_path / "masks", "a", np.uint8(nuclei() == 200)))
    scale = contact.TILE / 80  # the longer side
    for found, box in ((of_boxes, DOG[1:]), (of_masks, (60, 45, 80, 60))):
        sheet = contact.contact_sheet(found)
        corner = contact.SPACE, contact.SPACE
        tile = sheet.crop((*corner, contact.SPACE + 320, contact.SPACE + 240))
        np.testing.assert_allclose(marked(tile), np.array(box) * scale, atol=1.5)


def test_a_sheet_shows_the_outlines_that_are_measured(tmp_path):
    """A pixel is in the tint of marks, or their colour, if its place in the image is inside."""
    corners = [(8, 6), (48, 6), (8, 36)]
    grey = PIL.Image.fromarray(np.tile(np.linspace(90, 150, 80).astype(np.uint8), (60, 1)))
    grey.save(tmp_path / "a.jpg", quality=100)
    shape = {"label": "dog", "points": corners, "shape_type": "polygon"}
    about = {"imagePath": "a.jpg", "imageWidth": 80, "imageHeight": 60, "shapes": [shape]}
    (tmp_path / "a.json").write_text(json.dumps(about))
    found = read(f"labelme:{tmp_path}", marks="masks")
    sheet = contact.contact_sheet(found, 80).crop((16, 16, 96, 76))
    pixels = np.asarray(sheet).astype(int)
    y, x = np.mgrid[0:60, 0:80] + 0.5
    inside = (x > 8) & (y > 6) & (3 * (x - 8) + 4 * (y - 6) < 120)
    np.testing.assert_array_equal(pixels[..., 0] > pixels[..., 2] + 20, inside)


def test_the_sheet_of_a_run_is_small_whatever_the_images(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (200, 200, 3)).astype(np.uint8) for _ in range(16)]
    found = make_image_set(noise, np.arange(16.0))
    contact.write_sheet(found, tmp_path, contact.SMALL)
    file = tmp_path / "figures" / contact.SHEET
    whole = np.asarray(contact.contact_sheet(found, contact.SMALL)).astype(float)
    kept = np.asarray(PIL.Image.open(file).convert("RGB")).astype(float)
    assert file.stat().st_size < 450_000 and kept.shape == whole.shape
    assert np.abs(kept - whole).mean() < 30  # of noise, which has every colour


def test_of_several_objects_all_that_are_measured_are_drawn(tmp_path):
    spec = add_voc(tmp_path, "a", DOG, ("dog", 60, 40, 70, 50), CAT)
    assert [len(each) for each in read(spec, objects="mean").marks] == [1, 2]  # cat, dog
    assert read(spec, objects="largest", subset=("dog",)).marks == ((tuple(map(float, DOG[1:])),),)


def test_a_sheet_says_which_image_cannot_be_read(tmp_path):
    for name in ("a", "b"):
        spec = add_voc(tmp_path, name, DOG)
    found = read(spec)
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    sheet = contact.contact_sheet(found)
    corner = contact.SPACE + 2, contact.SPACE + contact.TILE - 2
    assert sheet.getpixel(corner) == (230, 230, 230)


def test_strict_refuses_what_is_skipped_unless_an_option_asks_for_it(tmp_path):
    spec = add_voc(tmp_path, "a", DOG, flags="<truncated>1</truncated>")
    spec = add_voc(tmp_path, "b", CAT)
    assert len(read(spec, strict=True, skip_truncated=True).left_out) == 1
    add_voc(tmp_path, "c", DOG, ("dog", 0, 0, 8, 6))
    assert len(read(spec).left_out) == 1
    with pytest.raises(DataError, match=r"^c.jpg: it has 2 objects .* \(--strict skips nothing\)"):
        read(spec, strict=True)
    add_voc(tmp_path, "d", DOG, size=None)
    assert len(read(spec).facts["assumed"]) == 1
    with pytest.raises(DataError, match=r"^Assumed: 1 annotations do not state .*\(--strict ass"):
        read(spec, strict=True)


def test_strict_refuses_subsets_that_are_too_small(tmp_path):
    for number in range(24):
        draw(tmp_path / f"{number}.png")
    rows = [(f"{n}.png", n / 32, "a" if n < 21 else "b") for n in range(24)]
    table = pd.DataFrame(rows, columns=["image", "measure", "subset"])
    table.to_csv(tmp_path / "t.csv", index=False)

    assert images_of(f"csv:{tmp_path}/t.csv", SQUARE, Reading()).subsets == ("a",)
    with pytest.raises(DataError, match=r"^Subset 'b' needs at least 20 images"):
        images_of(f"csv:{tmp_path}/t.csv", SQUARE, Reading(strict=True))


@pytest.mark.parametrize(("background", "side"), [("", "above"), ("255", "up to")])
def test_the_marked_side_of_grey_masks_is_said(tmp_path, background, side):
    mask = np.full((60, 80), 255 if background else 0, np.uint8)
    mask[20:40, 30:50] = 255 - mask[0, 0]
    spec = add_mask(tmp_path, "1", mask, suffix=".jpg")
    summary = describe_data(spec, reading=Reading(background=background))
    assert summary.image_set.measure[0] == pytest.approx(400 / 4800, rel=0.05)
    (masks,) = headed(summary, "Masks")
    assert re.search(rf"; values {side} 12\d(\.5)? are marked$", masks)

"""Files of folders: what is hidden, linked, elsewhere or without a partner is stated."""

import numpy as np
import pytest

from scalecut.data.files import Files
from scalecut.data.read import columns_of_numbers
from tests.data.layouts import (
    CAT,
    EDGE,
    HIGH,
    WIDE,
    add_coco,
    add_mask,
    add_voc,
    coco_parts,
    draw,
    names,
    nuclei,
    read,
    skipped,
    xml,
)


def stated(images):
    return images.facts.get("stated", [])


def test_copies_of_editors_and_systems_are_no_images(tmp_path):
    spec = add_mask(tmp_path, "a", nuclei())
    for folder in (".ipynb_checkpoints", "__MACOSX"):
        add_mask(tmp_path, f"{folder}/a", nuclei())
    (tmp_path / "images" / "._a.jpg").write_bytes(b"\0\5\x16\7")
    images = read(spec, objects="mean")
    assert (names(images), images.left_out) == (["a.jpg"], ())
    assert stated(images) == [
        "3 hidden images (the first is ._a.jpg) are not read",
        "2 hidden masks (the first is .ipynb_checkpoints/a.png) are not read",
    ]


def test_links_are_followed_or_listed(tmp_path):
    add_voc(tmp_path, "a", EDGE)
    spec = add_voc(tmp_path, "gone", EDGE)
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    draw(tmp_path / "elsewhere" / "inner" / "b.jpg")
    pictures = tmp_path / "JPEGImages"
    (pictures / "linked").symlink_to(tmp_path / "elsewhere")
    (pictures / "gone.jpg").unlink()
    (pictures / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    add_voc(tmp_path, "b", CAT, image=False)
    images = read(spec)
    assert sorted(names(images)) == ["a.jpg", "linked/inner/b.jpg"]
    assert skipped(images)["gone.jpg"] == "it is a link to a file that is not there; fix it"


def test_a_loop_of_links_ends(tmp_path):
    draw(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    assert [path.name for path in Files(tmp_path).paths] == ["a.jpg"]


def test_an_image_that_is_claimed_by_its_path_is_not_found_by_its_name(tmp_path):
    """Two videos are annotated, and the frames of the second are here."""
    parts = coco_parts()
    parts["images"] = [
        {"id": id_, "file_name": f"video{video}/1.jpg", "width": WIDE, "height": HIGH}
        for id_, video in ((7, 1), (8, 2))
    ]
    spec = add_coco(tmp_path, parts)
    draw(tmp_path / "annotations" / "video2" / "1.jpg")
    images = read(spec)
    np.testing.assert_allclose(images.measure, [0.1, 0.1])
    assert set(names(images)) == {"video2/1.jpg"}
    assert skipped(images) == {"video1/1.jpg": "there is no image named 1.jpg; add it, or give "
                               "its folder"}  # fmt: skip
    assert "folders" not in str(images.facts)
    assert stated(images)[0].endswith(" have no annotation")


@pytest.mark.parametrize(("folder", "n"), [("v1", 0), ("v2", 1), ("set/v1", 0), ("", 0)])
def test_an_image_in_another_folder_than_its_annotation_is_stated(tmp_path, folder, n):
    draw(tmp_path / "JPEGImages" / folder / "a.jpg")
    note = tmp_path / "Annotations" / "v1" / "a.xml"
    note.parent.mkdir(parents=True)
    note.write_text(xml(EDGE, filename="a.jpg"))
    images = read(f"voc:{tmp_path}")
    np.testing.assert_allclose(images.measure, 0.25)
    text = (
        f"1 images are in another folder than is stated for them (the first is {folder}/a.jpg, for "
        "Annotations/v1/a.xml)"
    )
    assert images.facts.get("assumed", []) == [text] * n


def test_images_without_annotation_are_counted(tmp_path):
    spec = add_voc(tmp_path, "a", EDGE)
    for name in "bc":
        draw(tmp_path / "JPEGImages" / f"{name}.jpg")
    assert stated(read(spec)) == [f"2 images of {tmp_path}/JPEGImages have no annotation"]


@pytest.mark.parametrize("more", ["a_mask_1", "a_1", "a (2)", "a_label-3"])
def test_an_image_with_several_masks_is_skipped(tmp_path, more):
    spec = add_mask(tmp_path, "b", nuclei())
    add_mask(tmp_path, "a", nuclei())
    add_mask(tmp_path, more, nuclei())
    (tmp_path / "images" / f"{more}.jpg").unlink()
    images = read(spec, objects="mean")
    assert names(images) == ["b.jpg"]
    assert skipped(images) == {
        "a.jpg": f"it has several masks, a.png and {more}.png; join them to one, with a number for "
        "each object"
    }


COMPOSED, DECOMPOSED = "Gr\u00f6\u00dfe", "Gro\u0308\u00dfe"


def test_subsets_are_compared_as_unicode_composes_them(tmp_path):
    """As file systems and the systems that wrote parts of a COCO file differ in it."""
    one = (nuclei() == 2).astype(np.uint8)
    spec = add_mask(tmp_path / "cells", f"{DECOMPOSED}/a", one)
    for asked in (COMPOSED, DECOMPOSED):
        images = read(spec, subset=(asked,))
        assert names(images) == [f"{DECOMPOSED}/a.jpg"] and images.subset == (COMPOSED,)
    parts = coco_parts()
    parts["categories"] = [{"id": 17, "name": COMPOSED}, {"id": 18, "name": DECOMPOSED}]
    merged = read(add_coco(tmp_path / "merged", parts), objects="largest")
    assert (names(merged), merged.subset) == (["a.jpg", "b.jpg"], (COMPOSED,) * 2)
    assert merged.marks[0] == (tuple(map(float, (10, 20, 50, 32))),)


def test_classes_and_subsets_of_tables_are_compared_as_unicode_composes_them(tmp_path):
    lines = ["image,grade,subset,age"]
    for number, name in enumerate((COMPOSED, DECOMPOSED)):
        draw(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{name},{name},{number}")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    images = read(f"csv:{tmp_path}/t.csv", target=("grade",))
    assert (images.classes, set(images.subset)) == ((COMPOSED,), {COMPOSED})
    columns = columns_of_numbers(f"csv:{tmp_path}/t.csv", images)
    np.testing.assert_array_equal(columns["age"], [0, 1])

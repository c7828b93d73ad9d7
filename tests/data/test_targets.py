"""Columns of tables, several measures and the class of the object, as targets of images."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scalecut import Reading, describe_data, make_image_set
from scalecut.data.concepts import of_box
from scalecut.data.images import image_facts, target_of
from scalecut.data.read import images_of
from scalecut.data.sample import TOGETHER
from scalecut.data.summary import summary_in
from tests.data.layouts import CAT, DOG, HIGH, SQUARE, WIDE, add_voc, draw, names, read, said

COLUMNS = {
    "grade": ["low", "high", "", "low"],
    "age": ["50", "NA", "61.5", "nan"],
    "isup": ["1", "2", "10", "2.0"],
    "flag": ["True", "False", "True", "False"],
}


def table(folder, columns=None, **more):
    columns = {**(columns or COLUMNS), **more}
    n = len(next(iter(columns.values())))
    files = [f"{number:02}.jpg" for number in range(n)]
    for name in files:
        draw(folder / name)
    pd.DataFrame({"image": files, **columns}).to_csv(folder / "t.csv", index=False)
    return f"csv:{folder}/t.csv"


def test_columns_are_numbers_or_classes_and_missing_cells_are_counted(tmp_path):
    images = read(table(tmp_path), target=("grade", "age", "isup", "flag"), as_class=("isup",))
    grade, age, isup, flag = images.targets
    assert [each.name for each in images.targets] == ["grade", "age", "isup", "flag"]
    assert grade.classes == ("high", "low") and not age.classes
    assert isup.classes == ("1", "2", "10")  # in the order of numbers, 2.0 is 2
    assert flag.classes == ("False", "True")
    np.testing.assert_array_equal(grade.values, [1, 0, np.nan, 1])
    np.testing.assert_array_equal(age.values, [50, np.nan, 61.5, np.nan])
    np.testing.assert_array_equal(isup.values, [0, 1, 2, 1])
    assert images.facts["stated"] == [
        "grade is missing in 1 of 4 rows (1 empty)",
        "age is missing in 2 of 4 rows (1 NA, 1 nan)",
    ]
    part = images.of("age")
    assert names(part) == ["00.jpg", "02.jpg"] and part.measure_name == "age"
    assert not part.more and not part.classes


def test_parquet_holds_targets_as_csv_does(tmp_path):
    table(tmp_path)
    frame = pd.DataFrame({"image": [f"{n:02}.jpg" for n in range(4)], "age": [50, None, 61.5, 2.0]})
    frame["ok"] = [True, False, None, True]
    frame.to_parquet(tmp_path / "t.parquet")
    age, ok = read(f"parquet:{tmp_path}/t.parquet", target=("age", "ok")).targets
    np.testing.assert_array_equal(age.values, [50, np.nan, 61.5, 2])
    assert ok.classes == ("False", "True")
    np.testing.assert_array_equal(ok.values, [1, 0, np.nan, 1])


def test_images_without_any_target_are_left_out(tmp_path):
    spec = table(tmp_path, {"grade": ["low", "", "high"], "age": ["1", "", ""]})
    assert names(read(spec, target=("grade", "age"))) == ["00.jpg", "02.jpg"]


def test_a_number_that_could_be_a_label_is_pointed_out(tmp_path):
    images = read(table(tmp_path, {"flag": ["0", "1", "1"]}), target=("flag",))
    assert images.facts["stated"] == [
        "flag is 0 or 1 and is regressed; --as-class flag classifies it"
    ]
    codes = ["2", "1", "3", "1", "2", "3"]
    images = read(table(tmp_path, {"stage": codes}), target=("stage",))
    assert images.facts["stated"] == [
        "stage is 1, 2 or 3 and is regressed; --as-class stage classifies it"
    ]
    whole = [str(number) for number in range(6)]
    assert "stated" not in read(table(tmp_path, {"age": whole}), target=("age",)).facts
    letters = read(table(tmp_path, {"t": ["3a", "3b", "4"] * 2}), target=("t",), as_class=("t",))
    assert letters.classes == ("3a", "3b", "4")


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["1000000000001", "1000000000002", "1000000000001.0"], ["1000000000001", "1000000000002"]),
        (["9007199254740993", "9007199254740992"], ["9007199254740992", "9007199254740993"]),
        (["1", "1.0", "1e0", "01", "-0", "0"], ["0", "1"]),
        (["0.5", "0.50", "1.0000000000001", "1.0000000000002"],
         ["0.5", "1.0000000000001", "1.0000000000002"]),
    ],
)  # fmt: skip
def test_codes_are_classes_by_their_value_to_the_last_digit(tmp_path, cells, classes):
    images = read(table(tmp_path, {"code": cells}), target=("code",), as_class=("code",))
    assert sorted(images.classes) == classes


@pytest.mark.parametrize(
    ("column", "reading", "message"),
    [
        (
            ["1", "2", "3+4"],
            {"target": ("grade",)},
            "{}: the column 'grade' holds numbers and text, such as '1' and '3+4'. Give --as-class "
            "grade to classify it, or empty the cells of one kind.",
        ),
        (
            ["0,5", "1,25", "0,5"],
            {"target": ("grade",)},
            "{}: the column 'grade' reads as numbers that are written as text, such as '0,5'. "
            "Write them as 0.5 to regress them, or give --as-class grade.",
        ),
        (
            ["3 mm", "4 mm", "3 mm"],
            {"target": ("grade",)},
            "{}: the column 'grade' reads as numbers that are written as text, such as '3 mm'. "
            "Write them as 0.5 to regress them, or give --as-class grade.",
        ),
        (
            ["Low", "high", "low"],
            {"target": ("grade",), "as_class": ("grade",)},
            "{}: the column 'grade' has 'Low' and 'low', which may be one class or two. Spell them "
            "alike, or so that they differ in more than case and spaces.",
        ),
        (
            ["", "NA", ""],
            {"target": ("grade",)},
            "{}: the column 'grade' is empty. Choose another --target.",
        ),
        (
            ["1", "2", "3"],
            {"target": ("grad",)},
            "{} has no column 'grad'; its columns are 'image', 'grade'. Give image and grad, "
            "optionally group and subset.",
        ),
        (
            ["1", "2", "3"],
            {"as_class": ("grade",)},
            "--as-class names 'grade', which is no --target. Give --target grade too.",
        ),
    ],
)
def test_columns_that_are_no_target_are_refused(tmp_path, column, reading, message):
    spec = table(tmp_path, {"grade": column})
    assert said(read, spec, **reading) == message.format(spec.removeprefix("csv:"))


def test_columns_of_a_table_are_no_targets_of_boxes(tmp_path):
    spec = add_voc(tmp_path, "a", DOG)
    assert said(read, spec, target=("grade",)) == (
        "--target has no effect on voc: data, only on csv:, parquet:, patches: data. Omit it."
    )


# --- objects -------------------------------------------------------------------------------------


def animals(folder, n=6):
    """Images of a dog, of a cat, and one of both."""
    for number in range(n):
        kind = (DOG, CAT)[number % 2]
        draw(folder / "JPEGImages" / f"{number:02}.jpg")
        add_voc(folder, f"{number:02}", kind)
    draw(folder / "JPEGImages" / "both.jpg")
    return add_voc(folder, "both", DOG, CAT)


def test_measures_of_an_object_are_the_concepts_of_its_box(tmp_path):
    spec = animals(tmp_path)
    images = read(spec, measure="area,height,x,y,aspect,centre-distance", subset=("dog",))
    found = {target.name: target.values for target in images.targets}
    expected = of_box(tuple(map(float, DOG[1:])), SQUARE.window(WIDE, HIGH))
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], err_msg=name)
    alone = read(spec, measure="aspect", subset=("dog",))
    np.testing.assert_array_equal(alone.measure, found["aspect"])


def test_class_of_the_object_is_a_target_of_all_images_together(tmp_path):
    images = read(animals(tmp_path), measure="class,area")
    area, kind = images.targets  # numbers come first
    assert (area.name, kind.name, kind.classes) == ("area", "class", ("cat", "dog"))
    part = images.of("class")
    assert part.subsets == (TOGETHER,) and len(part) == 6  # without the image of both
    assert [part.classes[int(number)] for number in part.measure] == [
        "dog" if int(name[:2]) % 2 == 0 else "cat" for name in names(part)
    ]
    assert images.of("area").subsets == ("cat", "dog") and len(images.of("area")) == 8
    assert images.facts["stated"] == [
        "1 images have objects of several of the classes (the first is both.jpg), so they count "
        "for no class"
    ]
    alone = read(animals(tmp_path), measure="class")
    assert alone.subsets == (TOGETHER,) and names(alone) == names(part)
    only_dogs = read(animals(tmp_path), measure="area,class", subset=("dog",))
    assert len(only_dogs.of("class")) == 4  # what is not chosen does not count


def test_classes_of_too_few_images_are_left_out_like_subsets():
    n, kinds = 64, ["dog"] * 30 + ["cat"] * 30 + ["cow"] * 4
    images = make_image_set([np.zeros((8, 8, 3), np.uint8)] * n, np.arange(n), subset=kinds)
    images = images.asked([*images.targets, target_of("class", kinds, TOGETHER)])
    kept = images_of(images, SQUARE, Reading(), several=True)
    assert kept.subsets == ("dog", "cat") and kept.more[0].classes == ("cat", "dog")
    assert [(each.name, each.reason) for each in kept.left_out] == [
        (
            "cow",
            f"4 images with {what}, fewer than the 20 needed for training and testing",
        )
        for what in ("measure", "class")
    ]


def test_small_classes_count_where_they_are_named():
    kinds = ["dog"] * 30 + ["cow"] * 8
    images = make_image_set([np.zeros((8, 8, 3), np.uint8)] * 38, np.arange(38), subset="x")
    images = images.asked([target_of("class", kinds, TOGETHER)])
    named = Reading(subset=(TOGETHER,))
    assert images_of(images, SQUARE, named, several=True).classes == ("cow", "dog")
    assert said(images_of, images, SQUARE, Reading(), several=True).startswith(
        "All 30 images of 'all classes' are of the class 'dog' of 'class'"
    )


def test_a_target_that_a_subset_lacks_is_probed_on_the_others():
    n, kinds = 60, ["a"] * 30 + ["b"] * 30
    images = make_image_set([np.zeros((8, 8, 3), np.uint8)] * n, np.arange(n), subset=kinds)
    age = [np.nan] * 25 + [float(number) for number in range(35)]
    images = images.asked([*images.targets, target_of("age", age)])
    kept = images_of(images, SQUARE, Reading(), several=True)
    assert kept.of("measure").subsets == ("a", "b") and kept.of("age").subsets == ("b",)


def test_other_commands_take_one_number(tmp_path):
    spec = animals(tmp_path)
    asked = Reading(measure="area,class")
    assert said(images_of, spec, SQUARE, asked, enough=False) == (
        "Only `scalecut probe` takes several targets, or classes, and these are area, class. Give "
        "one --measure or --target that is a number."
    )


def test_what_is_said_of_the_data_names_every_target(tmp_path):
    images = read(table(tmp_path), target=("age", "grade"))
    summary = describe_data(replace(images, facts={}))
    assert summary.measure == "age, grade"
    assert summary.finding().endswith("age from 50 to 61.5, 2 classes of grade; none skipped.")
    assert ("Classes", "of grade: high 1, low 2") in summary.lines()
    assert summary.targets.target.tolist() == ["age"]
    facts = image_facts(images)
    assert facts["measure"] == "age, grade"
    other = replace(images, more=(replace(images.more[0], classes=("high", "lower")),))
    assert image_facts(other)["sha256"] != facts["sha256"]
    grade = describe_data(images.of("grade"))
    assert grade.finding().endswith("2 classes of grade; none skipped.")
    assert len(summary_in({"images": {"understood": grade.facts()}}).summary()) == 1
    assert len(grade.summary()) == 1 and set(grade.examples["measure"]) == {"high", "low"}

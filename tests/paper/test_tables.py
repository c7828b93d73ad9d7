"""The tables told as Markdown: every cell is read back and compared with what it was made of."""

import math
import re

import pandas as pd
import pytest

from scalecut.paper.claims import COLUMNS as CLAIM_COLUMNS
from scalecut.paper.claims import claims
from scalecut.paper.numbers import (
    COLUMNS,
    INCEPTION,
    INCOMPARABLE,
    MISPRINT,
    NETWORKS,
    NOT_REPRODUCED,
    REPRODUCED,
    RESNET,
    SECTIONS,
    STAND_IN,
    WITH_MATCHED_BLUR,
    Found,
    numbers_of,
)
from scalecut.paper.tables import NOTES, OF_FOUND, finding, markdown
from scalecut.report.paper import HEADINGS, number, rows_of
from tests.paper.test_numbers import curve

NUMBERS = ["paper", "ours_as_paper", "ours", "ours_low", "ours_high"]


def table_of(*marks):
    """A row for each (network, mark)."""
    rows = [
        {**dict.fromkeys(COLUMNS, ""), **dict.fromkeys(NUMBERS, math.nan), "section": "A.2",
         "network": network, "mark": mark}
        for network, mark in marks
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def claims_of(*marks):
    said = {**dict.fromkeys(CLAIM_COLUMNS, "said"), "network": INCEPTION}
    rows = [{**said, "mark": mark} for mark in marks]
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))


def cells(line):
    """The cells of a line of a table; a bar that is text is escaped."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text):
    """Heading, and the lines of the table below it."""
    found = {}
    for part in text.split("\n## ")[1:]:
        heading, *lines = part.splitlines()
        found[heading] = [cells(line) for line in lines if line.startswith("|")]
    return found


def value(shown):
    return float(shown.replace("−", "-").replace(",", "")) if shown else math.nan


@pytest.fixture(scope="module")
def whole():
    found = Found(curves={network: curve(network) for network in NETWORKS})
    return numbers_of(found), claims(found)


# --- the sentence --------------------------------------------------------------------------------


def test_sentence_counts_what_can_be_compared_by_network_and_claims_that_can_be_judged():
    table = table_of(
        *[(INCEPTION, REPRODUCED)] * 3, (INCEPTION, NOT_REPRODUCED), (INCEPTION, INCOMPARABLE),
        (RESNET, NOT_REPRODUCED), (RESNET, REPRODUCED), (STAND_IN, INCOMPARABLE), ("", MISPRINT),
    )  # fmt: skip
    table["paper"] = [0.5, -3.0, 0.0, -1.0, 0.5, 0.5, 0.7, 0.5, 0.5]
    judged = pd.concat([
        claims_of(REPRODUCED, NOT_REPRODUCED, INCOMPARABLE, MISPRINT, "holds"),
        claims_of(REPRODUCED, REPRODUCED, NOT_REPRODUCED).assign(network=STAND_IN),
    ])  # fmt: skip
    assert finding(table, judged) == (
        "Of 6 R² of the paper that can be compared, 4 are reproduced by its own method (3 of 4 of "
        "inception_v3, 1 of 2 of resnet50_v1): of those above 0 there, 2 of 3 lie within 0.2; "
        "of the others, 2 of 3 are not above 0 here either. Its claims hold in 1 of 2 cases of its "
        "own architectures, and in 2 of 3 of tf_efficientnet_lite0, which it does not have."
    )


def test_sentence_does_not_count_a_control_of_ours_among_the_papers_claims():
    ours = claims_of(NOT_REPRODUCED).assign(claim=f"Cut, it is better{WITH_MATCHED_BLUR}")
    judged = pd.concat([claims_of(REPRODUCED), ours])
    assert "hold in 1 of 1 cases of its own" in finding(table_of((INCEPTION, REPRODUCED)), judged)


def test_sentence_says_what_to_give_where_nothing_can_be_compared():
    table = table_of((INCEPTION, INCOMPARABLE), ("", MISPRINT))
    assert finding(table, claims_of(REPRODUCED, NOT_REPRODUCED)) == (
        "None of the paper's numbers can be compared here: give --data a folder with annotated "
        "images and weights. Its claims hold in 1 of 2 cases of its own architectures, and in "
        "0 of 0 of tf_efficientnet_lite0, which it does not have."
    )


def test_sentence_agrees_with_the_marks_of_the_whole_table(whole):
    table, judged = whole
    n, n_reproduced, *held_of = map(int, re.findall(
        r"Of (\d+) R² .* compared, (\d+) are .* in (\d+) of (\d+) cases .* in (\d+) of (\d+) of",
        finding(table, judged))[0])  # fmt: skip
    n_hold, n_judged = sum(held_of[::2]), sum(held_of[1::2])
    marks = table["mark"][table.section == "A.2"].tolist()  # the peak stands twice in the paper
    held = judged["mark"].tolist()
    assert n_reproduced == marks.count(REPRODUCED)
    assert n == n_reproduced + marks.count(NOT_REPRODUCED)
    assert n_hold == held.count(REPRODUCED)
    assert n_judged == n_hold + held.count(NOT_REPRODUCED)


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0.8449, "0.84"), (-0.72, "−0.72"), (0.0, "0.00"), (1.0, "1.00"), (-1.0, "−1.00"),
        (-2.0, "−2"), (94.0, "94"), (99.994, "99.99"), (100.4, "100"), (-3868.722, "−3,869"),
        (11638.0, "11,638"), (math.nan, ""),
    ],
)  # fmt: skip
def test_number_has_two_decimals_and_none_where_there_are_many_digits(given, shown):
    assert number(given) == shown


@pytest.mark.parametrize("given", [-0.0, -0.004])
def test_zero_has_no_sign(given):
    assert number(given) == "0.00"


# --- tables --------------------------------------------------------------------------------------


def test_printed_numbers_are_shown_with_the_digits_that_were_printed(whole):
    table, judged = whole
    shown = [
        row[HEADINGS.index("paper")]
        for section, title in SECTIONS.items()
        for row in tables(markdown(table, judged)).get(f"{section}: {title}", [])[2:]
    ]
    expected = table.paper.tolist()
    assert len(shown) == len(expected)
    assert [value(cell) for cell in shown] == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_every_row_stands_in_its_section_with_its_own_cells(whole):
    table, judged = whole
    found = tables(markdown(table, judged))
    there = [section for section in SECTIONS if (table.section == section).any()]
    assert list(found) == ["Claims", OF_FOUND, *(f"{each}: {SECTIONS[each]}" for each in there)]
    for section in there:
        headings, rule, *lines = found[f"{section}: {SECTIONS[section]}"]
        assert headings == list(HEADINGS)
        assert set(rule) == {"---"}
        rows = table[table.section == section]
        for line, row in zip(lines, rows.itertuples(), strict=True):
            assert line[:3] == [row.network, row.item, row.quantity]
            assert line[6:] == [row.mark, row.why]
            assert line[4] == number(row.ours_as_paper)
            inside = [cell.strip("[],") for cell in line[5].split()]
            expected = [v for v in (row.ours, row.ours_low, row.ours_high) if not math.isnan(v)]
            assert inside == [number(each) for each in expected]


def test_claims_come_first_and_whole(whole):
    table, judged = whole
    text = markdown(table, judged)
    title, said, claims, _ = text.split("\n\n", 3)
    assert (title, claims) == ("# The paper next to ours", "## Claims")
    assert " ".join(said.splitlines()) == finding(table, judged)
    headings, _, *lines = tables(text)[OF_FOUND]
    assert headings == list(CLAIM_COLUMNS)
    assert lines == judged.to_numpy().tolist()
    (_, *networks), _, *rows = tables(text)["Claims"]
    marks = [
        (claim, network, mark)
        for claim, *line in rows
        for network, mark in zip(networks, line, strict=True)
        if mark != "–"
    ]
    named = judged[judged.network != ""].itertuples()
    expected = [(f"{row.claim} ({row.where})", row.network, row.mark) for row in named]
    assert sorted(marks) == sorted(expected)
    assert [claim for claim, *_ in rows] == list(dict.fromkeys(claim for claim, *_ in expected))


def test_sections_say_what_is_compared_with_what(whole):
    assert set(NOTES) == set(SECTIONS)
    for part in markdown(*whole).split("\n## ")[3:]:
        note = NOTES[part.split(":")[0]]
        *said, rows = part.rstrip().split("\n\n")[1:]
        assert " ".join(" ".join(said).splitlines()) == note
        assert max(map(len, "".join(said).splitlines()), default=0) <= 120
        assert rows.startswith("|")


def test_bar_in_a_text_is_no_end_of_its_cell():
    table = table_of((INCEPTION, INCOMPARABLE)).assign(why="no folder 'a|b'", item="x|y")
    line = tables(markdown(table, claims_of(REPRODUCED)))["A.2: R² by layer"][2]
    assert len(line) == len(HEADINGS)
    assert (line[1], line[7]) == ("x|y", "no folder 'a|b'")


def test_interval_is_shown_with_its_number_and_sorted_by_it():
    rows = rows_of(
        table_of((INCEPTION, REPRODUCED)).assign(
            paper=0.845, ours_as_paper=0.8, ours=0.84, ours_low=-0.1, ours_high=1.0
        )
    )
    cell = rows[0][HEADINGS.index("ours")]
    assert (cell[0].replace("\N{NO-BREAK SPACE}", " "), cell[1]) == ("0.84 [−0.10, 1.00]", 0.84)
    row = rows_of(table_of((INCEPTION, REPRODUCED)).assign(ours=0.84, ours_as_paper=523.0))[0]
    assert row[4:6] == (("523", 523.0), ("0.84", 0.84))  # as in Markdown

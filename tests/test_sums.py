"""Sums that add up to the bit, and scores from them beside those of the features themselves."""

import errno
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

from scalecut.errors import DataError, OutputError
from scalecut.regression import FARTHEST, PENALTIES
from scalecut.sums import (
    CELLS,
    EXACT,
    Scale,
    Sums,
    add,
    cell_of,
    cross_validated,
    empty,
    jackknife,
    load,
    merge,
    save,
    scale_of,
)

FEW = np.array([1e-2, 1.0, 1e2, 1e4])


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


def planted(rng, n, d, t=2, noise=1.0, spectrum=0.5):
    """Features whose deviations differ, and targets of which each knows some more than noise."""
    mixed = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -spectrum @ rng.normal(size=(d, d))
    features = (mixed + 5 * rng.normal(size=d)).astype(np.float32)
    weights = rng.normal(size=(d, t)) / mixed.std(axis=0)[:, None] / np.sqrt(d)
    return features, features @ weights + noise * rng.normal(size=(n, t))


def summed(features, targets, cells, n_cells=CELLS, scale=None):
    scale = scale or scale_of(features, targets, len(features))
    return add(empty(scale, n_cells), features, targets, cells)


def by_hand(features, targets, cells, penalties, least=0.0):
    """R² of nested leave-one-cell-out from the features, one fit after the other."""
    features, names = features.astype(np.float64), np.unique(cells)
    lost_of = functools.partial(squares_lost, features, least * features.std(axis=0))
    found = {"ridge": [], "ols": []}
    for y in targets.T:
        residual, plain, total = 0.0, 0.0, 0.0
        for cell in names:
            out, errors = cells == cell, []
            for penalty in penalties:
                lost = 0.0
                for other in names[names != cell]:
                    inner = cells == other
                    lost += lost_of(y, ~out & ~inner, inner, Ridge(penalty))
                errors.append(lost)
            best = penalties[int(np.argmin(errors))]
            residual += lost_of(y, ~out, out, Ridge(best))
            plain += lost_of(y, ~out, out, LinearRegression())
            total += np.sum((y[out] - y[out].mean()) ** 2)
        found["ridge"].append(1 - residual / total)
        found["ols"].append(1 - plain / total)
    return found


def squares_lost(features, least, y, fitted, held_out, model):
    """Squared errors with features standardised by the part to fit, by no less than `least`."""
    scaler = StandardScaler().fit(features[fitted])
    scaler.scale_ = np.maximum(scaler.scale_, least)
    model.fit(scaler.transform(features[fitted]), y[fitted])
    return np.sum((y[held_out] - model.predict(scaler.transform(features[held_out]))) ** 2)


# --- the same as with features kept --------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "d", "t", "n_cells"),
    [(200, 7, 3, 10), (90, 30, 2, 5), (40, 60, 2, 4), (30, 29, 1, 4), (61, 60, 1, 3)],
)
def test_scores_are_those_of_the_features_themselves(rng, n, d, t, n_cells):
    features, targets = planted(rng, n, d, t)
    cells = rng.permuted(np.resize(np.arange(n_cells), n))
    found = cross_validated(summed(features, targets, cells), FEW)
    expected = by_hand(features, targets, cells, FEW)
    np.testing.assert_allclose(found.ridge.r2, expected["ridge"], atol=1e-6)
    if n - np.bincount(cells).max() > d:
        np.testing.assert_allclose(found.ols.r2, expected["ols"], atol=1e-6)
    else:
        assert np.isnan(found.ols.r2).all()


def test_scores_with_cells_of_very_different_size_are_those_of_the_features_themselves(rng):
    features, targets = planted(rng, 130, 6)
    cells = np.repeat([1, 4, 5, 9], [1, 2, 27, 100])  # the others are empty
    found = cross_validated(summed(features, targets, cells), FEW)
    # few images that are alike count as asleep
    expected = by_hand(features, targets, cells, FEW, least=0.5)
    np.testing.assert_allclose(found.ridge.r2, expected["ridge"], atol=1e-6)
    assert found.is_used.nonzero()[0].tolist() == [1, 4, 5, 9]
    assert (found.n_images, found.n_fit) == (130, round(130 * 3 / 4))


def test_scores_with_the_usual_penalties_are_those_of_the_features_themselves(rng):
    features, targets = planted(rng, 120, 20, t=1, noise=0.1, spectrum=2.0)
    cells = rng.integers(4, size=120)
    found = cross_validated(summed(features, targets, cells))
    np.testing.assert_allclose(
        found.ridge.r2, by_hand(features, targets, cells, PENALTIES)["ridge"], atol=1e-6
    )
    assert np.isin(found.ridge.penalties[:4], PENALTIES).all()


@pytest.mark.parametrize("n", [60, 30])
def test_channel_that_wakes_in_one_cell_alone_and_one_that_never_does_are_no_trouble(rng, n):
    features, targets = planted(rng, n, 40, t=1)
    cells = np.resize(np.arange(4), n)
    features[:, 3], features[:, 4] = 0.5, np.where(cells == 2, features[:, 4], 0)
    found = cross_validated(summed(features, targets, cells), FEW)
    scale = scale_of(features, targets, n)
    close = np.clip((features - scale.centre[:-1]) / scale.deviation[:-1], -FARTHEST, FARTHEST)
    np.testing.assert_allclose(
        found.ridge.r2, by_hand(close, targets, cells, FEW, least=0.5)["ridge"], atol=1e-6
    )


def test_image_that_wakes_a_sleeping_channel_does_not_spoil_the_score(rng):
    features, targets = planted(rng, 200, 5, t=1, noise=0.5)
    cells = np.resize(np.arange(10), 200)
    sleeping = 1e-6 * rng.normal(size=(200, 3)).astype(np.float32)
    sleeping[[7, 50, 99], [0, 1, 2]] = 1.0
    without, with_them = (
        cross_validated(summed(each, targets, cells)).ridge.r2
        for each in (features, np.hstack([features, sleeping]))
    )
    np.testing.assert_allclose(with_them, without, atol=0.05)


def test_least_squares_of_copied_channels_is_that_of_one(rng):
    features, targets = planted(rng, 100, 4, t=1)
    cells = np.resize(np.arange(5), 100)
    once, twice = (
        cross_validated(summed(each, targets, cells)).ols.r2
        for each in (features, np.hstack([features, features]))
    )
    np.testing.assert_allclose(once, twice, atol=1e-6)


def test_each_target_is_scored_as_if_it_were_alone(rng):
    features, targets = planted(rng, 80, 9, t=3)
    targets[:, 1] *= 1e-6
    cells = np.resize(np.arange(6), 80)
    together = cross_validated(summed(features, targets, cells))
    for number in range(3):
        alone = cross_validated(summed(features, targets[:, [number]], cells))
        np.testing.assert_allclose(together.ridge.r2[number], alone.ridge.r2[0], atol=1e-12)


def test_noise_is_told_from_nothing_and_a_plain_sum_from_everything(rng):
    features = rng.normal(size=(600, 8))
    targets = np.stack([features.sum(axis=1), rng.normal(size=600)], axis=1)
    found = cross_validated(summed(features, targets, np.resize(np.arange(10), 600)))
    assert found.ridge.r2[0] > 1 - 1e-6
    assert -0.05 < found.ridge.r2[1] < 0.02
    assert found.ridge.penalties[:, 1].min() > 10 * found.ridge.penalties[:, 0].max()


def test_scores_do_not_depend_on_threads(rng):
    features, targets = planted(rng, 90, 12)
    sums = summed(features, targets, np.resize(np.arange(6), 90))
    with ThreadPoolExecutor(3) as workers:
        threaded = cross_validated(sums, each=workers.map)
    assert np.array_equal(threaded.ridge.residual, cross_validated(sums).ridge.residual)


# --- sums ----------------------------------------------------------------------------------------


def test_sums_in_any_order_and_any_shards_are_the_same_bits(rng):
    features, targets = planted(rng, 300, 11)
    features *= rng.lognormal(sigma=2, size=(300, 1)).astype(np.float32)
    cells = rng.integers(CELLS, size=300)
    scale = scale_of(features[:50], targets[:50], 300)
    at_once = summed(features, targets, cells, scale=scale)
    order = rng.permutation(300)
    for n_shards in (2, 7, 300):
        shards = [
            summed(features[rows], targets[rows], cells[rows], scale=scale)
            for rows in np.array_split(order, n_shards)
        ]
        left = functools.reduce(merge, shards)
        right = functools.reduce(lambda a, b: merge(b, a), reversed(shards))
        assert np.array_equal(left.packed, at_once.packed)
        assert np.array_equal(right.packed, at_once.packed)


def test_sums_are_those_of_whole_numbers(rng):
    features, targets = planted(rng, 40, 3, t=1)
    cells = rng.integers(2, size=40)
    sums = summed(features, targets, cells, n_cells=2)
    scale = sums.scale
    steps = np.rint(
        2.0**scale.bits * (np.hstack([features, targets]) - scale.centre) / scale.deviation
    )
    for cell in range(2):
        rows = [[1 << scale.bits, *map(int, row)] for row in steps[cells == cell]]
        exact = [
            sum(row[i] * row[j] for row in rows) for j in range(5) for i in range(j + 1)
        ]  # the upper triangle column by column
        assert [int(value * 4**scale.bits) for value in sums.packed[cell]] == exact


def test_largest_sums_that_pass_are_exact_in_their_last_step():
    scale = Scale(np.zeros(2), np.ones(2), 1, bits=20)
    most = int(EXACT * 4.0**-20)  # images of one deviation
    packed = np.zeros((1, 6))
    packed[0, [0, 2, 5]] = most - 2
    almost = Sums(scale, packed)
    step = 2.0**-20
    one_more = add(almost, np.full((1, 1), step), np.ones((1, 1)), np.zeros(1, int))
    assert one_more.packed[0, 2] - almost.packed[0, 2] == step**2


def test_sums_beyond_what_is_exact_are_refused(rng):
    features, targets = planted(rng, 60, 3, t=1)
    scale = scale_of(features, targets, 2)
    with pytest.raises(DataError) as error:
        summed(features, targets, np.zeros(60, int), scale=scale)
    assert str(error.value) == (
        "The sums of 60 images are 7.5 times as large as adds up without rounding: "
        "they are more, or vary more, than the pilot let expect. Take the pilot from all kinds of "
        "images, and the number of images from all of them."
    )
    half = summed(features[:5], targets[:5], np.zeros(5, int), scale=scale)
    with pytest.raises(DataError, match=r"The sums of 1\d images are"):
        functools.reduce(merge, [half] * 4)


def test_sums_of_two_pilots_do_not_add_up(rng):
    features, targets = planted(rng, 50, 3)
    cells = np.zeros(50, int)
    one = summed(features, targets, cells)
    other = summed(features, targets, cells, scale=scale_of(features[:40], targets[:40], 50))
    with pytest.raises(DataError) as error:
        merge(one, other)
    assert str(error.value) == (
        "Sums of 50 and of 50 images lie on different grids, but only those of one grid add up. "
        "Take both from the same pilot."
    )


def test_grid_is_the_finest_that_stays_exact_with_four_times_the_variance():
    features, targets = np.zeros((4, 2)), np.zeros((4, 1))
    for n in (1, 1_000, 10**6, 10**8):
        bits = scale_of(features, targets, n).bits
        assert 4 * n * 4.0**bits <= EXACT < 16 * n * 4.0**bits


def test_constant_channel_keeps_its_unit_and_far_values_count_as_ten_deviations(rng):
    pilot, targets = np.array([[1.0, 2.0], [1.0, 4.0]]), np.zeros((2, 1))
    scale = scale_of(pilot, targets, 10**4)
    assert scale.deviation.tolist() == [1.0, 1.0, 1.0]
    sums = add(empty(scale, 1), np.array([[1.25, 99.0]]), np.full((1, 1), 99.0), np.zeros(1, int))
    first_row = sums.packed[0, [0, 1, 3, 6]]  # of a triangle that stands column by column
    assert first_row.tolist() == [1.0, 0.25, FARTHEST, 99.0]


def test_group_is_in_one_cell_and_cells_are_filled_evenly():
    names = [f"patient {number}" for number in range(5000)]
    cells = np.array([cell_of(name, 0) for name in names])
    assert cells.tolist() == [cell_of(name, 0) for name in names]
    assert cells.min() == 0 and cells.max() == CELLS - 1
    assert np.abs(np.bincount(cells) - 500).max() < 5 * np.sqrt(450)
    other = np.array([cell_of(name, 1) for name in names])
    assert abs(np.mean(other == cells) - 0.1) < 0.03


# --- intervals -----------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_the_interval_of_students_t(rng):
    values = rng.normal(size=10)
    without_each = (values.sum() - values) / 9
    low, high = jackknife(-5 + values.mean(), -5 + without_each)
    reach = student.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    np.testing.assert_allclose([low, high], -5 + values.mean() + np.array([-reach, reach]))


def test_interval_ends_at_one():
    assert jackknife(0.99, np.array([0.9, 0.99, 1.0]))[1] == 1.0


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_intervals_hold_what_the_fits_reach_on_endless_images(share):
    """Four features that tell a known share of the variance; closed form of what is expected."""
    rng, n, d, n_simulations, inside = np.random.default_rng(0), 500, 4, 200, 0
    noise = np.sqrt((1 - share) / share)
    lost = (1 - share) * (1 + (d + 1) / (0.9 * n)) / (1 - CELLS / n)
    for _ in range(n_simulations):
        features = rng.normal(size=(n, d))
        targets = (features.sum(axis=1) / np.sqrt(d) + noise * rng.normal(size=n))[:, None]
        cells = rng.integers(CELLS, size=n)
        folds = cross_validated(summed(features, targets, cells), np.ones(1)).ridge
        low, high = jackknife(folds.r2[0], folds.replicates[:, 0])
        inside += low <= 1 - lost <= high
    assert 0.88 <= inside / n_simulations <= 0.99


def test_replicates_leave_out_one_cell_each(rng):
    features, targets = planted(rng, 80, 5)
    folds = cross_validated(summed(features, targets, np.resize(np.arange(5), 80))).ridge
    for cell in range(5):
        rest = np.arange(CELLS) != cell
        without = 1 - folds.residual[rest].sum(axis=0) / folds.total[rest].sum(axis=0)
        np.testing.assert_allclose(folds.replicates[cell], without)
    np.testing.assert_allclose(folds.replicates[7], folds.r2)  # an empty cell


# --- files ---------------------------------------------------------------------------------------


def test_what_was_kept_is_read_back_to_the_last_bit(rng, tmp_path):
    features, targets = planted(rng, 50, 4)
    sums = summed(features, targets, rng.integers(CELLS, size=50))
    place = tmp_path / "new" / "sums.npz"
    save(place, {("cat", "a/b"): sums, ("mean", ""): empty(sums.scale)}, {"shards": [0, 2]})
    read, about = load(place)
    assert about == {"shards": [0, 2]}
    assert list(read) == [("cat", "a/b"), ("mean", "")]
    kept = read["cat", "a/b"]
    assert np.array_equal(kept.packed, sums.packed)
    assert np.array_equal(merge(kept, sums).packed, 2 * sums.packed)  # on the same grid
    assert [path.name for path in place.parent.iterdir()] == ["sums.npz"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "newer", "other"])
def test_file_that_is_not_whole_is_refused_with_the_remedy(rng, tmp_path, monkeypatch, harm):
    features, targets = planted(rng, 50, 4)
    place = tmp_path / "sums.npz"
    if harm == "newer":
        monkeypatch.setattr("scalecut.sums.FORMAT", 2)
    save(place, {("cat", "a"): summed(features, targets, np.zeros(50, int))}, {})
    monkeypatch.undo()
    content = bytearray(place.read_bytes())
    if harm == "flipped":
        content[len(content) // 2] ^= 1
    cases = {"cut": content[: len(content) // 2], "other": b"nothing of ours"}
    place.write_bytes(bytes(cases.get(harm, content)))
    with pytest.raises(DataError) as error:
        load(place)
    said = str(error.value)
    assert said.startswith(f"The sums in {str(place)!r} cannot be read (")
    assert said.endswith("). Delete the file; the same command then begins anew.")


def test_full_disk_leaves_the_earlier_file_and_nothing_else(rng, tmp_path, monkeypatch):
    place = tmp_path / "sums.npz"
    save(place, {}, {"shards": [0]})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError) as error:
        save(place, {}, {"shards": [0, 1]})
    assert str(error.value) == (
        f"The sums cannot be kept in {str(tmp_path)!r} (No space left on device). Free space, or "
        "set SCALECUT_CACHE to another folder; the same command goes on from what was kept."
    )
    assert load(place)[1] == {"shards": [0]}
    assert [path.name for path in tmp_path.iterdir()] == ["sums.npz"]


# --- refusals ------------------------------------------------------------------------------------


def test_too_few_cells_are_refused_with_the_remedy(rng):
    features, targets = planted(rng, 50, 4)
    with pytest.raises(DataError) as error:
        cross_validated(summed(features, targets, np.resize([2, 5], 50)))
    assert str(error.value) == (
        "The groups of 50 images fall into 2 of 10 cells, but 3 are needed to fit, to choose and "
        "to test. Give images of more groups."
    )


def test_measure_that_hardly_varies_is_refused_with_the_remedy(rng):
    features, _ = planted(rng, 50, 4)
    cells = np.resize(np.arange(5), 50)
    targets = np.where(cells == 0, rng.normal(size=50), 0.3)[:, None]
    with pytest.raises(DataError) as error:
        cross_validated(summed(features, targets, cells))
    assert str(error.value) == (
        "The measure of 50 images varies inside 1 of 5 cells, but 2 are needed for R² and its "
        "interval. Give more images whose objects differ in size."
    )

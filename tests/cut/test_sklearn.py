"""Features of a cut network are those computed by hand, for every kind of image."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from PIL.Image import Resampling
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted
from timm.data import create_transform as timm_transform
from timm.data import resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from scalecut import (
    CutFeatures,
    DataError,
    ModelError,
    Preprocessing,
    create_transform,
    cut_after,
    load_network,
    save_cut,
)
from scalecut.cut import folder as cut_folder
from scalecut.cut.sklearn import features_table, images_in
from scalecut.networks.network import with_preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 32, 40
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RGB = Preprocessing(HEIGHT, WIDTH, MEAN, STD, "bicubic")
BGR = Preprocessing(HEIGHT, WIDTH, MEAN, STD, "bilinear", channels="bgr")


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """No test sees features of another, nor of the user."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that is only read."""
    whole = load_network("test_resnet", weights="random", preprocessing=RGB)
    made = tmp_path_factory.mktemp("cut") / "short"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_folder, "reloaded_from", lambda *_: {})  # which takes seconds
        save_cut(cut_after(whole, "layer2.0"), made, whole)
    return made


def network(preprocessing=RGB, head=0):
    """A cut of two layers, in evaluation mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
    whole = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return cut_after(load_network(whole, preprocessing=preprocessing), "3", head=head)


def smooth(rng, height, width):
    """An image of slow waves, on which resampling methods agree."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(5 * (a * x + b * y + c)) for a, b, c in rng.uniform(-1, 1, (3, 3))]
    return np.uint8(127 + 120 * np.stack(waves, axis=-1))


def arrays(n=5):
    rng = np.random.default_rng(0)
    return [smooth(rng, *rng.integers(30, 90, 2)) for _ in range(n)]


def saved(images, place=Path("tiles")):
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{number:02}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        PIL.Image.fromarray(image).save(path)
    return paths


def prepared(image, preprocessing=RGB):
    """The input of the network by hand: resized, then (x / 255 - mean) / std."""
    resample = {"bicubic": Resampling.BICUBIC, "bilinear": Resampling.BILINEAR}
    shown = PIL.Image.fromarray(image).resize(
        (WIDTH, HEIGHT), resample[preprocessing.interpolation]
    )
    return ((np.asarray(shown) / 255 - MEAN) / STD).transpose(2, 0, 1)


def by_hand(cut, images):
    inputs = [create_transform(cut)(PIL.Image.fromarray(image)) for image in images]
    with torch.no_grad():
        return cut.eval()(torch.stack(inputs)).numpy()


# --- scikit-learn --------------------------------------------------------------------------------


def test_paths_arrays_and_pil_images_give_the_same_features():
    cut, images = network(), arrays()
    paths = saved(images)
    found = CutFeatures(cut).transform(images)
    assert found.shape == (5, 4)
    assert found.dtype == np.float32
    for same in (
        paths,
        [str(path) for path in paths],
        np.array([str(path) for path in paths]),
        [PIL.Image.open(path) for path in paths],
        [PIL.Image.fromarray(image) for image in images],
    ):
        assert np.array_equal(CutFeatures(cut).transform(same), found)


def test_features_are_those_of_the_cut_after_its_transform():
    images = arrays()
    for preprocessing in (RGB, BGR):
        cut = network(preprocessing)
        found = CutFeatures(cut).fit(images).transform(images)
        np.testing.assert_allclose(found, by_hand(cut, images), atol=1e-6)


def test_features_of_a_folder_are_those_of_its_network(folder):
    images = arrays(3)
    whole = load_network("test_resnet", weights="random", preprocessing=RGB)
    expected = by_hand(cut_after(whole, "layer2.0"), images)
    for place in (folder, str(folder)):
        found = CutFeatures(place, batch_size=2).transform(images)
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_grey_and_transparent_images_are_converted_to_rgb():
    grey = arrays(1)[0][..., 0]
    opacity = np.full_like(grey, 255)
    opacity[:9], opacity[9:10] = 0, 128  # a border that is transparent, and softened
    clear = np.dstack([arrays(1)[0], opacity])
    share = opacity[..., None] / 255
    on_white = np.uint8(np.round(clear[..., :3] * share + 255 * (1 - share)))
    cut = network()
    expected = by_hand(cut, [np.dstack([grey] * 3), on_white])
    images = [PIL.Image.fromarray(grey), PIL.Image.fromarray(clear)]
    paths = saved([grey, clear])
    for found in (
        CutFeatures(cut).transform([grey, on_white]),
        CutFeatures(cut).transform(paths),
        cut(torch.stack([create_transform(cut)(each) for each in images])).detach().numpy(),
    ):
        np.testing.assert_allclose(found, expected, atol=3e-3)  # white is rounded by Pillow


def test_fit_is_as_asked():
    tall = np.zeros((90, 40, 3), np.uint8)
    tall[25:65] = 255  # the middle 40 rows, about the area of a crop
    white = np.full((32, 40, 3), 255, np.uint8)
    cut = network()
    of = {
        fit: CutFeatures(cut, fit_to=fit).transform([tall])[0] for fit in ("squash", "crop", "pad")
    }
    whole = CutFeatures(cut).transform([white])[0]
    assert np.abs(of["crop"] - whole).max() < 1e-6
    for one, other in (("squash", "crop"), ("squash", "pad"), ("crop", "pad")):
        assert np.abs(of[one] - of[other]).max() > 1e-3


def test_given_network_is_unchanged_and_its_head_is_ignored():
    cut = network(head=3).train()
    before = copy.deepcopy(cut.state_dict())
    found = CutFeatures(cut).transform(arrays(2))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found, by_hand(network(), arrays(2)), atol=1e-6)
    assert cut.training
    assert (cut.num_classes, type(cut.head)) == (3, nn.Linear)
    assert all(torch.equal(tensor, before[name]) for name, tensor in cut.state_dict().items())


def squares(n=24, side=64):
    """White squares on black, and their share of the image area."""
    rng = np.random.default_rng(0)
    images, shares = [], []
    for edge in rng.integers(8, 48, n):
        image = np.zeros((side, side, 3), np.uint8)
        top, left = rng.integers(0, side - edge, 2)
        image[top : top + edge, left : left + edge] = 255
        images.append(image)
        shares.append((edge / side) ** 2)
    return images, np.array(shares)


def test_features_in_a_pipeline_predict_the_area_of_squares():
    images, shares = squares()
    paths = [str(path) for path in saved(images)]
    pipeline = make_pipeline(CutFeatures(network()), Ridge(1e-3))
    scores = cross_val_score(pipeline, paths, shares, cv=3)
    ready = by_hand(network(), images)
    np.testing.assert_allclose(scores, cross_val_score(Ridge(1e-3), ready, shares, cv=3), atol=1e-4)
    assert scores.min() > 0.8


def test_settings_can_be_cloned_set_and_searched(folder):
    features = CutFeatures(folder, fit_to="crop", batch_size=7)
    again = clone(features)
    assert again is not features
    assert again.get_params() == {
        "network": folder,
        "fit_to": "crop",
        "precision": "float32",
        "device": "auto",
        "batch_size": 7,
    }
    image = arrays(1)
    squashed = CutFeatures(folder).transform(image)
    assert not np.allclose(again.transform(image), squashed)
    assert np.array_equal(again.set_params(fit_to="squash").transform(image), squashed)
    images, shares = squares(8)
    pipeline = make_pipeline(CutFeatures(network()), Ridge())
    choices = {"cutfeatures__fit_to": ["squash", "pad"]}
    found = GridSearchCV(pipeline, choices, cv=2).fit(images, shares)
    assert found.predict(images).shape == (8,)
    cut = network()
    again = clone(CutFeatures(cut))
    assert again.network is not cut
    assert np.array_equal(again.transform(arrays(1)), CutFeatures(cut).transform(arrays(1)))


def test_columns_are_named_for_tables(folder):
    features = CutFeatures(folder)
    check_is_fitted(features)
    names = features.get_feature_names_out().tolist()
    found = features.transform(arrays(2))
    assert names == [f"f{column}" for column in range(found.shape[1])]
    assert features.get_feature_names_out(["image"]).tolist() == names
    table = features.set_output(transform="pandas").transform(arrays(2))
    pd.testing.assert_frame_equal(table, pd.DataFrame(found, columns=names))


# --- scikit-learn's own checks -------------------------------------------------------------------


ROWS = "it transforms rows of floating-point numbers, which are no images"
NOT_FOR_IMAGES = {
    "check_fit_score_takes_y": ROWS,
    "check_estimators_dtypes": ROWS,
    "check_pipeline_consistency": ROWS,
    "check_estimators_pickle": ROWS,
    "check_f_contiguous_array_estimator": ROWS,
    "check_transformer_general": ROWS,
    "check_transformers_unfitted_stateless": ROWS,
    "check_methods_sample_order_invariance": ROWS,
    "check_methods_subset_invariance": ROWS,
    "check_dict_unchanged": ROWS,
    "check_fit_idempotent": ROWS,
    "check_estimator_sparse_tag": "`fit` does not use its input",
}


class OfRows(CutFeatures):
    """Shows each row of numbers as an image, so that the checks on rows apply as well."""

    def transform(self, X):
        rows = np.asarray(X, dtype=np.float64)
        return super().transform(np.uint8(127 + 60 * np.tanh(row[:, None] * row)) for row in rows)


def outcomes(estimator, expected):
    """The names of scikit-learn's checks, by what came of them."""
    found = {}
    for result in check_estimator(
        estimator, expected_failed_checks=expected, on_skip=None, on_fail=None
    ):
        found.setdefault(result["status"], set()).add(result["check_name"])
    return found


@pytest.mark.long
def test_checks_of_scikit_learn_pass_where_they_apply_to_images(folder):
    found = outcomes(CutFeatures(folder), NOT_FOR_IMAGES)
    assert "failed" not in found
    assert found["xfail"] == set(NOT_FOR_IMAGES)
    assert {"check_estimators_overwrite_params", "check_set_params"} < found["passed"]
    of_rows = {name: why for name, why in NOT_FOR_IMAGES.items() if why != ROWS}
    found = outcomes(OfRows(folder), of_rows)
    assert "failed" not in found
    assert found["passed"] > set(NOT_FOR_IMAGES) - set(of_rows)


# --- images and settings that cannot be used -----------------------------------------------------


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_messages():
    paths = saved(arrays(4))
    for path in paths[1:3]:
        truncated(path)
    Path("notes.png").write_text("no image")
    Path("empty").mkdir()
    no_image = (
        "Give image files, or a folder with files named .bmp, .jpeg, .jpg, .png, .tif, .tiff, "
        ".webp."
    )
    refused = [
        (
            DataError,
            lambda: CutFeatures(network()).transform([*arrays(2), "gone.png"]),
            "gone.png: there is no such file",
        ),
        (
            DataError,
            lambda: CutFeatures(network()).transform(["notes.png"]),
            "notes.png: this is not an image that can be read",
        ),
        (
            DataError,
            lambda: CutFeatures(network()).transform([*arrays(2), np.zeros((5, 6, 3))]),
            "image 2 is an array of float64 and shape (5, 6, 3). Give uint8 of shape (height, ",
        ),
        (
            DataError,
            lambda: CutFeatures(network()).transform(paths),
            "2 of 4 images cannot be read, the first is tiles/01.png (it is truncated or broken (",
        ),
        (
            DataError,
            lambda: CutFeatures(network()).transform([]),
            "None of 0 images could be read (there are none).",
        ),
        (
            DataError,
            lambda: CutFeatures(network(), batch_size=0).transform(arrays(1)),
            "--batch-size must be at least 1, got 0.",
        ),
        (
            ModelError,
            lambda: CutFeatures(network(), device="abacus").transform(arrays(1)),
            "No device is named 'abacus'.",
        ),
        (
            DataError,
            lambda: images_in([Path("tiles"), Path("gone")]),
            f"There is no image at 'gone'. {no_image}",
        ),
        (
            DataError,
            lambda: images_in([Path("empty")]),
            f"There is no image at 'empty'. {no_image}",
        ),
    ]
    for kind, call, text in refused:
        with pytest.raises(kind) as error:
            call()
        assert str(error.value).startswith(text)
        assert "\n" not in str(error.value)


class Tokens(nn.Module):
    """A transformer with two tokens before the patches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 2, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.block(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1))
        return self.fc(x.mean(1))


def test_cuts_that_pool_in_another_way_have_other_features_in_the_cache(monkeypatch):
    """Also where their mean outputs agree to three digits, as the cache compares them."""
    monkeypatch.setattr("scalecut.features.extract._fingerprint", lambda _: [])
    paths, module = saved(arrays(3)), Tokens().eval()
    for n_prefix, pooling in ((1, "mean"), (2, "mean"), (2, "cls"), (2, "both")):
        whole = load_network(module, preprocessing=RGB)
        whole = with_preprocessing(whole, prefix_tokens=n_prefix)
        cut = cut_after(whole, "block", pooling=pooling).eval()
        transform = create_transform(cut)
        with torch.no_grad():
            expected = cut(torch.stack([transform(PIL.Image.open(path)) for path in paths]))
        np.testing.assert_allclose(CutFeatures(cut).transform(paths), expected, atol=1e-5)


# --- a table of features -------------------------------------------------------------------------


def test_table_has_one_row_per_image_that_can_be_read():
    paths = saved(arrays(4))
    truncated(paths[1])
    table, (left_out,) = features_table(CutFeatures(network()), images_in([Path("tiles")]))
    assert left_out.name == "tiles/01.png"
    assert list(table) == ["image", "f0", "f1", "f2", "f3"]
    kept = [paths[number] for number in (0, 2, 3)]
    assert table.image.tolist() == [str(path) for path in kept]
    expected = CutFeatures(network()).transform(kept)
    assert np.array_equal(table[["f0", "f1", "f2", "f3"]].to_numpy(), expected)


def test_reasons_name_no_option_of_other_commands():
    (path,) = saved(arrays(1))
    path.unlink()
    deep = path.with_suffix(".tif")
    PIL.Image.fromarray(np.arange(25, dtype=np.uint16).reshape(5, 5)).save(deep)
    with pytest.raises(DataError) as error:
        features_table(CutFeatures(network()), images_in([Path("tiles")]))
    assert "--" not in str(error.value)
    assert "white; save it with 8 bits, grey or RGB). Check the folder" in str(error.value)
    saved(arrays(1))
    _, (left_out,) = features_table(CutFeatures(network()), images_in([Path("tiles")]))
    assert left_out.name == str(deep)
    assert left_out.reason.endswith("what is black and white; save it with 8 bits, grey or RGB")


def test_images_are_found_by_their_suffix_in_subfolders():
    for name in ("b/2.JPG", "a.tiff", "b/1.png", "b/notes.txt", "b/c.png/3.webp"):
        Path("tiles", name).parent.mkdir(parents=True, exist_ok=True)
        Path("tiles", name).touch()
    Path("scan.raw").touch()
    found = images_in([Path("tiles"), Path("scan.raw")])
    names = ["a.tiff", "b/1.png", "b/2.JPG", "b/c.png/3.webp"]
    assert [image.name for image in found] == [*(f"tiles/{name}" for name in names), "scan.raw"]
    assert [str(image.source) for image in found] == [image.name for image in found]


# --- training loops ------------------------------------------------------------------------------


def test_transform_resizes_and_normalises():
    for image in arrays():
        found = create_transform(network())(PIL.Image.fromarray(image))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, prepared(image), atol=1e-6)
        found = create_transform(network(BGR))(PIL.Image.fromarray(image))
        np.testing.assert_allclose(found, prepared(image, BGR)[::-1], atol=1e-6)


def test_transform_is_that_of_timm_and_of_a_folder(folder):
    cut = network()
    theirs = timm_transform(**resolve_model_data_config(cut))
    for image in map(PIL.Image.fromarray, arrays()):
        found = create_transform(cut)(image)
        assert (found - theirs(image)).abs().max() < 1e-5
        for place in (folder, str(folder)):  # of the same preprocessing
            assert torch.equal(create_transform(place)(image), found)
    assert "Squash(32 x 40)" in repr(create_transform(cut))
    assert "Tensor(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))" in repr(create_transform(cut))


def test_image_is_rotated_by_its_exif_orientation():
    upright = arrays(1)[0]
    stored = PIL.Image.fromarray(np.rot90(upright))
    stored.getexif()[0x0112] = 6  # to be rotated clockwise
    stored.save("turned.png", exif=stored.getexif())
    cut = network()
    with PIL.Image.open("turned.png") as turned:
        found = create_transform(cut)(turned)
    assert torch.equal(found, create_transform(cut)(PIL.Image.fromarray(upright)))
    assert np.array_equal(*(CutFeatures(cut).transform([x]) for x in ("turned.png", upright)))


def test_evaluation_is_deterministic():
    image, plain = PIL.Image.fromarray(arrays(1)[0]), create_transform(network())
    before = torch.get_rng_state()
    assert torch.equal(plain(image), plain(image))
    assert torch.equal(torch.get_rng_state(), before)


def shown_in_training(preprocessing=RGB, n=50):
    """A white rectangle, augmented n times: its mask, and the augmented images."""
    image = np.zeros((4 * HEIGHT, 4 * WIDTH, 3), np.uint8)
    image[4 * 3 : 4 * 13, 4 * 5 : 4 * 17] = (250, 230, 200)
    changed = create_transform(network(preprocessing), is_training=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([changed(PIL.Image.fromarray(image)) for _ in range(n)])
    assert drawn.shape == (n, 3, HEIGHT, WIDTH)
    level = drawn.mean(dim=1)
    low, high = level.amin((1, 2), keepdim=True), level.amax((1, 2), keepdim=True)
    return level > (low + high) / 2, drawn


def test_training_flips_and_changes_colours_but_never_the_size_of_an_object():
    masks, drawn = shown_in_training()
    assert masks.sum((1, 2)).tolist() == [10 * 12] * 50
    assert masks.any(2).sum(1).tolist() == [10] * 50
    assert masks.any(1).sum(1).tolist() == [12] * 50
    corners = {(mask.any(1).float().argmax().item(), mask.any(0).float().argmax().item())
               for mask in masks}  # fmt: skip
    assert corners == {(y, x) for y in (3, HEIGHT - 13) for x in (5, WIDTH - 17)}
    inside = [each[:, mask].mean(1) for each, mask in zip(drawn, masks, strict=True)]
    assert (torch.stack(inside).std(0) > 0.05).all()


def test_transform_is_pickled_and_trains_a_head():
    for kind in ("cat", "dog"):
        saved(arrays(3), Path("tiles") / kind)
    cut = network(head=2).train()
    changed = create_transform(cut, is_training=True)
    assert repr(pickle.loads(pickle.dumps(changed))) == repr(changed)
    images, kinds = next(iter(DataLoader(ImageFolder("tiles", changed), batch_size=6)))
    nn.functional.cross_entropy(cut(images), kinds).backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_hidden_copies_are_no_images_and_links_are_followed():
    for name in ("tiles/a.png", "tiles/.ipynb_checkpoints/a-checkpoint.png", "tiles/._a.png",
                 "elsewhere/b.png"):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(name)
    Path("tiles/linked").symlink_to(Path("elsewhere").absolute())
    Path("tiles/gone.png").symlink_to("nowhere.png")
    found = images_in([Path("tiles")])
    assert [image.name for image in found] == [
        "tiles/a.png",
        "tiles/gone.png",
        "tiles/linked/b.png",
    ]
    table, (left_out,) = features_table(CutFeatures(network()), found)
    assert table.image.tolist() == ["tiles/a.png", "tiles/linked/b.png"]
    assert left_out.name == "tiles/gone.png"

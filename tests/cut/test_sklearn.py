"""A cut network at work gives what is computed by hand, whatever the pictures come as."""

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
from sklearn.utils.validation import check_is_fitted
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from scalecut import DataError, Features, ModelError, Preprocessing, cut_after, load_network
from scalecut.cut.folder import keep
from scalecut.cut.sklearn import features_table, pictures_in, transform
from scalecut.cut.verify import prove

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
    cut = cut_after(whole, "layer2.0")
    made = tmp_path_factory.mktemp("cut") / "short"
    assert keep(cut, made, whole, prove(whole, cut, pairs=1, batch_size=1)) == {}
    return made


def network(preprocessing=RGB, head=0):
    """A cut of two layers, in evaluation mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
    whole = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return cut_after(load_network(whole, preprocessing=preprocessing), "3", head=head)


def smooth(rng, height, width):
    """A picture of slow waves, so that ways to resize agree."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(5 * (a * x + b * y + c)) for a, b, c in rng.uniform(-1, 1, (3, 3))]
    return np.uint8(127 + 120 * np.stack(waves, axis=-1))


def arrays(n=5):
    rng = np.random.default_rng(0)
    return [smooth(rng, *rng.integers(30, 90, 2)) for _ in range(n)]


def saved(pictures, place=Path("tiles")):
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{number:02}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        PIL.Image.fromarray(picture).save(path)
    return paths


def prepared(picture, preprocessing=RGB):
    """What the network is given, by hand: squashed, then (x / 255 - mean) / std."""
    resample = {"bicubic": Resampling.BICUBIC, "bilinear": Resampling.BILINEAR}
    shown = PIL.Image.fromarray(picture).resize(
        (WIDTH, HEIGHT), resample[preprocessing.interpolation]
    )
    return ((np.asarray(shown) / 255 - MEAN) / STD).transpose(2, 0, 1)


def by_hand(cut, pictures):
    inputs = [transform(cut)(PIL.Image.fromarray(picture)) for picture in pictures]
    with torch.no_grad():
        return cut.eval()(torch.stack(inputs)).numpy()


# --- scikit-learn --------------------------------------------------------------------------------


def test_paths_arrays_and_pictures_of_pil_give_the_same_features():
    cut, pictures = network(), arrays()
    paths = saved(pictures)
    found = Features(cut).transform(pictures)
    assert found.shape == (5, 4)
    assert found.dtype == np.float32
    for same in (
        paths,
        [str(path) for path in paths],
        np.array([str(path) for path in paths]),
        [PIL.Image.open(path) for path in paths],
        [PIL.Image.fromarray(picture) for picture in pictures],
    ):
        assert np.array_equal(Features(cut).transform(same), found)


@pytest.mark.parametrize("preprocessing", [RGB, BGR])
def test_features_are_those_of_the_cut_after_its_transform(preprocessing):
    cut, pictures = network(preprocessing), arrays()
    found = Features(cut).fit(pictures).transform(pictures)
    np.testing.assert_allclose(found, by_hand(cut, pictures), atol=1e-6)


def test_features_of_a_folder_are_those_of_its_network(folder):
    pictures = arrays(3)
    whole = load_network("test_resnet", weights="random", preprocessing=RGB)
    expected = by_hand(cut_after(whole, "layer2.0"), pictures)
    for place in (folder, str(folder)):
        found = Features(place, batch_size=2).transform(pictures)
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_grey_and_transparent_pictures_are_prepared_alike():
    grey = arrays(1)[0][..., 0]
    clear = np.dstack([arrays(1)[0], np.full_like(grey, 128)])
    on_white = np.uint8(np.round(clear[..., :3] * (128 / 255) + 255 * (127 / 255)))
    cut = network()
    expected = by_hand(cut, [np.dstack([grey] * 3), on_white])
    pictures = [PIL.Image.fromarray(grey), PIL.Image.fromarray(clear)]
    paths = saved([grey, clear])
    for found in (
        Features(cut).transform([grey, on_white]),
        Features(cut).transform(paths),
        cut(torch.stack([transform(cut)(each) for each in pictures])).detach().numpy(),
    ):
        np.testing.assert_allclose(found, expected, atol=3e-3)  # white is rounded by Pillow


def test_fit_is_as_asked():
    tall = np.zeros((90, 40, 3), np.uint8)
    tall[25:65] = 255  # the middle 40 rows: about all that a crop shows
    white = np.full((32, 40, 3), 255, np.uint8)
    cut = network()
    of = {fit: Features(cut, fit_to=fit).transform([tall])[0] for fit in ("squash", "crop", "pad")}
    whole = Features(cut).transform([white])[0]
    assert np.abs(of["crop"] - whole).max() < 1e-6
    for one, other in (("squash", "crop"), ("squash", "pad"), ("crop", "pad")):
        assert np.abs(of[one] - of[other]).max() > 1e-3


def test_given_network_is_left_as_it_is_and_its_head_is_not_used():
    cut = network(head=3).train()
    before = copy.deepcopy(cut.state_dict())
    found = Features(cut).transform(arrays(2))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found, by_hand(network(), arrays(2)), atol=1e-6)
    assert cut.training
    assert (cut.num_classes, type(cut.head)) == (3, nn.Linear)
    assert all(torch.equal(tensor, before[name]) for name, tensor in cut.state_dict().items())


def squares(n=24, side=64):
    """White squares on black, and their share of the picture."""
    rng = np.random.default_rng(0)
    pictures, shares = [], []
    for edge in rng.integers(8, 48, n):
        picture = np.zeros((side, side, 3), np.uint8)
        top, left = rng.integers(0, side - edge, 2)
        picture[top : top + edge, left : left + edge] = 255
        pictures.append(picture)
        shares.append((edge / side) ** 2)
    return pictures, np.array(shares)


def test_features_stand_in_a_pipeline_and_tell_how_large_squares_are():
    pictures, shares = squares()
    paths = [str(path) for path in saved(pictures)]
    pipeline = make_pipeline(Features(network()), Ridge(1e-3))
    scores = cross_val_score(pipeline, paths, shares, cv=3)
    ready = by_hand(network(), pictures)
    np.testing.assert_allclose(scores, cross_val_score(Ridge(1e-3), ready, shares, cv=3), atol=1e-4)
    assert scores.min() > 0.8


def test_settings_can_be_cloned_set_and_searched(folder):
    features = Features(folder, fit_to="crop", batch_size=7)
    again = clone(features)
    assert again is not features
    assert again.get_params() == {
        "network": folder,
        "fit_to": "crop",
        "precision": "float32",
        "device": "auto",
        "batch_size": 7,
    }
    picture = arrays(1)
    squashed = Features(folder).transform(picture)
    assert not np.allclose(again.transform(picture), squashed)
    assert np.array_equal(again.set_params(fit_to="squash").transform(picture), squashed)
    pictures, shares = squares(8)
    pipeline = make_pipeline(Features(network()), Ridge())
    choices = {"features__fit_to": ["squash", "pad"]}
    found = GridSearchCV(pipeline, choices, cv=2).fit(pictures, shares)
    assert found.predict(pictures).shape == (8,)


def test_network_can_be_cloned_too():
    cut = network()
    again = clone(Features(cut))
    assert again.network is not cut
    assert np.array_equal(again.transform(arrays(1)), Features(cut).transform(arrays(1)))


def test_columns_are_named_for_tables(folder):
    features = Features(folder)
    check_is_fitted(features)
    names = features.get_feature_names_out().tolist()
    found = features.transform(arrays(2))
    assert names == [f"f{column}" for column in range(found.shape[1])]
    assert features.get_feature_names_out(["image"]).tolist() == names
    table = features.set_output(transform="pandas").transform(arrays(2))
    pd.testing.assert_frame_equal(table, pd.DataFrame(found, columns=names))


# --- pictures and settings that cannot be used ---------------------------------------------------


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("gone.png", "gone.png: there is no such file; check its name and folder"),
        (
            "notes.png",
            "notes.png: this is not an image that can be read; give one of JPEG, PNG, TIFF, BMP, "
            "GIF, WEBP, PPM, JPEG2000",
        ),
        (
            np.zeros((5, 6, 3)),
            "image 2 is an array of float64 and shape (5, 6, 3). Give uint8 of shape (height, "
            "width, 3), or (height, width) for grey.",
        ),
    ],
)
def test_picture_that_is_none_is_refused_by_name(bad, text):
    Path("notes.png").write_text("no picture")
    with pytest.raises(DataError) as error:
        Features(network()).transform([*arrays(2), bad])
    assert str(error.value) == text


def test_damaged_pictures_are_counted_and_the_first_is_named():
    paths = saved(arrays(4))
    for path in paths[1:3]:
        truncated(path)
    with pytest.raises(DataError) as error:
        Features(network()).transform(paths)
    said = str(error.value)
    start = "2 of 4 pictures cannot be read, the first is tiles/01.png (it is truncated or broken ("
    assert said.startswith(start)
    assert said.endswith("; copy the file again). Leave them out.")


def test_no_pictures_at_all_are_refused():
    with pytest.raises(DataError) as error:
        Features(network()).transform([])
    assert str(error.value) == (
        "None of 0 images could be read (there are none). Check the folder of images."
    )


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        (
            {"batch_size": 0},
            DataError,
            "A batch cannot be of 0 images. Give --batch-size 1 or more.",
        ),
        (
            {"precision": "half"},
            ModelError,
            "No precision is named 'half'. Give auto, float32 or bfloat16.",
        ),
        (
            {"device": "abacus"},
            ModelError,
            "No device is named 'abacus'. Give auto, cpu, or cuda:0.",
        ),
    ],
)
def test_setting_that_is_none_is_refused(settings, kind, text):
    with pytest.raises(kind) as error:
        Features(network(), **settings).transform(arrays(1))
    assert str(error.value) == text


# --- a table of features -------------------------------------------------------------------------


def test_table_has_a_row_for_every_picture_that_can_be_read():
    paths = saved(arrays(4))
    truncated(paths[1])
    table, (left_out,) = features_table(Features(network()), pictures_in([Path("tiles")]))
    assert left_out.name == "tiles/01.png"
    assert list(table) == ["image", "f0", "f1", "f2", "f3"]
    kept = [paths[number] for number in (0, 2, 3)]
    assert table.image.tolist() == [str(path) for path in kept]
    expected = Features(network()).transform(kept)
    assert np.array_equal(table[["f0", "f1", "f2", "f3"]].to_numpy(), expected)


def test_pictures_are_found_by_their_endings_in_folders_in_folders():
    for name in ("b/2.JPG", "a.tiff", "b/1.png", "b/notes.txt", "b/c.png/3.webp"):
        Path("tiles", name).parent.mkdir(parents=True, exist_ok=True)
        Path("tiles", name).touch()
    Path("scan.raw").touch()
    found = pictures_in([Path("tiles"), Path("scan.raw")])
    names = ["a.tiff", "b/1.png", "b/2.JPG", "b/c.png/3.webp"]
    assert [image.name for image in found] == [*(f"tiles/{name}" for name in names), "scan.raw"]
    assert [str(image.source) for image in found] == [image.name for image in found]


@pytest.mark.parametrize("place", ["gone", "empty", "tiles/empty"])
def test_place_without_pictures_is_refused(place):
    saved(arrays(1))
    for name in ("empty", "tiles/empty"):
        Path(name).mkdir()
        Path(name, "notes.txt").touch()
    with pytest.raises(DataError) as error:
        pictures_in([Path("tiles"), Path(place)])
    assert str(error.value) == (
        f"There is no picture at '{place}'. Give files, or a folder with .bmp, .jpeg, .jpg, .png, "
        ".tif, .tiff, .webp in it."
    )


# --- training loops ------------------------------------------------------------------------------


def test_transform_squashes_and_normalises():
    for picture in arrays():
        found = transform(network())(PIL.Image.fromarray(picture))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, prepared(picture), atol=1e-6)


def test_transform_of_a_network_of_bgr_turns_the_channels():
    for picture in arrays():
        found = transform(network(BGR))(PIL.Image.fromarray(picture))
        np.testing.assert_allclose(found, prepared(picture, BGR)[::-1], atol=1e-6)


def test_transform_is_the_one_that_timm_makes_for_the_cut():
    cut = network()
    theirs = create_transform(**resolve_model_data_config(cut))
    for picture in map(PIL.Image.fromarray, arrays()):
        assert (transform(cut)(picture) - theirs(picture)).abs().max() < 1e-5


def test_transform_of_a_folder_is_that_of_its_network(folder):
    picture = PIL.Image.fromarray(arrays(1)[0])
    expected = transform(network())(picture)  # of the same preprocessing
    for place in (folder, str(folder)):
        assert torch.equal(transform(place)(picture), expected)


def test_picture_on_its_side_is_turned_upright():
    upright = arrays(1)[0]
    stored = PIL.Image.fromarray(np.rot90(upright))
    stored.getexif()[0x0112] = 6  # to be turned clockwise
    stored.save("turned.png", exif=stored.getexif())
    cut = network()
    with PIL.Image.open("turned.png") as turned:
        found = transform(cut)(turned)
    assert torch.equal(found, transform(cut)(PIL.Image.fromarray(upright)))
    assert np.array_equal(*(Features(cut).transform([x]) for x in ("turned.png", upright)))


def test_evaluation_draws_nothing():
    picture, plain = PIL.Image.fromarray(arrays(1)[0]), transform(network())
    before = torch.get_rng_state()
    assert torch.equal(plain(picture), plain(picture))
    assert torch.equal(torch.get_rng_state(), before)


def shown_in_training(preprocessing=RGB, n=50):
    """A white square, drawn often: its mask, and its brightness in each draw."""
    picture = np.zeros((4 * HEIGHT, 4 * WIDTH, 3), np.uint8)
    picture[4 * 3 : 4 * 13, 4 * 5 : 4 * 17] = (250, 230, 200)
    changed = transform(network(preprocessing), is_training=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([changed(PIL.Image.fromarray(picture)) for _ in range(n)])
    assert drawn.shape == (n, 3, HEIGHT, WIDTH)
    level = drawn.mean(dim=1)
    low, high = level.amin((1, 2), keepdim=True), level.amax((1, 2), keepdim=True)
    return level > (low + high) / 2, drawn


def test_training_leaves_the_size_of_an_object_alone():
    masks, _ = shown_in_training()
    assert masks.sum((1, 2)).tolist() == [10 * 12] * 50
    # and its shape: 10 high, 12 wide
    assert masks.any(2).sum(1).tolist() == [10] * 50
    assert masks.any(1).sum(1).tolist() == [12] * 50


def test_training_mirrors_both_ways_and_changes_colours():
    masks, drawn = shown_in_training()
    corners = {(mask.any(1).float().argmax().item(), mask.any(0).float().argmax().item())
               for mask in masks}  # fmt: skip
    assert corners == {(y, x) for y in (3, HEIGHT - 13) for x in (5, WIDTH - 17)}
    inside = [each[:, mask].mean(1) for each, mask in zip(drawn, masks, strict=True)]
    assert (torch.stack(inside).std(0) > 0.05).all()


def test_transform_serves_a_training_loop_in_other_processes():
    for kind in ("cat", "dog"):
        saved(arrays(3), Path("tiles") / kind)
    cut = network(head=2).train()
    changed = transform(cut, is_training=True)
    assert repr(pickle.loads(pickle.dumps(changed))) == repr(changed)
    images, kinds = next(iter(DataLoader(ImageFolder("tiles", changed), batch_size=6)))
    nn.functional.cross_entropy(cut(images), kinds).backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_transform_tells_what_it_does():
    shown = repr(transform(network()))
    assert "Squash(32 x 40)" in shown
    assert "Tensor(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))" in shown

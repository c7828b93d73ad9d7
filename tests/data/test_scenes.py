"""What a scene sets is found again in its pixels, by subtracting the image without its object."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from scalecut.data import scenes as scenes_module
from scalecut.data.images import ImageSet
from scalecut.data.scenes import (
    BACKDROPS,
    OBJECTS,
    SHARES,
    STRETCH,
    Scene,
    backdrop,
    cutout,
    largest_share,
    make_scenes,
    random_scene,
    render,
)
from scalecut.errors import DataError

SIZES = [64, 320]


@pytest.fixture(params=[0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def seed(request):
    return request.param


def seen_box(scene):
    """The tight box of all pixels that the object changes."""
    changed = (render(scene).pixels != backdrop(scene)).any(axis=2)
    (rows,), (columns,) = changed.any(axis=1).nonzero(), changed.any(axis=0).nonzero()
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def scenes_of(seed, each, **settings):
    return [random_scene(name, i, seed=seed, **settings) for name in OBJECTS for i in range(each)]


def message(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)


def test_box_is_the_one_seen_in_the_picture(seed):
    for scene in scenes_of(seed, each=6):
        np.testing.assert_allclose(render(scene).box, seen_box(scene), atol=1, err_msg=str(scene))


def test_box_is_seen_at_every_size_of_canvas_and_share():
    for name in OBJECTS:
        for canvas in SIZES:
            for share in (0.05, 0.2, 0.55):
                # Before noise an object shows wherever it is.
                scene = Scene(name, "noise", share, canvas=canvas, place=(0.3, 0.8), seed=1)
                np.testing.assert_allclose(render(scene).box, seen_box(scene), atol=1)


def test_measure_is_the_area_of_the_box_over_that_of_the_picture(seed):
    scenes = make_scenes(20, canvas=96, seed=seed)
    left, top, right, bottom = scenes.boxes.T
    np.testing.assert_allclose(scenes.measure, (right - left) * (bottom - top) / 96**2, rtol=1e-15)
    assert scenes.measure_name == "area"


def test_box_as_drawn_has_the_share_that_was_asked_for(seed):
    for scene in scenes_of(seed, each=10):
        left, top, right, bottom = render(scene).box
        # each side is rounded to whole pixels, by at most half of one
        at_most = 0.5 * ((right - left) + (bottom - top) + 1) / scene.canvas**2
        assert abs(render(scene).share - scene.share) <= at_most


def test_boxes_are_whole_pixels_inside_the_canvas(seed):
    boxes = make_scenes(80, canvas=64, seed=seed).boxes
    assert (boxes == np.round(boxes)).all()
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_cutout_touches_all_four_sides_of_its_box():
    for name in OBJECTS:
        alpha = cutout(name)[..., 3]
        for side in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert side.max() >= 128


def test_cutout_is_mostly_solid_and_has_a_soft_edge():
    for name in OBJECTS:
        alpha = cutout(name)[..., 3]
        assert 0.35 < (alpha == 255).mean() < 0.9
        assert 0.002 < ((alpha > 0) & (alpha < 255)).mean() < 0.2


def test_cutout_cannot_be_changed_by_who_borrows_it():
    with pytest.raises(ValueError, match="read-only"):
        cutout("cat")[0, 0] = 0


def test_same_seed_gives_the_same_bytes_and_another_seed_others(seed):
    once, again, other = (make_scenes(8, canvas=64, seed=s) for s in (seed, seed, seed + 1))
    for a, b, c in zip(once.images, again.images, other.images, strict=True):
        assert a.name == b.name == c.name
        assert a.source.tobytes() == b.source.tobytes() != c.source.tobytes()
    assert (once.measure == again.measure).all()


def test_scenes_of_a_small_set_are_the_first_of_a_large_one():
    small = make_scenes(5, canvas=64, objects=["coffee", "cat"])
    large = {image.name: image.source for image in make_scenes(24, canvas=64).images}
    for image in small.images:
        np.testing.assert_array_equal(image.source, large[image.name])


def test_no_two_scenes_of_a_set_are_the_same_picture():
    images = make_scenes(40, canvas=64).images
    assert len({image.source.tobytes() for image in images}) == 40


def test_set_is_shared_out_evenly_and_each_scene_is_a_group_of_its_own():
    scenes = make_scenes(10, canvas=64)
    assert isinstance(scenes, ImageSet)
    counts = {name: scenes.subset.count(name) for name in OBJECTS}
    assert counts == {"astronaut": 3, "cat": 3, "coffee": 2, "motorcycle": 2}
    assert len(set(scenes.group)) == 10
    assert [image.name for image in scenes.images][2:4] == ["astronaut-0002", "cat-0000"]
    assert {image.source.shape for image in scenes.images} == {(64, 64, 3)}


def test_objects_named_twice_count_once():
    assert make_scenes(4, canvas=64, objects=["cat", "cat"]).subset == ("cat",) * 4


def test_resizing_only_the_object_leaves_all_else_as_it_is(seed):
    small = random_scene("coffee", 3, seed=seed, shares=(0.1, 0.1))
    large = replace(small, share=0.5)
    one, other = render(small), render(large)
    outside = np.ones(one.pixels.shape[:2], bool)
    for box in (one.box, other.box):
        left, top, right, bottom = map(int, box)
        outside[top:bottom, left:right] = False
    assert outside.any()
    np.testing.assert_array_equal(one.pixels[outside], other.pixels[outside])
    np.testing.assert_array_equal(backdrop(small), backdrop(large))
    np.testing.assert_array_equal(one.pixels[outside], backdrop(small)[outside])


def test_passing_through_another_size_leaves_blur_alone(seed):
    """The box and all outside it stay; inside, the smaller the size the less detail is left."""
    scene = random_scene("coffee", 4, seed=seed, shares=(0.5, 0.5))
    as_it_is, left_detail = render(scene), []
    left, top, right, bottom = map(int, as_it_is.box)
    for share in (0.02, 0.1, 0.3, 0.5):
        image = render(replace(scene, drawn_as=share))
        assert image.box == as_it_is.box
        outside = image.pixels.astype(int) - as_it_is.pixels
        outside[top:bottom, left:right] = 0
        assert not outside.any()
        inside = image.pixels[top:bottom, left:right].astype(float)
        left_detail.append(np.abs(np.diff(inside, axis=0)).mean())
    assert (np.diff(left_detail) > 0).all()
    np.testing.assert_array_equal(image.pixels, as_it_is.pixels)  # it was its own size


def test_size_that_is_passed_through_is_that_of_the_share(monkeypatch):
    """By hand: the cut-out, made as large as the object is at that share, takes its place."""
    scene = Scene("cat", "sky", 0.4, seed=3)
    small = render(replace(scene, share=0.05)).box
    size = int(small[2] - small[0]), int(small[3] - small[1])
    shrunk = PIL.Image.fromarray(cutout("cat")).resize(size, PIL.Image.Resampling.BICUBIC)
    through = render(replace(scene, drawn_as=0.05))
    monkeypatch.setattr(scenes_module, "_aspect", lambda subject: aspect)
    height, width = cutout("cat").shape[:2]
    aspect = width / height
    monkeypatch.setattr(scenes_module, "cutout", lambda subject: np.asarray(shrunk))
    np.testing.assert_array_equal(render(scene).pixels, through.pixels)


def test_picture_is_the_mixture_of_object_and_backdrop_by_hand():
    """Opaque pixels: contrast and colour of the light are found again by least squares."""
    height, width = cutout("coffee").shape[:2]
    canvas = max(height, width)
    share = height * width / canvas**2
    # at its own size nothing is interpolated
    scene = Scene("coffee", "gradient", share, place=(0.0, 0.0), canvas=canvas, seed=5)
    drawn, source = render(scene).pixels[:height, :width], cutout("coffee")
    clear = (source[..., 3] == 255) & ((drawn > 0) & (drawn < 255)).all(axis=2)
    for channel in range(3):
        known, seen = source[clear][:, channel] / 255, drawn[clear][:, channel] / 255
        slope, offset = np.polyfit(known, seen, 1)
        np.testing.assert_allclose(slope * known + offset, seen, atol=1 / 255)
        assert 0.7 < slope < 1.4
    empty = source[..., 3] == 0
    np.testing.assert_array_equal(drawn[empty], backdrop(scene)[:height, :width][empty])


def test_flipped_object_is_the_mirror_image_within_its_box():
    scene = Scene("astronaut", "gradient", 0.3, seed=2)
    as_it_is, flipped = render(scene), render(replace(scene, is_flipped=True))
    assert as_it_is.box == flipped.box
    left, top, right, bottom = map(int, as_it_is.box)
    before, after = (p.pixels[top:bottom, left:right].astype(int) for p in (as_it_is, flipped))
    behind = backdrop(scene)[top:bottom, left:right].astype(int)
    # Both stand before the same backdrop, so compare where the object is opaque in both.
    solid = (np.abs(before - behind).max(axis=2) > 8) & (np.abs(after - behind).max(axis=2) > 8)
    mirrored = before[:, ::-1]
    error = np.abs(after - mirrored)[solid & solid[:, ::-1]]
    assert np.percentile(error, 95) <= 2
    assert np.abs(after - before)[solid].mean() > 20


def test_places_cover_the_canvas(seed):
    """Small objects: every ninth of the canvas is reached by some box's middle."""
    scenes = [random_scene("cat", i, seed=seed, shares=(0.02, 0.03)) for i in range(200)]
    middles = np.array([render(scene).box for scene in scenes[:100]]).reshape(-1, 2, 2).mean(axis=1)
    ninths = {tuple(ninth) for ninth in (middles // (256 / 3)).astype(int)}
    assert len(ninths) == 9
    places = np.array([scene.place for scene in scenes])
    np.testing.assert_allclose(places.mean(axis=0), 0.5, atol=0.08)
    np.testing.assert_allclose(places.std(axis=0), np.sqrt(1 / 12), atol=0.04)
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.25


def test_places_reach_all_four_borders():
    corners = [render(Scene("cat", "sky", 0.1, place=p)).box for p in [(0.0, 0.0), (1.0, 1.0)]]
    assert corners[0][:2] == (0, 0)
    assert corners[1][2:] == (256, 256)


def test_shares_are_uniform_up_to_what_the_object_can_fill():
    for name in OBJECTS:
        shares = np.array([random_scene(name, i).share for i in range(400)])
        low, high = SHARES[0], min(SHARES[1], largest_share(name))
        quartiles = low + (high - low) * np.array([0.25, 0.5, 0.75])
        np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), quartiles, atol=0.08)
        assert low <= shares.min() < low + 0.02
        assert high - 0.02 < shares.max() <= high


def test_object_keeps_its_proportions_but_for_a_mild_stretch(seed):
    for scene in scenes_of(seed, each=20, shares=(0.2, 0.6)):
        left, top, right, bottom = render(scene).box
        height, width = cutout(scene.subject).shape[:2]
        ratio = (right - left) / (bottom - top) / (width / height)
        assert 0.98 / STRETCH < ratio < 1.02 * STRETCH  # the sides are whole pixels


def test_backdrop_is_independent_of_the_measure():
    """Its mean colour and contrast, and all else that is drawn, are uncorrelated with the share."""
    scenes = [random_scene("astronaut", i, canvas=32) for i in range(500)]
    behind = [backdrop(scene) / 255 for scene in scenes]
    columns = {
        "red": [pixels[..., 0].mean() for pixels in behind],
        "green": [pixels[..., 1].mean() for pixels in behind],
        "blue": [pixels[..., 2].mean() for pixels in behind],
        "contrast": [pixels.std() for pixels in behind],
        "which": [BACKDROPS.index(scene.backdrop) for scene in scenes],
        "across": [scene.place[0] for scene in scenes],
        "down": [scene.place[1] for scene in scenes],
        "flip": [float(scene.is_flipped) for scene in scenes],
    }
    shares = [scene.share for scene in scenes]
    correlations = {name: np.corrcoef(column, shares)[0, 1] for name, column in columns.items()}
    # 3.3 standard errors of 1 / sqrt(n): one of these eight by chance in about 130 sets
    assert max(map(abs, correlations.values())) < 3.3 / np.sqrt(500), correlations


def test_light_on_the_object_does_not_follow_its_size():
    for name in OBJECTS:
        one, other = (Scene(name, "gradient", share, seed=9, canvas=256) for share in (0.1, 0.55))
        # the light is the same, so the opaque parts have the same mean colour at both sizes
        means = []
        for scene in (one, other):
            image = render(scene)
            left, top, right, bottom = map(int, image.box)
            window = image.pixels[top:bottom, left:right]
            inner = window[window.shape[0] * 2 // 5 : window.shape[0] * 3 // 5]
            means.append(
                inner[:, inner.shape[1] * 2 // 5 : inner.shape[1] * 3 // 5].mean(axis=(0, 1))
            )
        np.testing.assert_allclose(means[0], means[1], atol=8)


def test_backdrop_fills_the_canvas_and_is_never_the_same_twice():
    for name in BACKDROPS:
        images = [backdrop(Scene("cat", name, 0.1, canvas=100, seed=s)) for s in range(4)]
        assert {image.shape for image in images} == {(100, 100, 3)}
        assert len({image.tobytes() for image in images}) == 4
        for image in images:
            assert image[:20].std() > 0
            assert image[-20:].std() > 0


def test_every_object_and_backdrop_is_drawn_in_the_long_run():
    scenes = make_scenes(4, canvas=32)
    assert set(scenes.subset) == set(OBJECTS)
    assert {random_scene("cat", i).backdrop for i in range(200)} == set(BACKDROPS)


def test_noise_has_the_spectrum_of_photographs():
    """Amplitude falls by about 1 / frequency^0.8 to 1.6: power is lost with every octave."""
    image = backdrop(Scene("cat", "noise", 0.1, canvas=128, seed=3)).mean(axis=2)
    amplitude = np.abs(np.fft.fft2(image - image.mean()))
    radius = np.hypot(*np.meshgrid(*[128 * np.fft.fftfreq(128)] * 2))
    octaves = [2, 4, 8, 16, 32]
    means = [amplitude[(radius >= r) & (radius < 2 * r)].mean() for r in octaves]
    slope = -np.polyfit(np.log(octaves), np.log(means), 1)[0]
    assert 0.7 < slope < 1.7


UNKNOWN = "No object is named 'catt'. Give one{} of astronaut, cat, coffee, motorcycle."
LIMIT = f"0.{int(100 * largest_share('motorcycle'))}"


def too_large():
    height, width = cutout("motorcycle").shape[:2]
    wide, high = (round(100 * np.sqrt(0.9 * r)) for r in (width / height, height / width))
    return (
        f"The motorcycle with a share of 0.9 has {wide} x {high} pixels, but the canvas "
        f"100 x 100. Ask for a share of at most 0.{100 * height // width}, or change the stretch."
    )


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: make_scenes(9, objects=["cat", "catt"]), UNKNOWN.format(" or more")),
        (lambda: random_scene("catt", 0), UNKNOWN.format("")),
        (lambda: cutout("catt"), UNKNOWN.format("")),
        (lambda: render(Scene("catt", "sky", 0.1)), UNKNOWN.format("")),
        (
            lambda: render(Scene("cat", "gras", 0.1)),
            "No backdrop is named 'gras'. Give one of brick, grass, gravel, moon, shelves, sky, "
            "stars, tissue, tower, wood, noise, gradient.",
        ),
        (
            lambda: make_scenes(3),
            "3 scenes cannot be divided among 4 objects. "
            "Ask for at least 4 scenes, or name fewer objects.",
        ),
        (
            lambda: make_scenes(3, objects=[]),
            "No object is named. Choose from astronaut, cat, coffee, motorcycle.",
        ),
        *(
            (
                lambda shares=shares: make_scenes(4, shares=shares),
                f"Shares must be above 0, at most 1, and the smaller first, got {given}. "
                "Give shares such as 0.02 to 0.9.",
            )
            for shares, given in [
                ((0.0, 0.5), "0 to 0.5"),
                ((0.5, 1.2), "0.5 to 1.2"),
                ((0.6, 0.3), "0.6 to 0.3"),
                ((float("nan"), 0.5), "nan to 0.5"),
            ]
        ),
        (
            lambda: random_scene("motorcycle", 0, shares=(0.8, 0.9)),
            f"The motorcycle can fill at most {LIMIT} of the canvas, but shares start at 0.8. "
            "Give a smaller share, or omit this object.",
        ),
        (lambda: render(Scene("motorcycle", "sky", 0.9, canvas=100)), too_large()),
        *(
            (
                lambda setting=setting: render(Scene("cat", "sky", **setting)),
                "A share must be above 0 and at most 1, got 1.5. "
                "Give the area of the object's box divided by that of the canvas.",
            )
            for setting in ({"share": 1.5}, {"share": 0.1, "drawn_as": 1.5})
        ),
        (
            lambda: render(Scene("cat", "sky", 0.1, place=(0.5, 1.1))),
            "The place (0.5, 1.1) is outside the canvas. Give two numbers from 0 (left, top) to 1 "
            "(right, bottom).",
        ),
        (
            lambda: make_scenes(4, canvas=16),
            "The canvas must have at least 32 pixels, got 16.",
        ),
        (lambda: make_scenes(4, seed=-1), "The seed must be 0 or more, got -1."),
    ],
)
def test_errors_say_what_to_do(call, expected):
    assert message(call) == expected

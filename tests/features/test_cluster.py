"""Two workers of Ray give the features of one process to the bit, even if one of them is lost."""

import functools
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

from scalecut import make_image_set
from scalecut.data.images import Image
from scalecut.errors import ModelError
from scalecut.features.backends import Backend
from scalecut.features.extract import Computation, Task, computed_here, network_setting
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import chosen_points
from scalecut.probing.probe import Fitting, probe

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'scalecut[cluster]'")

from scalecut.features.cluster import computed, computing, joined  # noqa: E402 - once it is sure that Ray is there

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]
SIDE = 16


class Net(nn.Module):
    """Two layers; its process dies once, if the file `grave` does not exist yet."""

    def __init__(self, grave=""):
        super().__init__()
        self.grave = str(grave)
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU())

    def forward(self, x):
        if self.grave and not Path(self.grave).exists():
            Path(self.grave).touch()
            os._exit(1)
        return self.two(self.one(x)).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def workers():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with joined("local:2") as n:
        yield n


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(13, SIDE, SIDE, 3), dtype=np.uint8)
    return [Image(f"{number}.png", each) for number, each in enumerate(pixels)]


def task_of(grave=""):
    torch.manual_seed(0)
    module = Net()
    preprocessing = Preprocessing(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    network = load_network(module, preprocessing=preprocessing)
    points, _ = chosen_points(network, [])
    facts = network_setting(network)  # runs the network, here
    module.grave = network.module.grave = str(grave)
    backend = Backend("torch", "float32", "cpu")
    return Task(network, tuple(points), "squash", backend, 4, facts)


def alone(task, images):
    """One process, batch by batch."""
    found = {}
    for numbers, matrices, _ in computed_here(task, images, range(len(images))):
        found |= by_number(numbers, matrices)
    return found


def by_number(numbers, matrices):
    return {number: [matrix[row] for matrix in matrices] for row, number in enumerate(numbers)}


def together(task, images, workers):
    found, unreadable, times = {}, {}, []
    for numbers, matrices, bad in computed(task, images, range(len(images)), workers=workers):
        found |= by_number(numbers, matrices)
        unreadable |= bad
        times += numbers
    assert len(times) == len(set(times))  # nothing counted twice
    return found, unreadable


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for key in one for a, b in zip(one[key], other[key], strict=True)
    )


def test_two_workers_give_the_bits_of_one_process_and_say_what_cannot_be_read(
    workers, images, tmp_path
):
    task, broken = task_of(), tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    images[5] = Image("broken.jpg", broken)
    found, unreadable = together(task, images, workers)
    assert same(found, alone(task, images))
    assert sorted(found) == [number for number in range(13) if number != 5]
    assert list(unreadable) == [5]
    assert unreadable[5].startswith("this is not an image that can be read")


def test_batch_of_a_worker_that_dies_is_computed_again_and_counted_once(workers, images, tmp_path):
    grave = tmp_path / "died"
    expected = alone(task_of(), images)
    found, _ = together(task_of(grave), images, workers)
    assert grave.exists()
    assert same(found, expected)


def test_address_that_is_not_understood_is_refused_in_one_line():
    for address in ("local", "local:", "local:0", "local:two"):
        with pytest.raises(ModelError) as error, joined(address):
            pass
        assert str(error.value) == (
            f"--cluster {address!r} is not understood. Give local:2 for two workers here, or the "
            "address of a Ray cluster, such as ray://HOST:10001 or auto."
        )


def test_without_an_address_this_process_computes():
    with computing("") as compute:
        assert compute is computed_here


# --- a cluster of two nodes ----------------------------------------------------------------------


@pytest.fixture
def two_nodes():
    """The address of a cluster of two machines, as far as Ray can tell, and how to lose one."""
    Cluster = importlib.import_module("ray.cluster_utils").Cluster
    ray.shutdown()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    yield cluster.address, functools.partial(cluster.remove_node, other)
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def discs(tmp_path):
    """Images whose measure a network encodes, as files; the eleventh is damaged."""
    rng = np.random.default_rng(0)
    measure, files = rng.random(48), []
    for number, share in enumerate(measure):
        files.append(tmp_path / f"{number}.png")
        pixels = rng.integers(0, 40, size=(SIDE, SIDE, 3), dtype=np.uint8)
        pixels[: round(share * SIDE)] += 200
        PIL.Image.fromarray(pixels).save(files[-1])
    images = make_image_set(files, measure, subset="disc")
    files[10].write_bytes(files[10].read_bytes()[:60])
    return images


def probed(images, cluster="", told=None):
    return probe(
        task_of().network,
        images,
        computation=Computation(precision="float32", batch_size=4, cluster=cluster),
        fitting=Fitting(controls=["shuffled"], permutations=0),
        progress=told,
    )


@pytest.mark.parametrize("is_lost", [False, True], ids=["two nodes", "one of them lost"])
def test_cluster_gives_the_curve_of_one_process(
    two_nodes, discs, one_thread, is_lost, tmp_path, monkeypatch
):
    address, lose = two_nodes
    nodes = []

    def told(stage, done, total):
        if stage == "features" and is_lost and done == 8:
            lose()
            nodes.append(done)

    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "of the cluster"))
    curve = probed(discs, address, told)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "of one process"))
    alone = probed(discs)
    assert len(nodes) == is_lost
    pd.testing.assert_frame_equal(curve.table, alone.table, check_exact=True)
    assert curve.provenance["images_left_out"] == alone.provenance["images_left_out"]
    names = [each.name.rpartition("/")[2] for each in curve.provenance["images_left_out"]]
    assert names == ["10.png"]
    assert (curve.table.n_images == 47).all()
    assert alone.scores(target="true").r2.max() > 0.9

"""Two workers of Ray give the numbers of one process to the bit, even if one of them is lost."""

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from scalecut import DataError, LayerError, ProbePoint, cache, make_image_set
from scalecut.data.images import Image
from scalecut.errors import ModelError
from scalecut.features import backends
from scalecut.features.backends import Backend
from scalecut.features.extract import Computation, Task, computed_here, network_setting
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import chosen_points
from scalecut.probing.probe import Fitting, probe
from scalecut.probing.scores import Features, draw_parts, score

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'scalecut[cluster]'")

from scalecut.features.cluster import _Worker, computed, computing, joined, mapped  # noqa: E402 - once it is sure that Ray is there

os.environ.setdefault("RAY_worker_niceness", "0")  # or workers wait for all else on the machine
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]
SIDE = 16


class Net(nn.Module):
    """Two layers; its process dies once, if the file `grave` does not exist yet."""

    complaint = ""

    def __init__(self, grave=""):
        super().__init__()
        self.grave = str(grave)
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU())

    def forward(self, x):
        if self.complaint:
            raise LayerError(self.complaint)
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


@pytest.mark.parametrize("failures", [2, 9])
def test_ray_that_does_not_start_at_once_is_started_again(failures, monkeypatch):
    """A busy machine needs longer than Ray waits; what it raises then is a bare Exception."""
    tried = []

    def init(*given, **settings):
        tried.append(given)
        if len(tried) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    if failures == 2:
        with joined("local:2") as n:
            assert n == 2
    else:
        with pytest.raises(ModelError, match=r"timed out .* without --cluster"), joined("local:2"):
            pass
    assert len(tried) == 3


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
    with computing("") as workers:
        assert (workers.compute, workers.map) == (computed_here, None)


# --- jobs: the regressions of layers -------------------------------------------------------------


def planted():
    """Features on disk that encode a measure more or less, of a large and a small subset."""
    rng, subset = np.random.default_rng(0), ["many"] * 3000 + ["few"] * 60
    measure = rng.random(len(subset))
    images = make_image_set([np.zeros((8, 8, 3), np.uint8)] * len(subset), measure, subset=subset)

    def features(layers):
        found = {}
        for share, layer in enumerate(layers, start=1):
            found[layer] = cache.scratch((len(measure), 3), np.dtype(np.float32))
            found[layer][:] = rng.normal(size=(len(measure), 3)) + share * measure[:, None]
        return found

    def points(layers):
        places = enumerate(layers)
        return tuple(ProbePoint(x, "", at / 2, x, "output", channels=3) for at, x in places)

    usual, few = ("a", "b", "c"), ("pixels",)
    found = {
        "pretrained": Features(points(usual), (features(usual),)),
        "random": Features(points(usual), (features(usual), features(usual))),
        "pixels": Features(points(few), (features(few),)),
    }
    return draw_parts(images, 3, 0, shuffled=True, permutations=20), found


def dies_once(shared, grave, function, *job):
    if not Path(grave).exists():
        Path(grave).touch()
        os._exit(1)
    return function(shared, *job)


def test_regressions_of_a_cluster_give_the_bits_of_one_process_although_a_worker_dies(
    workers, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "IN_MEMORY", 0)  # permutations and draws are on disk
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    parts, found = planted()
    assert isinstance(parts[0].permuted, np.memmap)
    grave, reports = tmp_path / "died", []

    def mortal(function, shared, jobs):
        return mapped(dies_once, shared, ((str(grave), function, *job) for job in jobs))

    there = score(
        parts, found, ("ridge", "ols"), map=mortal, report=lambda *each: reports.append(each)
    )
    here = score(parts, found, ("ridge", "ols"))
    assert grave.exists()
    assert reports == [(done, 7) for done in range(1, 8)]
    pd.testing.assert_frame_equal(there.table, here.table, check_exact=True)
    np.testing.assert_array_equal(there.draws, here.draws)
    np.testing.assert_array_equal(there.predicted, here.predicted)
    assert here.table.r2.max() > 0.5


def arrived(shared, array):
    threads = {each["num_threads"] for each in threadpool_info()}
    return [(type(each), each.base is not None) for each in (shared[0], array)], threads


def test_arrays_on_disk_are_shared_by_the_workers_of_a_machine_and_jobs_have_one_thread(
    workers, tmp_path, monkeypatch
):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    array = cache.scratch((1000, 100), np.dtype(np.float32))
    ((types, threads),) = mapped(arrived, [array], [(array[:900],)])
    assert types == [(np.ndarray, True)] * 2  # not unpickled: a view of the object store
    assert threads == {1}


def fails(shared, number):
    if number == shared:
        raise DataError("Give more images.")
    return number


def test_errors_of_workers_are_raised_as_in_one_process(workers, images):
    jobs = mapped(fails, 2, [(number,) for number in range(8)])
    assert [next(jobs), next(jobs)] == [0, 1]
    with pytest.raises(DataError) as error:
        next(jobs)
    assert (type(error.value), str(error.value)) == (DataError, "Give more images.")
    task = task_of()
    task.network.module.complaint = "Choose another layer."
    with pytest.raises(LayerError) as error:
        together(task, images, workers)
    assert (type(error.value), str(error.value)) == (LayerError, "Choose another layer.")


def test_a_worker_that_cannot_compute_as_asked_says_so(images, monkeypatch):
    """Its processor may be older than that of the process that asks."""
    monkeypatch.setattr(backends, "instructions", lambda: ("AVX2",))
    worker = _Worker(replace(task_of(), backend=Backend("openvino", "bfloat16", "cpu")))
    error = worker._batch([*enumerate(images[:2])])
    assert isinstance(error, ModelError)
    assert "does not compute in bfloat16, and OpenVINO would use float32" in str(error)


# --- a cluster of two nodes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_nodes():
    """The address of a cluster of two machines, as far as Ray can tell, and how to lose one."""
    Cluster = importlib.import_module("ray.cluster_utils").Cluster
    ray.shutdown()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1)]

    def lose():
        nodes.append(cluster.add_node(num_cpus=1))
        cluster.remove_node(nodes[-2])

    yield cluster.address, lose
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
        fitting=Fitting(controls=["shuffled"], permutations=19, learning_curve=True),
        progress=told,
    )


@pytest.mark.parametrize("is_lost", [False, True], ids=["two nodes", "one of them lost, twice"])
def test_cluster_gives_the_curve_of_one_process(
    two_nodes, discs, one_thread, is_lost, tmp_path, monkeypatch
):
    address, lose = two_nodes
    lost = []

    def told(stage, done, total):
        if is_lost and (stage, done) in {("features", 8), ("regression", 1)}:
            lose()
            lost.append(stage)

    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "of the cluster"))
    curve = probed(discs, address, told)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "of one process"))
    alone = probed(discs)
    assert lost == ["features", "regression"] * is_lost
    pd.testing.assert_frame_equal(curve.table, alone.table, check_exact=True)
    for one, other in zip(curve.fewer, alone.fewer, strict=True):
        pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    assert curve.provenance["images_left_out"] == alone.provenance["images_left_out"]
    names = [each.name.rpartition("/")[2] for each in curve.provenance["images_left_out"]]
    assert names == ["10.png"]
    assert (curve.table.n_images == 47).all()
    assert alone.scores(target="true").r2.max() > 0.9

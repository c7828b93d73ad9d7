"""Folders are read as others would read them: by safetensors, hashlib, YAML and Markdown."""

import copy
import errno
import hashlib
import json
import pickle
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from scalecut import (
    CutFeatures,
    DataError,
    LayerError,
    ModelError,
    OutputError,
    Preprocessing,
    choose_layer,
    cut_after,
    load_cut,
    load_network,
    open_run,
    save_cut,
)
from scalecut.cli.app import app
from scalecut.cut import folder as cut_folder
from scalecut.cut.export import EXPORTS, Format
from scalecut.cut.folder import card, check_cut
from scalecut.networks.network import Weights
from scalecut.networks.selection import chosen_points
from scalecut.probing.curve import Curve, read_curve
from scalecut.report.report import write_report
from scalecut.runs import versions
from tests.cut.test_network import SMALL, images
from tests.probing.test_choose import line

pytestmark = pytest.mark.usefixtures("one_thread")

CHAIN, FLATTENING, ATTENDING = (
    "tests.cut.test_network:Chain",
    "tests.cut.test_network:Flattening",
    "tests.cut.test_network:Attending",
)
WAYS = {CHAIN: "passed on", FLATTENING: "stopped", ATTENDING: "passed on"}
EXACT = {"model.safetensors": 0.0}
FILES = ["README.md", "example.safetensors", "model.safetensors", "report.html", "scalecut.json"]
reloaded_from = cut_folder.reloaded_from


@pytest.fixture(scope="module", autouse=True)
def no_new_process():
    """Loading in a new process takes seconds, so only one test does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_folder, "reloaded_from", lambda *_: EXACT)
        yield


def whole_of(name, preprocessing=SMALL):
    """A network whose weights no new one has."""
    whole = load_network(name, preprocessing=preprocessing)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in [*whole.module.parameters(), *whole.module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.1 + 0.4 * torch.rand(tensor.shape, generator=rng))
    return whole


def saved(folder, name=CHAIN, *, layer="blocks.1", pooling="mean", head=0, whole=None, **options):
    """Cut and save; returns the cut as it was before."""
    whole, cut = (whole, None) if whole else cut_of(name, layer, pooling, head)
    cut = cut or cut_after(whole, layer, pooling=pooling, head=head)
    before = copy.deepcopy(cut).eval()
    save_cut(cut, folder, whole, **options)
    return before


@cache
def cut_of(name, layer, pooling="mean", head=0):
    whole = whole_of(name)
    return whole, cut_after(whole, layer, pooling=pooling, head=head)


def planted(whole, best="blocks.1", **provenance):
    """A curve of the network whose peak is known."""
    points = tuple(chosen_points(whole)[0])
    r2 = [0.8 if point.layer == best else 0.4 for point in points]
    layers = {point.layer: point.alias for point in points}
    table, draws = line(np.random.default_rng(0), r2, layers=layers)
    return Curve(table, draws, points, provenance=provenance)


def facts_of(folder):
    return json.loads((folder / "scalecut.json").read_text(encoding="utf-8"))


def rewrite(folder, **changes):
    (folder / "scalecut.json").write_text(json.dumps(facts_of(folder) | changes), encoding="utf-8")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def test_what_each_layer_costs_comes_back_with_the_network(tmp_path):
    before = saved(tmp_path / "cut")
    costs = load_cut(tmp_path / "cut", CHAIN).costs
    pd.testing.assert_frame_equal(costs, before.costs, check_dtype=False)
    assert costs.layer.tolist()[-1] == "logits"
    assert costs.macs.is_monotonic_increasing
    rewrite(tmp_path / "cut", costs=[])  # as before there were any
    assert load_cut(tmp_path / "cut", CHAIN).costs is None


def outputs(network, x=None):
    with torch.no_grad():
        return network(images() if x is None else x)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder that tests only read, and its cut."""
    folder = tmp_path_factory.mktemp("written") / "chain"
    return folder, saved(folder)


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it, that a test may change."""
    return shutil.copytree(written[0], tmp_path / "chain")


# --- saved and loaded ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "pooling", "head"),
    [
        (CHAIN, "add_2", "mean", 3),
        (FLATTENING, "blocks.2", "mean", 0),
        (ATTENDING, "blocks.1", "both", 0),
        pytest.param(CHAIN, "blocks.1", "mean", 0, marks=pytest.mark.slow),
        pytest.param(FLATTENING, "stem", "mean", 2, marks=pytest.mark.slow),
        pytest.param(ATTENDING, "blocks.0", "cls", 2, marks=pytest.mark.slow),
    ],
)
def test_loaded_network_gives_the_same_outputs_bit_by_bit(tmp_path, name, layer, pooling, head):
    before = saved(tmp_path / "cut", name, layer=layer, pooling=pooling, head=head)
    again = load_cut(tmp_path / "cut", name)
    x = images()
    assert torch.equal(outputs(again, x), outputs(before, x))
    for method in ("forward_features", "forward"):
        assert torch.equal(outputs(getattr(again, method), x), outputs(getattr(before, method), x))
    assert again.way == before.way == WAYS[name]
    assert not any(module.training for module in again.modules())
    said = ("point", "entry", "pooling", "num_classes", "num_features", "preprocessing")
    assert [getattr(again, each) for each in said] == [getattr(before, each) for each in said]
    fresh = cut_after(load_network(name, weights="random", preprocessing=SMALL), layer)
    assert not torch.equal(
        fresh.forward_features(x), again.forward_features(x)
    )  # so the tensors are those of the file


def test_network_of_timm_comes_back(tmp_path):
    whole = load_network(
        "tf_efficientnet_lite0", weights="random", seed=3, preprocessing=Preprocessing(64, 64)
    )
    before = saved(tmp_path / "cut", whole=whole, layer="blocks.1.0")
    x = images(side=64)
    assert torch.equal(outputs(load_cut(str(tmp_path / "cut")), x), outputs(before, x))
    assert check_cut(tmp_path / "cut") == {"model.safetensors": 0.0}
    assert facts_of(tmp_path / "cut")["weights"] == {
        "kind": "random",
        "source": "seed 3",
        "sha256": None,
        "missing": 0,
        "ignored": [],
        "file_sha256": None,
    }


def test_tensors_are_those_of_the_whole_network_under_their_names(tmp_path):
    own = Preprocessing(24, 40, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), "bicubic", 0.9, "bgr")
    for name in (CHAIN, FLATTENING):
        whole = whole_of(name, own)
        saved(tmp_path / "cut", whole=whole, layer="blocks.1")
        stored = load_file(tmp_path / "cut" / "model.safetensors")
        given = whole.module.state_dict()
        kept = ("stem.", "blocks.0.", "blocks.1.")
        assert stored.keys() == {f"body.{n}" for n in given if n.startswith(kept)}
        for tensor_name, tensor in stored.items():
            assert torch.equal(tensor, given[tensor_name.removeprefix("body.")]), tensor_name
        assert load_cut(tmp_path / "cut", name).preprocessing == own


def test_trained_head_is_saved_and_the_network_is_unchanged(tmp_path):
    whole = whole_of(CHAIN)
    cut = cut_after(whole, "blocks.1", head=2).train()
    nn.init.constant_(cut.head.weight, 0.5)
    cut.body.norm.eval()
    modes = [module.training for module in cut.modules()]
    tensors = copy.deepcopy(cut.state_dict())
    save_cut(cut, tmp_path / "cut", whole)
    assert (load_cut(tmp_path / "cut", CHAIN).head.weight == 0.5).all()
    assert [module.training for module in cut.modules()] == modes
    assert all(torch.equal(tensor, tensors[n]) for n, tensor in cut.state_dict().items())
    with safe_open(tmp_path / "cut" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # as the hub and transformers require


def test_a_disk_that_takes_no_more_is_told_and_nothing_is_left(tmp_path, small_files):
    whole = whole_of(CHAIN)
    cut = cut_after(whole, "blocks.1")
    with small_files(400), pytest.raises(OutputError) as error:
        save_cut(cut, tmp_path / "cut", whole)
    assert str(error.value) == (
        f"'{tmp_path / 'cut'}' cannot be written (File too large). Give --out a writable folder."
    )
    assert list(tmp_path.iterdir()) == []


def test_module_without_a_name_is_given_to_load_it(tmp_path):
    named = whole_of(CHAIN)
    whole = load_network(named.module, preprocessing=SMALL)
    before = cut_after(whole, "blocks.1").eval()
    assert save_cut(before, tmp_path / "cut", whole).reloaded == EXACT
    assert facts_of(tmp_path / "cut")["architecture"] is None
    fresh = load_network(CHAIN).module
    numbers = copy.deepcopy(fresh.state_dict())
    assert torch.equal(outputs(load_cut(tmp_path / "cut", network=fresh)), outputs(before))
    assert check_cut(tmp_path / "cut", fresh) == {"model.safetensors": 0.0}
    assert all(torch.equal(tensor, numbers[n]) for n, tensor in fresh.state_dict().items())


def test_nothing_is_unpickled_or_downloaded(folder, monkeypatch):
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise AssertionError

    for module, name in [
        (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"),
        (torch.serialization, "load"), (socket, "socket"), (socket, "create_connection"),
        (socket, "getaddrinfo"), (huggingface_hub, "hf_hub_download"),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    load_cut(folder, CHAIN)
    check_cut(folder, CHAIN)
    assert asked == []
    assert sorted(path.name for path in folder.iterdir()) == FILES


def as_features(folder):
    """As scikit-learn reads it."""
    return CutFeatures(folder).get_feature_names_out()


@pytest.mark.parametrize("read", [load_cut, check_cut, open_run, as_features])
@pytest.mark.parametrize("kind", ["", "factory", "timm"])
def test_no_function_runs_because_a_file_names_it(folder, tmp_path, read, kind):
    """Here `subprocess.getoutput` would make a file."""
    place = tmp_path / "made"
    name = f"subprocess:getoutput?cmd=touch {place}"
    recipe = {"kind": kind, "configs": {}, "architecture": "test_vit", "args": {}} if kind else {}
    rewrite(folder, architecture=name, recipe=recipe)
    with pytest.raises(ModelError) as error:
        read(folder)
    assert str(error.value).endswith(
        "a function, and no function is called because a file names it. If you trust it, name it "
        "yourself: load_cut(folder, network='module.path:factory'), or --model module.path:factory."
    )
    assert not place.exists()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("open_clip:ViT-B-32?pretrained=evil.pt&weights_only=False", {}),
        ("test_vit?checkpoint_path=evil.pt", {}),
        ("test_vit", {"kind": "timm", "architecture": "test_vit", "args": {"pretrained": True}}),
    ],
)
def test_no_weights_are_read_because_a_file_names_them(folder, name, recipe):
    rewrite(folder, architecture=name, recipe=recipe)
    with pytest.raises(ModelError, match="no weights are read because a file names them"):
        load_cut(folder)


def test_arguments_of_a_factory_are_those_of_the_user(folder, written):
    rewrite(folder, architecture=f"{CHAIN}?depth=5")
    x = images()
    assert torch.equal(outputs(load_cut(folder, CHAIN), x), outputs(written[1], x))
    with pytest.raises(ModelError, match="depth"):
        load_cut(folder, f"{CHAIN}?depth=5")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("is_named", [True, False])
def test_network_on_a_gpu_is_saved_and_checked(tmp_path, is_named):
    whole = whole_of(CHAIN)
    whole = whole if is_named else load_network(whole.module, preprocessing=SMALL)
    expected = outputs(cut_after(whole, "blocks.1").eval())
    whole.module.cuda()
    cut = cut_after(whole, "blocks.1")
    save_cut(cut, tmp_path / "cut", whole)
    assert {each.device.type for each in [*cut.parameters(), *whole.module.parameters()]} == {
        "cuda"
    }
    given = copy.deepcopy(whole.module)
    assert check_cut(tmp_path / "cut", given) == EXACT
    assert torch.equal(outputs(load_cut(tmp_path / "cut", given).cpu()), expected)


# --- the record ---------------------------------------------------------------------------------


def test_hashes_are_those_of_the_files_and_all_can_read_them(written):
    listed = facts_of(written[0])["files"]
    assert listed == {name: sha256(written[0] / name) for name in listed}
    others = {path.name for path in written[0].iterdir()} - set(listed)
    assert others == {"scalecut.json", "README.md", "report.html"}
    assert {path.stat().st_mode & 0o444 for path in written[0].iterdir()} == {0o444}


def test_record_describes_the_cut_and_its_origin(tmp_path):
    given = Weights("pretrained", "hub timm/chain.in1k", "ab" * 32, ("fc.weight",))
    whole = replace(whole_of(CHAIN), weights=given)
    whole.module.pretrained_cfg = {"license": "CC-BY-NC-4.0"}
    curve = planted(whole, images={"count": 40}, command="scalecut probe", seed=9)
    saved(
        tmp_path / "cut",
        whole=whole,
        choice=choose_layer(curve),
        curve=curve,
        command="scalecut cut x",
    )
    said = facts_of(tmp_path / "cut")
    assert said["architecture"] == CHAIN
    assert (said["point"]["layer"], said["point"]["alias"]) == ("blocks.1", "add_2")
    assert (said["way"], said["pooling"], said["head"], said["num_features"]) == (
        "passed on", "mean", 0, 8,
    )  # fmt: skip
    assert said["preprocessing"]["height"] == 32
    assert said["weights"]["source"] == "hub timm/chain.in1k"
    assert said["weights"]["sha256"] == "ab" * 32
    assert (said["licence"], said["base_model"]) == ("cc-by-nc-4.0", "timm/chain.in1k")
    assert said["choice"]["layer"] == said["curve"]["evidence"]["peak"] == "blocks.1"
    assert said["curve"]["finding"] == curve.finding()
    assert (said["curve"]["images"], said["curve"]["command"]) == ({"count": 40}, "scalecut probe")
    assert said["proof"]["largest_difference"] == 0
    assert said["command"] == "scalecut cut x"
    assert said["versions"] == versions()


def test_subset_that_chose_gives_the_evidence_and_the_figure(tmp_path):
    whole = whole_of(CHAIN)
    mean, dog = planted(whole, "blocks.2"), planted(whole, "blocks.1")
    curve = Curve(
        pd.concat([mean.table, dog.table.assign(subset="dog")], ignore_index=True),
        np.concatenate([mean.draws, dog.draws]),
        mean.points,
    )
    saved(tmp_path / "cut", whole=whole, choice=choose_layer(curve, subset="dog"), curve=curve)
    said = facts_of(tmp_path / "cut")
    assert said["choice"]["subset"] == "dog"
    assert said["curve"]["evidence"]["peak"] == said["choice"]["layer"] == "blocks.1"
    of_mean = tmp_path / "mean" / "curve.png"
    saved(of_mean.parent, whole=whole, choice=choose_layer(curve), curve=curve)
    assert (tmp_path / "cut" / "curve.png").read_bytes() != of_mean.read_bytes()


# --- damaged and foreign folders -----------------------------------------------------------------


def change(folder, name="model.safetensors", place=-1):
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(data)


def without(folder, name):
    """Remove a fact, by its name inside the others."""
    facts = facts_of(folder)
    *outer, last = name.split(".")
    del (facts[outer[0]] if outer else facts)[last]
    (folder / "scalecut.json").write_text(json.dumps(facts))


CHANGED = (
    "{0} of {1!r} was changed after it was written (its sha256 differs), so it is not used. Copy "
    "the folder again, or cut again."
)
OLDER = versions() | {"timm": "0.9.0", "numpy": "1.0"}
REFUSED = [
    *(
        (
            lambda folder, place=place: change(folder, place=place),
            ModelError,
            CHANGED.format("model.safetensors", "chain"),
        )
        for place in (0, 9, -1)
    ),
    (
        lambda folder: (folder / "model.safetensors").unlink(),
        ModelError,
        "'chain' has no model.safetensors. Copy the folder again, or cut again.",
    ),
    (
        lambda folder: (folder / "scalecut.json").write_text("no JSON"),
        DataError,
        "'chain' holds no cut of scalecut: scalecut.json cannot be read (Expecting value: line 1 "
        "column 1 (char 0)). Give a folder that `scalecut cut` wrote.",
    ),
    (
        lambda folder: (folder / "scalecut.json").unlink(),
        DataError,
        "'chain' holds no cut of scalecut: scalecut.json cannot be read ([Errno 2] No such file or "
        "directory: 'chain/scalecut.json'). Give a folder that `scalecut cut` wrote.",
    ),
    *(
        (
            lambda folder, name=name: without(folder, name),
            DataError,
            f"'chain' holds no cut of scalecut: scalecut.json cannot be read (it lacks {name!r}). "
            "Give a folder that `scalecut cut` wrote.",
        )
        for name in cut_folder.NEEDED
    ),
    *(
        (
            lambda folder, proof=proof: rewrite(folder, proof=proof),
            DataError,
            "'chain' holds no cut of scalecut: scalecut.json cannot be read (it lacks "
            "'proof.whole'). Give a folder that `scalecut cut` wrote.",
        )
        for proof in (None, [], "lines", 5)
    ),
    *(
        (
            lambda folder, files=files: rewrite(folder, files=files),
            ModelError,
            "scalecut.json of 'chain' does not list model.safetensors, so it cannot be checked. "
            "Copy the folder again, or cut again.",
        )
        for files in ({}, [], ["model.safetensors"], None, 5)
    ),
    (
        lambda folder: rewrite(folder, format=2, files=None, point="elsewhere"),
        DataError,
        "'chain' has format 2, but this version reads up to 1. Update scalecut.",
    ),
    (
        lambda folder: rewrite(folder, architecture=None),
        ModelError,
        "'chain' was cut from a module without a name, so it cannot be built. Give the whole "
        "network, load_cut(folder, network=...); its weights do not matter.",
    ),
]


@pytest.mark.parametrize("read", [load_cut, check_cut])
def test_messages(written, tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    for damage, kind, text in REFUSED:
        shutil.copytree(written[0], "chain")
        damage(Path("chain"))
        with pytest.raises(kind) as error:
            read("chain")
        assert str(error.value) == text
        shutil.rmtree("chain")


def test_network_is_loaded_without_its_example(folder, written):
    (folder / "example.safetensors").unlink()
    assert torch.equal(outputs(load_cut(folder, CHAIN)), outputs(written[1]))
    with pytest.raises(ModelError, match=r"has no example\.safetensors\. Copy the folder again"):
        check_cut(folder)


# --- networks that are built differently now -----------------------------------------------------


def test_network_that_no_longer_fits_names_the_versions_that_changed(folder):
    start = f"The tensors of {str(folder)!r} do not fit"
    rewrite(folder, versions=OLDER)
    with pytest.raises(ModelError) as error:
        load_cut(folder, ATTENDING)
    assert str(error.value).startswith(f"{start} {ATTENDING} as it is built here (")
    assert str(error.value).endswith(
        f"). It was written with timm 0.9.0 (here {versions()['timm']}). Install these versions, "
        "or cut it again."
    )
    assert "\n" not in str(error.value)
    rewrite(folder, architecture=FLATTENING, way="sideways", versions=versions())
    with pytest.raises(ModelError) as error:
        load_cut(folder, network=load_network(ATTENDING).module)
    assert str(error.value).endswith("). Cut it again.")
    assert "\n" not in str(error.value)
    rewrite(folder, architecture=None)
    with pytest.raises(ModelError, match="do not fit the network given as it is built here"):
        load_cut(folder, network=load_network(ATTENDING).module)
    with pytest.raises(ModelError, match=r"^'nets_of_somebody:net' could not be imported"):
        load_cut(folder, "nets_of_somebody:net")


@pytest.mark.parametrize(
    "changes",
    [
        {"point": {"layer": "blocks.1"}},
        {"point": {"layer": "blocks.1", "nonsense": 1}},
        {"pooling": "cls"},
        {"pooling": "sideways"},
        {"head": 4},
        {"entry": "backwards"},
        {"preprocessing": {}},
        {"preprocessing": None},
        {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "magic"}},
        {"versions": {}},
    ],
    ids=str,
)
@pytest.mark.slow
def test_nonsense_in_the_record_is_refused_in_one_line(folder, changes):
    rewrite(folder, **changes)
    for read in (load_cut, check_cut):
        with pytest.raises(ModelError, match="do not fit") as error:
            read(folder, ATTENDING)
        assert "\n" not in str(error.value)


# --- where it is written, and when it is not -----------------------------------------------------


def test_place_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "file").write_text("a file")
    before = tree(tmp_path)
    for name, reason in {
        "thesis": "exists and holds no cut of scalecut, so it is not replaced",
        "run": "exists and holds no cut of scalecut, so it is not replaced",
        "file": "is a file, but a folder is needed",
    }.items():
        with pytest.raises(OutputError) as error:
            saved(tmp_path / name)
        place = str(tmp_path / name)
        assert str(error.value) == f"{place!r} {reason}. Give --out a new folder."
    assert tree(tmp_path) == before


def test_earlier_cut_is_replaced(folder):
    (folder / "model.onnx").write_text("of the earlier cut")
    before = saved(folder, FLATTENING, layer="blocks.2")
    assert torch.equal(outputs(load_cut(folder, FLATTENING)), outputs(before))
    assert sorted(tree(folder)) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["chain"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("save_file", OSError(errno.ENOSPC, "full")),
        ("write_report", KeyboardInterrupt()),
        pytest.param("_write_example", KeyboardInterrupt(), marks=pytest.mark.slow),
        pytest.param("file_sha256", OSError(errno.ENOSPC, "full"), marks=pytest.mark.slow),
        pytest.param("card", OSError(errno.ENOSPC, "full"), marks=pytest.mark.slow),
    ],
)
def test_interrupted_cut_leaves_nothing_and_keeps_the_earlier_one(folder, monkeypatch, step, error):
    def fail(*args, **kwargs):
        raise error

    before = tree(folder.parent)
    monkeypatch.setattr(cut_folder, step, fail)
    for place in (folder, folder.with_name("new")):
        with pytest.raises((OutputError, KeyboardInterrupt)):
            saved(place, FLATTENING, layer="blocks.2")
        assert tree(folder.parent) == before


def test_cut_that_differs_from_the_whole_network_is_not_saved(tmp_path):
    whole, cut = cut_of(CHAIN, "blocks.1")
    trained = copy.deepcopy(cut)
    with torch.no_grad():
        trained.body.stem.weight += 1.0
    with pytest.raises(LayerError, match="gives other features than the whole network"):
        save_cut(trained, tmp_path / "cut", whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_new_process_loads_the_folder(written):
    assert reloaded_from(written[0], CHAIN) == EXACT


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a warning\nscalecut: It does not fit. Cut it again.\n", "It does not fit. Cut it again."),
        ("", "no message"),
    ],
)
def test_folder_that_a_new_process_cannot_load_is_not_saved(tmp_path, monkeypatch, said, reason):
    asked = []

    def run(words, **_):
        asked.extend(words)
        return subprocess.CompletedProcess(words, 2, "", said)

    monkeypatch.setattr(cut_folder, "reloaded_from", reloaded_from)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError) as error:
        saved(tmp_path / "short")
    assert str(error.value) == (f"A new process cannot load the cut, so it was not saved: {reason}")
    place = asked.pop(4)
    assert asked[:4] == [sys.executable, "-m", "scalecut", "check"]
    assert asked[4:] == ["--json", "--run-all", "--model", CHAIN]
    assert Path(place).name.startswith(".short-")  # before it gets its name
    assert list(tmp_path.iterdir()) == []


# --- exports -------------------------------------------------------------------------------------


def state_as_file(cut, path):
    save_file(cut.state_dict(), path)


def exported_outputs(change=lambda output: output):
    """A function that returns the outputs of the cut, with a change."""

    def read(path, x):
        load_file(path)
        _, cut = cut_of(CHAIN, "blocks.1")
        return change(outputs(cut, torch.from_numpy(x)).numpy())

    return read


@pytest.mark.long
def test_exports_are_made_listed_and_checked_from_disk(tmp_path):
    saved(tmp_path / "cut", exports=["onnx", "torch"])
    said = facts_of(tmp_path / "cut")
    for name in ("model.onnx", "model.pt2"):
        assert said["files"][name] == sha256(tmp_path / "cut" / name)
    assert said["exports_failed"] == {}
    found = check_cut(tmp_path / "cut", CHAIN, run_all=True)
    assert list(found) == ["model.safetensors", "model.onnx", "model.pt2"]
    assert found["model.safetensors"] == 0
    assert max(found.values()) < 1e-5


def test_export_that_fails_is_reported_and_the_cut_is_kept(tmp_path, monkeypatch):
    def fail(cut, path):
        path.write_text("half of it")
        path.with_name("model.onnx.data").write_text("and its weights")
        raise ModelError("It could not be written as ONNX (no such operator).")

    monkeypatch.setitem(EXPORTS, "onnx", Format("model.onnx", fail, exported_outputs()))
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, exported_outputs()))
    whole, cut = cut_of(CHAIN, "blocks.1")
    failed = save_cut(cut, tmp_path / "cut", whole, exports=["onnx", "torch"]).exports_failed
    assert failed == {"onnx": "It could not be written as ONNX (no such operator)."}
    assert facts_of(tmp_path / "cut")["exports_failed"] == failed
    assert {"model.onnx", "model.onnx.data"}.isdisjoint(tree(tmp_path / "cut"))
    assert check_cut(tmp_path / "cut", CHAIN) == {"model.safetensors": 0.0, "model.pt2": 0.0}


def test_export_with_other_outputs_is_removed(tmp_path, monkeypatch):
    for change, share in (
        (lambda output: output * np.float32(1.01), "0.01"),
        (lambda output: output * np.float32(np.nan), "nan"),
        (lambda output: output[:, :3], "inf"),
    ):
        read = exported_outputs(change)
        monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, read))
        whole, cut = cut_of(CHAIN, "blocks.1")
        failed = save_cut(cut, tmp_path / "cut", whole, exports=["torch"]).exports_failed
        assert failed == {"torch": f"Its outputs differ by {share} of the largest."}
        assert "model.pt2" not in tree(tmp_path / "cut")
        assert check_cut(tmp_path / "cut", CHAIN) == EXACT


def test_small_difference_of_an_export_is_reported(tmp_path, monkeypatch):
    reading = exported_outputs(lambda output: output * np.float32(1.00001))
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, reading))
    saved(tmp_path / "cut", exports=["torch"])
    assert check_cut(tmp_path / "cut", CHAIN)["model.pt2"] == pytest.approx(1e-5, rel=0.1)


def test_changed_export_is_refused_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, exported_outputs()))
    saved(tmp_path / "cut", exports=["torch"])
    path = tmp_path / "cut" / "model.pt2"
    path.write_bytes(path.read_bytes() + b" ")

    def refuse(path, x):
        raise AssertionError

    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, refuse))
    with pytest.raises(ModelError) as error:
        check_cut(tmp_path / "cut")
    assert str(error.value) == CHANGED.format("model.pt2", str(tmp_path / "cut"))
    load_cut(tmp_path / "cut", CHAIN)  # does not need it


class Touch:
    """A pickle that makes a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_an_export_of_somebody_else_is_not_unpickled_unless_asked(tmp_path, monkeypatch):
    """The file of a stranger, with the hash that he gives for it."""

    def unpickled(path, x):
        pickle.loads(path.read_bytes())
        return exported_outputs()(tmp_path / "cut" / "model.safetensors", x)

    monkeypatch.setitem(EXPORTS, "torch", replace(EXPORTS["torch"], features=unpickled))
    folder, place = tmp_path / "cut", tmp_path / "made"
    saved(folder)
    (folder / "model.pt2").write_bytes(pickle.dumps(Touch(place)))
    rewrite(folder, files=facts_of(folder)["files"] | {"model.pt2": sha256(folder / "model.pt2")})
    assert check_cut(folder, CHAIN) == EXACT
    done = CliRunner().invoke(app, ["check", str(folder), "--model", CHAIN])
    assert done.stdout.splitlines() == [
        "model.safetensors: the same outputs, exactly",
        "model.pt2: unchanged, but not run, because it can run any code (--run-all)",
    ]
    assert not place.exists()
    assert check_cut(folder, CHAIN, run_all=True) == EXACT | {"model.pt2": 0.0}
    assert place.exists()


# --- check ---------------------------------------------------------------------------------------


def test_example_holds_the_outputs_for_noise_and_its_reflections(written):
    folder, before = written
    example = load_file(folder / "example.safetensors")
    image = example["image"].numpy()
    assert image.shape == (32, 32, 3)
    assert len(np.unique(image)) == 256
    turned = [image, np.flip(image, 1), np.flip(image, 0)]
    expected = outputs(before, before.preprocessing.tensor(np.stack(turned)))
    assert torch.equal(example["output"], expected)
    assert (expected[0] != expected[1]).any()
    assert check_cut(folder, CHAIN) == EXACT


def test_check_refuses_a_network_that_gives_other_outputs(folder):
    example = load_file(folder / "example.safetensors")
    example["output"] = 1.25 * example["output"]  # so the outputs are a fifth of it too small
    save_file(example, folder / "example.safetensors")
    files = facts_of(folder)["files"]
    rewrite(folder, files=files | {"example.safetensors": sha256(folder / "example.safetensors")})
    with pytest.raises(ModelError) as error:
        check_cut(folder, CHAIN)
    assert str(error.value) == (
        f"model.safetensors of {str(folder)!r} gives other outputs than at the time of writing: "
        "they differ by 0.2 of the largest. Compare the versions in scalecut.json, or cut again."
    )


# --- the card ------------------------------------------------------------------------------------


def front_matter(text):
    """The YAML between the first two lines of three hyphens, as the hub reads it."""
    found = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL).group(1))
    assert huggingface_hub.ModelCard(text).data.to_dict() == found
    return found


def blocks(text):
    """Headings and code of a card, as Markdown reads them."""
    tokens = MarkdownIt().parse(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))
    kinds = {token.type for token in tokens} | {
        child.type for token in tokens for child in token.children or ()
    }
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    return headings, [t.content for t in tokens if t.type in ("fence", "code_block")], kinds


def read_card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A folder whose layer a curve chose."""
    place = tmp_path_factory.mktemp("chosen")
    whole = whole_of(CHAIN)
    planted(whole).save(place / "run")
    curve = read_curve(place / "run")
    options = {"choice": choose_layer(curve), "curve": curve}
    cut = saved(place / "cut", whole=whole, command="scalecut cut --from run", **options)
    return place / "cut", cut, curve


def test_front_matter_is_that_of_the_hub(written):
    assert front_matter(read_card(written[0])) == {
        "library_name": "scalecut",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["scalecut", "timm", "image-feature-extraction", "object-scale"],
    }


def test_known_licence_and_origin_are_in_the_front_matter(tmp_path):
    given = Weights("pretrained", "hub cache timm/chain.in1k", "ab" * 32)
    whole = replace(whole_of(CHAIN), weights=given)
    whole.module.pretrained_cfg = {"license": "Apache-2.0"}
    saved(tmp_path / "cut", whole=whole, head=2)
    text = read_card(tmp_path / "cut")
    found = front_matter(text)
    assert (found["license"], found["base_model"]) == ("apache-2.0", "timm/chain.in1k")
    assert "pipeline_tag" not in found  # with a head it gives no features
    assert f"- Weights: hub cache timm/chain.in1k, sha256 {'ab' * 32}\n" in text
    assert "- Licence of the weights: apache-2.0\n" in text


def test_card_names_network_layer_source_and_verification(written):
    text = read_card(written[0])
    headings, _, _ = blocks(text)
    assert headings == [
        "tests.cut.test_network:Chain, cut after blocks.1 (add_2)",
        "Verification",
        "Use",
        "Origin",
    ]
    assert "8 features: the output of the layer averaged over all positions." in text
    assert "- Same features as the whole network: exactly equal (4 images, float32).\n" in text
    assert "- Weights: the weights the factory gave\n" in text
    assert "- Licence of the weights: unknown; ask the provider of the weights\n" in text
    assert "resized to 32 x 32 pixels without cropping" in text


def test_card_describes_pooling_and_head(tmp_path):
    for pooling, head, text in (
        ("cls", 0, "8 features: the class token.\n"),
        (
            "both",
            3,
            "16 features: the class token concatenated with the mean over the patches. A linear "
            "layer with 3 outputs follows; it must be trained.\n",
        ),
    ):
        saved(tmp_path / "cut", ATTENDING, pooling=pooling, head=head)
        assert text in read_card(tmp_path / "cut")


def test_card_and_page_give_the_reason_and_the_curve(chosen):
    folder, _, curve = chosen
    text = read_card(folder)
    headings, _, kinds = blocks(text)
    assert headings[1] == "Why this layer"
    assert f"\n\n{choose_layer(curve).reason}\n\n{curve.finding()}\n\n" in text
    assert "![Scores by layer](curve.png)" in text
    assert "image" in kinds
    drawn = folder.parent / "run" / "figures" / "curve.png"
    assert (folder / "curve.png").read_bytes() == drawn.read_bytes()
    assert "curve.png" in facts_of(folder)["files"]
    page = (folder / "report.html").read_bytes()
    assert choose_layer(curve).reason.encode() in page
    write_report(folder)
    assert (folder / "report.html").read_bytes() == page


def test_card_without_a_figure_shows_none(chosen):
    folder, cut, curve = chosen
    facts = facts_of(folder)
    del facts["files"]["curve.png"]
    facts["weights"] |= {"kind": "random", "source": "seed 3"}
    text = card(facts, cut)
    assert "image" not in blocks(text)[2]
    assert "curve.png" not in text
    assert curve.finding() in text
    assert "- Weights: random, seed 3\n" in text


HOSTILE = [
    "```\n---\nlicense: mit\n---\n# Title",
    "\\```\r\n\r\n    code",
    *(
        pytest.param(text, marks=pytest.mark.slow)
        for text in ("~~~\n~~~", "``` <!-- <script>", "a: b\n- c # d `e")
    ),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_and_paths_break_neither_front_matter_nor_code(chosen, hostile):
    folder, cut, _ = chosen
    said = facts_of(folder)
    plain = blocks(card(said, cut))
    front = front_matter(card(said, cut))
    said["architecture"] = said["command"] = said["weights"]["source"] = hostile
    said["choice"]["reason"] = said["curve"]["finding"] = hostile
    said["proof"]["lines"] = [hostile, hostile]
    cut = copy.deepcopy(cut)
    cut.point = replace(cut.point, layer=hostile, alias="")
    text = card(said, cut)
    headings, code, kinds = blocks(text)
    assert front_matter(text) == front
    assert headings[1:] == plain[0][1:]
    assert len(headings) == len(plain[0])
    assert code == plain[1]
    assert kinds <= plain[2] | {"text_special"}  # a character with a backslash


def test_values_of_the_front_matter_are_quoted(written):
    for hostile in ("mit\nlicense: gpl", "a: b", "- x", "---", "'", '"', "#"):
        facts = facts_of(written[0]) | {"base_model": hostile, "licence": hostile}
        found = front_matter(card(facts, written[1]))
        assert (found["base_model"], found["license"]) == (hostile, hostile)


def test_card_quotes_the_command(written):
    said = facts_of(written[0]) | {"command": "scalecut cut x --out 'a``b'"}
    tokens = MarkdownIt().parse(card(said, written[1]))
    spans = [
        child.content for t in tokens for child in t.children or () if child.type == "code_inline"
    ]
    assert "scalecut cut x --out 'a``b'" in spans


@pytest.mark.parametrize("is_named", [True, False])
def test_code_on_the_card_runs(tmp_path, monkeypatch, is_named):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    whole = whole_of(CHAIN)
    if not is_named:
        whole = load_network(whole.module, preprocessing=SMALL)
    before = saved(tmp_path / "cut", whole=whole)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "image.png")
    _, (code,), _ = blocks(read_card(tmp_path / "cut"))
    monkeypatch.chdir(tmp_path)
    found = {"whole": load_network(CHAIN).module}
    exec(code.replace("FOLDER", "cut"), found)
    x = found["transform"](PIL.Image.open("image.png"))[None]
    assert torch.equal(x, SMALL.tensor(pixels[None]))
    assert torch.equal(outputs(found["network"], x), outputs(before, x))
    np.testing.assert_allclose(found["features"], outputs(before, x), rtol=1e-5)

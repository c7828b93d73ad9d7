"""Folders are read as others would read them: by safetensors, hashlib, YAML and Markdown."""

import copy
import errno
import hashlib
import json
import pickle
import re
import shutil
import socket
from dataclasses import replace
from functools import cache

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

from scalecut import (
    Curve,
    DataError,
    ModelError,
    OutputError,
    Preprocessing,
    choose,
    cut_after,
    load,
    load_network,
)
from scalecut.cut import folder as bundle
from scalecut.cut.export import EXPORTS, Format
from scalecut.cut.folder import card
from scalecut.cut.verify import prove
from scalecut.networks.network import Weights
from scalecut.networks.selection import chosen_points
from scalecut.runs import versions
from tests.cli.test_app import tree
from tests.cut.test_network import SMALL, images
from tests.probing.test_curve import made_up

pytestmark = pytest.mark.usefixtures("one_thread")

CHAIN, FLATTENING, ATTENDING = (
    "tests.cut.test_network:Chain",
    "tests.cut.test_network:Flattening",
    "tests.cut.test_network:Attending",
)
WAYS = {CHAIN: "passed on", FLATTENING: "stopped", ATTENDING: "passed on"}


def whole_of(name, preprocessing=SMALL):
    """A network whose numbers no fresh one has."""
    whole = load_network(name, preprocessing=preprocessing)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in [*whole.module.parameters(), *whole.module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.1 + 0.4 * torch.rand(tensor.shape, generator=rng))
    return whole


def kept(folder, name=CHAIN, *, layer="blocks.1", pooling="mean", head=0, whole=None, **options):
    """Cut, prove and write; gives the cut as it was before it was written."""
    how = (layer, pooling, head)
    whole, cut, proof = cut_from(whole, *how) if whole else cut_of(name, *how)
    before = copy.deepcopy(cut).eval()
    bundle.keep(cut, folder, whole, proof, **options)
    return before


@cache
def cut_of(name, *how):
    return cut_from(whole_of(name), *how)


def cut_from(whole, layer, pooling="mean", head=0):
    cut = cut_after(whole, layer, pooling=pooling, head=head)
    return whole, cut, prove(whole, cut, pairs=1, batch_size=1)


def planted(whole, best="blocks.1", **provenance):
    """A curve of the network whose peak is known."""
    points = tuple(chosen_points(whole)[0])
    r2 = [0.8 if point.layer == best else 0.4 for point in points]
    table, draws = made_up(
        np.random.default_rng(0), r2, layers={point.layer: point.alias for point in points}
    )
    return Curve(table, draws, points, provenance=provenance)


def facts_of(folder):
    return json.loads((folder / "scalecut.json").read_text(encoding="utf-8"))


def rewrite(folder, **changes):
    (folder / "scalecut.json").write_text(json.dumps(facts_of(folder) | changes), encoding="utf-8")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_each_layer_costs_comes_back_with_the_network(tmp_path):
    before = kept(tmp_path / "cut")
    costs = bundle.load(tmp_path / "cut").costs
    pd.testing.assert_frame_equal(costs, before.costs, check_dtype=False)
    assert costs.layer.tolist()[-1] == "logits"
    assert costs.macs.is_monotonic_increasing
    rewrite(tmp_path / "cut", costs=[])  # as before there were any
    assert bundle.load(tmp_path / "cut").costs is None


def outputs(network, x=None):
    with torch.no_grad():
        return network(images() if x is None else x)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder that tests read, with the cut that it was made of."""
    folder = tmp_path_factory.mktemp("written") / "chain"
    return folder, kept(folder)


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it, that a test may harm."""
    return shutil.copytree(written[0], tmp_path / "chain")


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "pooling", "head"),
    [
        (CHAIN, "blocks.1", "mean", 0),
        (CHAIN, "add_2", "mean", 3),
        (FLATTENING, "blocks.2", "mean", 0),
        (FLATTENING, "stem", "mean", 2),
        (ATTENDING, "blocks.1", "both", 0),
        (ATTENDING, "blocks.0", "cls", 2),
    ],
)
def test_network_comes_back_with_the_same_outputs_to_the_last_bit(
    tmp_path, name, layer, pooling, head
):
    before = kept(tmp_path / "cut", name, layer=layer, pooling=pooling, head=head)
    again = load(tmp_path / "cut")
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
    )  # so the numbers are the file's


def test_network_of_timm_comes_back(tmp_path):
    whole = load_network(
        "tf_efficientnet_lite0", weights="random", seed=3, preprocessing=Preprocessing(64, 64)
    )
    before = kept(tmp_path / "cut", whole=whole, layer="blocks.1.0")
    x = images(side=64)
    assert torch.equal(outputs(load(str(tmp_path / "cut")), x), outputs(before, x))
    assert bundle.check(tmp_path / "cut") == {"model.safetensors": 0.0}
    assert facts_of(tmp_path / "cut")["weights"] == {
        "kind": "random",
        "source": "seed 3",
        "sha256": None,
        "missing": 0,
        "ignored": [],
    }


def test_own_preprocessing_comes_back(tmp_path):
    own = Preprocessing(24, 40, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), "bicubic", 0.9, "bgr")
    kept(tmp_path / "cut", whole=whole_of(CHAIN, own))
    assert load(tmp_path / "cut").preprocessing == own


@pytest.mark.parametrize("name", WAYS)
def test_tensors_are_those_of_the_whole_network_under_their_own_names(tmp_path, name):
    whole = whole_of(name)
    kept(tmp_path / "cut", whole=whole, layer="blocks.1")
    stored, given = load_file(tmp_path / "cut" / "model.safetensors"), whole.module.state_dict()
    before_the_cut = ("stem.", "patches.", "token", "blocks.0.", "blocks.1.")
    assert stored.keys() == {f"body.{n}" for n in given if n.startswith(before_the_cut)}
    for tensor_name, tensor in stored.items():
        assert torch.equal(tensor, given[tensor_name.removeprefix("body.")]), tensor_name


def test_file_of_tensors_says_what_hub_and_transformers_ask_for(written):
    with safe_open(written[0] / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_trained_head_is_kept_too(tmp_path):
    whole, cut, proof = cut_from(whole_of(CHAIN), "blocks.1", head=2)
    nn.init.constant_(cut.head.weight, 0.5)
    bundle.keep(cut, tmp_path / "cut", whole, proof)
    assert (load(tmp_path / "cut").head.weight == 0.5).all()


def test_network_that_is_written_is_left_as_it_is(tmp_path):
    whole, cut, proof = cut_from(whole_of(CHAIN), "blocks.1")
    cut.train()
    cut.body.norm.eval()
    modes = [module.training for module in cut.modules()]
    tensors = copy.deepcopy(cut.state_dict())
    bundle.keep(cut, tmp_path / "cut", whole, proof)
    assert [module.training for module in cut.modules()] == modes
    assert all(torch.equal(tensor, tensors[n]) for n, tensor in cut.state_dict().items())


def test_module_without_a_name_is_given_again(tmp_path):
    named = whole_of(CHAIN)
    whole = load_network(named.module, preprocessing=SMALL)
    before = kept(tmp_path / "cut", whole=whole)
    assert facts_of(tmp_path / "cut")["architecture"] is None
    fresh = load_network(CHAIN).module
    numbers = copy.deepcopy(fresh.state_dict())
    assert torch.equal(outputs(load(tmp_path / "cut", network=fresh)), outputs(before))
    assert bundle.check(tmp_path / "cut", fresh) == {"model.safetensors": 0.0}
    assert all(torch.equal(tensor, numbers[n]) for n, tensor in fresh.state_dict().items())
    with pytest.raises(ModelError) as error:
        load(tmp_path / "cut")
    assert str(error.value) == (
        f"{str(tmp_path / 'cut')!r} was cut from a module that has no name to build it by. Give "
        "load(folder, network=...) a fresh one; its weights do not matter."
    )


def test_nothing_is_unpickled_and_no_network_is_asked(folder, monkeypatch):
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
    load(folder)
    bundle.check(folder)
    assert asked == []
    suffixes = {path.suffix for path in folder.iterdir()}
    assert suffixes == {".safetensors", ".json", ".md"}


# --- what is recorded ----------------------------------------------------------------------------


def test_hashes_are_those_of_the_files(written):
    listed = facts_of(written[0])["files"]
    assert listed == {name: sha256(written[0] / name) for name in listed}
    others = {path.name for path in written[0].iterdir()} - set(listed)
    assert others == {"scalecut.json", "README.md"}


def test_record_says_what_the_cut_is_and_where_it_comes_from(tmp_path):
    given = Weights("pretrained", "timm hub timm/chain.in1k", "ab" * 32, ("fc.weight",))
    whole = replace(whole_of(CHAIN), weights=given)
    whole.module.pretrained_cfg = {"license": "CC-BY-NC-4.0"}
    curve = planted(whole, images={"count": 40}, command="scalecut probe", seed=9)
    kept(tmp_path / "cut", whole=whole, choice=choose(curve), curve=curve, command="scalecut cut x")
    said = facts_of(tmp_path / "cut")
    assert said["architecture"] == CHAIN
    assert (said["point"]["layer"], said["point"]["alias"]) == ("blocks.1", "add_2")
    assert (said["way"], said["pooling"], said["head"], said["num_features"]) == (
        "passed on", "mean", 0, 8,
    )  # fmt: skip
    assert said["preprocessing"]["height"] == 32
    assert said["weights"]["source"] == "timm hub timm/chain.in1k"
    assert said["weights"]["sha256"] == "ab" * 32
    assert (said["licence"], said["base_model"]) == ("cc-by-nc-4.0", "timm/chain.in1k")
    assert said["choice"]["layer"] == said["curve"]["evidence"]["peak"] == "blocks.1"
    assert said["curve"]["finding"] == curve.finding()
    assert (said["curve"]["images"], said["curve"]["command"]) == ({"count": 40}, "scalecut probe")
    assert said["proof"]["largest_difference"] == 0
    assert said["command"] == "scalecut cut x"
    assert said["versions"] == versions()


def test_record_of_a_choice_by_subset_has_the_evidence_of_that_subset(tmp_path):
    whole = whole_of(CHAIN)
    mean, dog = planted(whole, "blocks.2"), planted(whole, "blocks.1")
    curve = Curve(
        pd.concat([mean.table, dog.table.assign(subset="dog")], ignore_index=True),
        np.concatenate([mean.draws, dog.draws]),
        mean.points,
    )
    kept(tmp_path / "cut", whole=whole, choice=choose(curve, subset="dog"), curve=curve)
    said = facts_of(tmp_path / "cut")
    assert said["choice"]["subset"] == "dog"
    assert said["curve"]["evidence"]["peak"] == said["choice"]["layer"] == "blocks.1"


# --- damaged and foreign folders -----------------------------------------------------------------


def test_changed_tensors_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    state["body.stem.weight"] += 1e-3
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    said = (
        f"model.safetensors of {str(folder)!r} is not the file that was written (its sha256 is "
        "another), so it is not used. Copy it again, or cut again."
    )
    for read in (load, bundle.check):
        with pytest.raises(ModelError) as error:
            read(folder)
        assert str(error.value) == said


@pytest.mark.parametrize("place", [0, 9, -1])
def test_any_changed_byte_is_refused(folder, place):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="its sha256 is another"):
        load(folder)


def test_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its sha256 is another"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "example.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError) as error:
        bundle.check(folder)
    assert str(error.value) == f"{str(folder)!r} lacks {name}. Copy it again, or cut again."


def test_network_is_loaded_without_its_example(folder, written):
    (folder / "example.safetensors").unlink()
    assert torch.equal(outputs(load(folder)), outputs(written[1]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("no JSON", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "it says no format"),
        ("{}", "it says no format"),
        ('{"format": "1"}', "it says no format"),
        ('{"format": 1}', "it lacks 'architecture'"),
    ],
)
def test_json_that_is_not_ours_is_refused(folder, text, reason):
    (folder / "scalecut.json").write_text(text)
    said = (
        f"{str(folder)!r} holds no cut network: scalecut.json cannot be read ({reason}). Give a "
        "folder that `scalecut cut` wrote."
    )
    for read in (load, bundle.check, bundle.read_facts):
        with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
            read(folder)


@pytest.mark.parametrize(
    "key",
    ["architecture", "point.layer", "way", "entry", "pooling", "head", "num_features",
     "preprocessing", "proof.whole", "proof.cut", "proof.batch_size", "proof.lines", "versions",
     "files", "format"],
)  # fmt: skip
def test_record_that_lacks_something_is_refused_and_says_what(folder, key):
    said = facts_of(folder)
    *outer, name = key.split(".")
    del (said[outer[0]] if outer else said)[name]
    (folder / "scalecut.json").write_text(json.dumps(said))
    with pytest.raises(DataError) as error:
        load(folder)
    lacking = "it says no format" if key == "format" else f"it lacks {key!r}"
    assert f"scalecut.json cannot be read ({lacking})" in str(error.value)


@pytest.mark.parametrize("proof", [None, [], "lines", 5])
def test_record_with_another_thing_in_the_place_of_the_proof_is_refused(folder, proof):
    rewrite(folder, proof=proof)
    with pytest.raises(DataError, match=r"cannot be read \(it lacks 'proof.whole'\)"):
        bundle.check(folder)


@pytest.mark.parametrize("files", [{}, [], ["model.safetensors"], None, 5])
def test_record_that_lists_no_files_is_refused(folder, files):
    rewrite(folder, files=files)
    with pytest.raises(DataError, match=r"cannot be read \(it lacks 'model.safetensors'\)"):
        load(folder)


def test_folder_that_is_no_cut_is_refused(tmp_path):
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"{str(tmp_path)!r} holds no cut network: scalecut.json cannot be read ([Errno 2] No such "
        f"file or directory: {str(tmp_path / 'scalecut.json')!r}). Give a folder that "
        "`scalecut cut` wrote."
    )
    with pytest.raises(DataError, match="holds no cut network"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("rest", [{}, {"files": None, "point": "elsewhere"}])
def test_newer_format_is_refused(folder, rest):
    rewrite(folder, format=2, **rest)
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value) == (
        f"{str(folder)!r} has format 2, but this version reads up to 1. Update scalecut."
    )


# --- networks that are built otherwise by now ----------------------------------------------------


def test_network_that_no_longer_fits_names_the_versions(folder):
    theirs = versions() | {"timm": "0.9.0", "numpy": "1.0"}
    rewrite(folder, architecture=ATTENDING, versions=theirs)
    with pytest.raises(ModelError) as error:
        load(folder)
    said = str(error.value)
    assert said.startswith(f"{str(folder)!r} does not fit {ATTENDING} as it is built here (")
    assert said.endswith(
        f"). It was written with timm 0.9.0 (here {versions()['timm']}): install what it was "
        "written with, or cut it again."
    )
    assert "\n" not in said


def test_network_that_changed_under_the_same_versions_is_cut_again(folder):
    rewrite(folder, architecture="test_export:Plain")
    with pytest.raises(ModelError) as error:
        load(folder)
    said = str(error.value)
    assert said.startswith(
        f"{str(folder)!r} does not fit test_export:Plain as it is built here (Error(s) in loading "
        "state_dict for CutNetwork: "
    )
    assert said.endswith("). Cut it again.")
    assert "\n" not in said


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
def test_other_nonsense_in_the_record_is_one_line_too(folder, changes):
    rewrite(folder, **{"architecture": ATTENDING} | changes)
    for read in (load, bundle.check):
        with pytest.raises(ModelError, match="does not fit") as error:
            read(folder)
        assert "\n" not in str(error.value)


def test_other_network_given_in_place_of_the_own_is_refused(folder):
    other = load_network(ATTENDING).module
    with pytest.raises(ModelError, match="does not fit the network given as it is built here"):
        rewrite(folder, architecture=None)
        load(folder, network=other)


def test_factory_that_is_not_there_is_named(folder):
    rewrite(folder, architecture="nets_of_somebody:net")
    with pytest.raises(ModelError, match=r"^'nets_of_somebody:net' could not be imported"):
        load(folder)


# --- where it is written -------------------------------------------------------------------------


def test_folder_that_holds_something_else_is_not_replaced(tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(OutputError) as error:
        kept(tmp_path / "cut")
    assert str(error.value) == (
        f"{str(tmp_path / 'cut')!r} is there and holds no cut of scalecut, so it is not replaced. "
        "Give --out a new folder."
    )
    assert tree(tmp_path) == before


def test_run_folder_is_not_replaced_by_a_cut(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="holds no cut of scalecut"):
        kept(tmp_path / "run")
    assert tree(tmp_path / "run") == {"run.json": b"{}"}


def test_file_is_not_replaced(tmp_path):
    (tmp_path / "cut").write_text("a file")
    with pytest.raises(OutputError) as error:
        kept(tmp_path / "cut")
    assert str(error.value) == (
        f"{str(tmp_path / 'cut')!r} is a file, but a folder is needed. Give --out a new folder."
    )


def test_former_cut_is_replaced_whole(folder):
    (folder / "model.onnx").write_text("of the former cut")
    before = kept(folder, FLATTENING, layer="blocks.2")
    assert torch.equal(outputs(load(folder)), outputs(before))
    assert sorted(tree(folder)) == [
        "README.md",
        "example.safetensors",
        "model.safetensors",
        "scalecut.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["chain"]


@pytest.mark.parametrize("step", ["save_file", "_write_example", "_sha256", "card"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
def test_nothing_is_left_behind_and_the_former_cut_is_kept(folder, monkeypatch, step, error):
    def fail(*args, **kwargs):
        raise error

    before = tree(folder.parent)
    with monkeypatch.context() as patched, pytest.raises((OutputError, KeyboardInterrupt)):
        patched.setattr(bundle, step, fail)
        kept(folder, FLATTENING, layer="blocks.2")
    assert tree(folder.parent) == before
    with monkeypatch.context() as patched, pytest.raises((OutputError, KeyboardInterrupt)):
        patched.setattr(bundle, step, fail)
        kept(folder.with_name("new"), FLATTENING, layer="blocks.2")
    assert tree(folder.parent) == before


def test_all_files_can_be_read_by_others(written):
    assert {path.stat().st_mode & 0o444 for path in written[0].iterdir()} == {0o444}


# --- exports -------------------------------------------------------------------------------------


def state_as_file(cut, path):
    save_file(cut.state_dict(), path)


def answering(change=lambda output: output):
    """What reads a file and answers what the cut does, but for a change."""

    def answer(path, x):
        load_file(path)
        _, cut, _ = cut_of(CHAIN, "blocks.1")
        return change(outputs(cut, torch.from_numpy(x)).numpy())

    return answer


def test_exports_are_made_listed_and_checked_from_disk(tmp_path):
    kept(tmp_path / "cut", exports=["onnx", "torch"])
    said = facts_of(tmp_path / "cut")
    for name in ("model.onnx", "model.pt2"):
        assert said["files"][name] == sha256(tmp_path / "cut" / name)
    assert said["exports_failed"] == {}
    found = bundle.check(tmp_path / "cut")
    assert list(found) == ["model.safetensors", "model.onnx", "model.pt2"]
    assert found["model.safetensors"] == 0
    assert max(found.values()) < 1e-5


def test_export_that_fails_is_reported_and_the_cut_is_kept(tmp_path, monkeypatch):
    def fail(cut, path):
        path.write_text("half of it")
        path.with_name("model.onnx.data").write_text("and its weights")
        raise ModelError("It could not be written as ONNX (no such operator).")

    monkeypatch.setitem(EXPORTS, "onnx", Format("model.onnx", fail, answering()))
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, answering()))
    whole, cut, proof = cut_of(CHAIN, "blocks.1")
    failed = bundle.keep(cut, tmp_path / "cut", whole, proof, exports=["onnx", "torch"])
    assert failed == {"onnx": "It could not be written as ONNX (no such operator)."}
    assert facts_of(tmp_path / "cut")["exports_failed"] == failed
    assert {"model.onnx", "model.onnx.data"}.isdisjoint(tree(tmp_path / "cut"))
    assert bundle.check(tmp_path / "cut") == {"model.safetensors": 0.0, "model.pt2": 0.0}


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda output: output * np.float32(1.01), "0.01"),
        (lambda output: output * np.float32(np.nan), "nan"),
        (lambda output: output[:, :3], "inf"),
    ],
)
def test_export_that_gives_something_else_is_not_kept(tmp_path, monkeypatch, change, share):
    reading, reason = answering(change), f"its outputs differ by {share} of the largest"
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, reading))
    whole, cut, proof = cut_of(CHAIN, "blocks.1")
    assert bundle.keep(cut, tmp_path / "cut", whole, proof, exports=["torch"]) == {"torch": reason}
    assert "model.pt2" not in tree(tmp_path / "cut")
    assert bundle.check(tmp_path / "cut") == {"model.safetensors": 0.0}


def test_small_differences_of_an_export_are_told(tmp_path, monkeypatch):
    reading = answering(lambda output: output * np.float32(1.00001))
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, reading))
    kept(tmp_path / "cut", exports=["torch"])
    assert bundle.check(tmp_path / "cut")["model.pt2"] == pytest.approx(1e-5, rel=0.1)


def test_changed_export_is_refused_and_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, answering()))
    kept(tmp_path / "cut", exports=["torch"])
    path = tmp_path / "cut" / "model.pt2"
    path.write_bytes(path.read_bytes() + b" ")

    def refuse(path, x):
        raise AssertionError

    monkeypatch.setitem(EXPORTS, "torch", Format("model.pt2", state_as_file, refuse))
    with pytest.raises(ModelError) as error:
        bundle.check(tmp_path / "cut")
    assert str(error.value) == (
        f"model.pt2 of {str(tmp_path / 'cut')!r} is not the file that was written (its sha256 is "
        "another), so it is not used. Copy it again, or cut again."
    )
    load(tmp_path / "cut")  # does not need it


# --- check ---------------------------------------------------------------------------------------


def test_check_finds_no_difference(written):
    assert bundle.check(written[0]) == {"model.safetensors": 0.0}


def test_example_is_what_the_cut_makes_of_noise_and_its_mirror_images(written):
    folder, before = written
    example = load_file(folder / "example.safetensors")
    picture = example["image"].numpy()
    assert picture.shape == (32, 32, 3)
    assert len(np.unique(picture)) == 256
    turned = [picture, np.flip(picture, 1), np.flip(picture, 0)]
    expected = outputs(before, before.preprocessing.tensor(np.stack(turned)))
    assert torch.equal(example["output"], expected)
    assert (expected[0] != expected[1]).any()


def test_check_refuses_a_network_that_gives_other_outputs(folder):
    example = load_file(folder / "example.safetensors")
    example["output"] = 1.25 * example["output"]  # so what is found is a fifth of it too small
    save_file(example, folder / "example.safetensors")
    files = facts_of(folder)["files"]
    rewrite(folder, files=files | {"example.safetensors": sha256(folder / "example.safetensors")})
    with pytest.raises(ModelError) as error:
        bundle.check(folder)
    assert str(error.value) == (
        f"model.safetensors of {str(folder)!r} gives other outputs than when it was written, by "
        "0.2 of the largest. Check the versions in scalecut.json, or cut again."
    )


# --- the card ------------------------------------------------------------------------------------


def front_matter(text):
    """What stands between the first two lines of three hyphens, as the hub reads it."""
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
    """A folder that a curve led to, with the curve's picture."""
    place = tmp_path_factory.mktemp("chosen")
    PIL.Image.new("RGB", (4, 3)).save(place / "drawn.png")
    whole = whole_of(CHAIN)
    curve = planted(whole)
    cut = kept(
        place / "cut", whole=whole, choice=choose(curve), curve=curve,
        picture=place / "drawn.png", command="scalecut cut --from runs/a",
    )  # fmt: skip
    return place / "cut", cut, curve


def test_front_matter_is_what_the_hub_asks_for(written):
    assert front_matter(read_card(written[0])) == {
        "library_name": "scalecut",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["scalecut", "timm", "image-feature-extraction", "object-scale"],
    }


def test_licence_and_origin_stand_in_the_front_matter_where_they_are_known(tmp_path):
    given = Weights("pretrained", "hub cache timm/chain.in1k", "ab" * 32)
    whole = replace(whole_of(CHAIN), weights=given)
    whole.module.pretrained_cfg = {"license": "Apache-2.0"}
    kept(tmp_path / "cut", whole=whole, head=2)
    text = read_card(tmp_path / "cut")
    found = front_matter(text)
    assert (found["license"], found["base_model"]) == ("apache-2.0", "timm/chain.in1k")
    assert "pipeline_tag" not in found  # with a head it gives no features
    assert f"- Weights: hub cache timm/chain.in1k, sha256 {'ab' * 32}\n" in text
    assert "- Licence of the weights: apache-2.0\n" in text


def test_card_names_network_layer_source_and_what_was_checked(written):
    text = read_card(written[0])
    headings, _, _ = blocks(text)
    assert headings == [
        "tests.cut.test_network:Chain, cut after blocks.1 (add_2)",
        "What was checked",
        "Use",
        "Where it comes from",
    ]
    assert "Images to 8 features, averaged over all places." in text
    assert "- Same features as the whole network: exactly equal (4 images, float32).\n" in text
    assert "- Weights: the weights the factory gave\n" in text
    assert "- Licence of the weights: not known; ask whoever gave them\n" in text
    assert "squashed to 32 x 32 pixels" in text


@pytest.mark.parametrize(
    ("pooling", "head", "said"),
    [
        ("cls", 0, "Images to 8 features, of the class token.\n"),
        ("both", 3, "Images to 16 features, of the class token, and averaged over the patches. A "
         "linear layer of 3 outputs follows; it has to be trained.\n"),
    ],
)  # fmt: skip
def test_card_tells_the_pooling_and_the_head(tmp_path, pooling, head, said):
    kept(tmp_path / "cut", ATTENDING, pooling=pooling, head=head)
    assert said in read_card(tmp_path / "cut")


def test_card_tells_why_here_and_shows_the_curve(chosen):
    folder, _, curve = chosen
    text = read_card(folder)
    headings, _, kinds = blocks(text)
    assert headings[1] == "Why here"
    assert f"\n\n{choose(curve).reason}\n\n{curve.finding()}\n\n" in text
    assert "![R² of object scale by layer](curve.png)" in text
    assert "image" in kinds
    assert (folder / "curve.png").read_bytes() == (folder.parent / "drawn.png").read_bytes()
    assert "curve.png" in facts_of(folder)["files"]


def test_card_without_a_picture_shows_none(chosen):
    folder, cut, curve = chosen
    said = facts_of(folder)
    del said["files"]["curve.png"]
    text = card(said, cut)
    assert "image" not in blocks(text)[2]
    assert "curve.png" not in text
    assert curve.finding() in text


def test_random_weights_are_called_so(written):
    said = facts_of(written[0])
    said["weights"] |= {"kind": "random", "source": "seed 3"}
    assert "- Weights: random, seed 3\n" in card(said, written[1])


@pytest.mark.parametrize(
    "hostile",
    [
        "```\n---\nlicense: mit\n---\n# Title",
        "~~~\n~~~",
        "``` <!-- <script>",
        "\\```\r\n\r\n    code",
        "a: b\n- c # d `e",
    ],
)
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


@pytest.mark.parametrize("hostile", ["mit\nlicense: gpl", "a: b", "- x", "---", "'", '"', "#"])
def test_values_of_the_front_matter_are_quoted(written, hostile):
    said = facts_of(written[0]) | {"base_model": hostile, "licence": hostile}
    found = front_matter(card(said, written[1]))
    assert (found["base_model"], found["license"]) == (hostile, hostile)


def test_command_stands_in_the_card_as_it_was_typed(written):
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
    before = kept(tmp_path / "cut", whole=whole)
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

"""Networks from a small server that imitates the hub, from its cache, and from folders."""

import hashlib
import inspect
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from scalecut.cut.folder import NEEDED, load_cut, save_cut
from scalecut.cut.network import cut_after
from scalecut.errors import DataError, ModelError
from scalecut.networks import sources
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.load import load_network
from scalecut.networks.selection import chosen_points, every_point

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
RECIPE = "init_values=1e-5&dynamic_img_size=True"  # as on the card of UNI


class Hub(BaseHTTPRequestHandler):
    """Files of repositories under `/ORG/NAME/resolve/REVISION/FILE`, and failures by name."""

    files: dict  # (repository, name) to content
    broken: dict  # (repository, name) to what happens instead, each once
    requests: list
    revisions: list  # of files, as they were asked for
    starts: list  # of broken answers, in bytes
    ended: threading.Event  # of the test

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def fail(self, status, code=""):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, with_body):
        if "/resolve/" not in self.path:
            return self.fail(404)
        _, org, name, _, revision, *rest = self.path.split("/")
        repository, file = f"{org}/{name}", "/".join(rest)
        self.revisions.append((file, revision))
        self.requests.append((self.command, repository, file))
        if org == "gated":
            return self.fail(401, "GatedRepo")
        if org == "busy":
            return self.fail(503)
        if repository not in {each for each, _ in self.files}:
            return self.fail(404, "RepoNotFound")
        content = self.files.get((repository, file))
        if content is None:
            return self.fail(404, "EntryNotFound")
        stated = hashlib.sha256(content).hexdigest()
        what = self.broken.get((repository, file)) if with_body else None
        if what == "other content":
            content = content[:-4] + b"\0\0\0\1"
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{stated}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return None
        if what in ("cut short", "stalls", "always stalls"):
            if what != "always stalls":
                self.broken.pop((repository, file))
            self.starts.append(start)
            if what != "always stalls" or not start:
                self.wfile.write(content[start : start + 1000])
                self.wfile.flush()
            if what != "cut short":
                self.ended.wait(60)
            self.close_connection = True
            return self.connection.close()
        self.wfile.write(content[start:])
        return None


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """A server, and an empty cache of the hub."""
    Hub.files, Hub.broken, Hub.requests, Hub.revisions, Hub.starts = {}, {}, [], [], []
    Hub.ended = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    yield Hub
    Hub.ended.set()
    server.shutdown()
    server.server_close()


def vit(seed=0, **more):
    torch.manual_seed(seed)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGS, **more)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    return module.eval()


def published(hub, folder, name="lab/vit", **more):
    """A vision transformer in a repository of the hub, as timm pushes it."""
    module = vit(**more)
    model_args = {**ARGS, **{key: value for key, value in more.items() if key == "reg_tokens"}}
    save_for_hf(module, folder, model_args=model_args, safe_serialization=True)
    for path in folder.iterdir():
        hub.files[name, path.name] = path.read_bytes()
    return module


def refusal(model, **options):
    with pytest.raises(ModelError) as error:
        load_network(model, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def images(n=2, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


# --- timm's networks on the hub ------------------------------------------------------------------


def test_a_network_of_the_hub_is_downloaded_once_and_found_without_it(hub, tmp_path, monkeypatch):
    module = published(hub, tmp_path / "pushed", init_values=1e-5)
    first = load_network(f"hf-hub:lab/vit?{RECIPE}")
    n_requests = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = load_network(f"hf-hub:lab/vit?{RECIPE}")
    assert len(hub.requests) == n_requests > 0
    assert first.name == again.name == f"hf-hub:lab/vit?{RECIPE}"
    assert first.weights == again.weights
    assert first.weights.source == "hub lab/vit"
    for network in (first, again):
        with torch.no_grad():
            assert torch.equal(network.module(images()), module(images()))
        assert network.preprocessing.height == 32


def test_a_local_folder_gives_the_same_network_and_the_same_hash(hub, tmp_path):
    published(hub, tmp_path / "pushed")
    there = load_network("hf-hub:lab/vit")
    here = load_network(f"local-dir:{tmp_path / 'pushed'}")
    by_file = load_network(
        f"local-dir:{tmp_path / 'pushed'}", weights=tmp_path / "pushed" / "model.safetensors"
    )
    assert there.weights.sha256 == here.weights.sha256 == by_file.weights.sha256
    assert there.weights.file_sha256 == here.weights.file_sha256


FAILURES = {
    "hf-hub:gated/uni": "gated/uni is gated: request access on https://huggingface.co/gated/uni, "
    "then log in with `hf auth login`",
    "hf-hub:nobody/nothing": "There is no nobody/nothing on the hub, or it is private",
    "hf-hub:busy/vit": "The hub answered 503 for config.json of busy/vit. Try again later.",
    "hf-hub:a b": "'a b' is no name of a repository. Give ORG/NAME.",
}


@pytest.mark.parametrize("model", FAILURES)
def test_failures_of_the_hub_are_one_line_with_the_remedy(hub, model):
    assert refusal(model).startswith(FAILURES[model])


def test_a_broken_download_is_resumed(hub, tmp_path):
    module = published(hub, tmp_path / "pushed")
    hub.broken["lab/vit", "model.safetensors"] = "cut short"
    network = load_network("hf-hub:lab/vit")
    gets = [each for each in hub.requests if each == ("GET", "lab/vit", "model.safetensors")]
    assert len(gets) == 2
    with torch.no_grad():
        assert torch.equal(network.module(images()), module(images()))


@pytest.mark.long
def test_a_stalled_download_is_resumed_where_it_stopped(hub, tmp_path, monkeypatch):
    module = published(hub, tmp_path / "pushed")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.broken["lab/vit", "model.safetensors"] = "always stalls"
    assert "Try again" in refusal("hf-hub:lab/vit")
    assert hub.starts == [0, *[1000] * (len(hub.starts) - 1)]
    assert len(hub.starts) > 1
    hub.broken["lab/vit", "model.safetensors"] = "stalls"  # once
    network = load_network("hf-hub:lab/vit")
    with torch.no_grad():
        assert torch.equal(network.module(images()), module(images()))


def test_a_minute_without_data_is_all_that_is_waited_for():
    constants = huggingface_hub.constants
    retries = inspect.signature(huggingface_hub.file_download.http_get).parameters["_nb_retries"]
    assert constants.HF_HUB_DOWNLOAD_TIMEOUT * (1 + retries.default) <= 60


def test_content_that_is_not_what_the_hub_states_is_refused_and_removed(hub, tmp_path):
    published(hub, tmp_path / "pushed")
    hub.broken["lab/vit", "model.safetensors"] = "other content"
    assert refusal("hf-hub:lab/vit").startswith("model.safetensors of lab/vit is damaged")
    hub.broken.clear()
    load_network("hf-hub:lab/vit")  # downloaded again


def test_a_damaged_file_in_the_cache_is_noticed(hub, tmp_path):
    published(hub, tmp_path / "pushed")
    load_network("hf-hub:lab/vit")
    (path,) = (tmp_path / "hub").glob("models--lab--vit/snapshots/*/model.safetensors")
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + b"\7")
    assert "is damaged" in refusal("hf-hub:lab/vit")


def test_repositories_of_other_libraries_are_named(hub, tmp_path):
    config = json.dumps({"model_type": "dinov2", "hidden_size": 8}).encode()
    hub.files["lab/dino", "config.json"] = config
    assert "Try transformers:lab/dino." in refusal("hf-hub:lab/dino")


# --- a cut needs no hub --------------------------------------------------------------------------

ALONE = """
import sys, torch
from scalecut import load_cut
images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(load_cut(sys.argv[1])(images), sys.argv[2])
"""


@pytest.mark.long
def test_a_cut_of_a_network_of_the_hub_is_used_without_it_to_the_last_bit(hub, tmp_path):
    published(hub, tmp_path / "pushed", reg_tokens=4)
    whole = load_network("hf-hub:lab/vit")
    points, _ = every_point(whole)
    assert points[1].prefix_tokens == 5
    cut = cut_after(whole, "blocks.1")
    with pooled_outputs(whole.module, [points[1]]) as outputs, torch.no_grad():
        whole.module(images())
        assert torch.equal(cut.eval()(images()), outputs["blocks.1"])
        expected = cut(images())
    save_cut(cut, tmp_path / "cut", whole)
    (tmp_path / "cut").rename(tmp_path / "elsewhere")
    nowhere = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "empty"),
        "HF_HOME": str(tmp_path / "empty"),
        "SCALECUT_CACHE": str(tmp_path / "empty"),
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "elsewhere"), str(tmp_path / "found.pt")],
        env=nowhere,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "found.pt"), expected)


@pytest.mark.long
def test_a_cut_on_the_hub_is_loaded(hub, tmp_path):
    published(hub, tmp_path / "pushed")
    whole = load_network("hf-hub:lab/vit")
    cut = cut_after(whole, "blocks.0").eval()
    save_cut(cut, tmp_path / "cut", whole)
    for path in (tmp_path / "cut").iterdir():
        if path.is_file():
            hub.files["lab/short", path.name] = path.read_bytes()
    with torch.no_grad():
        assert torch.equal(load_cut("hf-hub:lab/short")(images()), cut(images()))


def test_files_of_a_cut_are_of_one_revision(hub):
    facts = dict.fromkeys(name.partition(".")[0] for name in NEEDED)
    facts |= {"format": 1, "files": {"model.safetensors": "00", "model.onnx": "00"}}
    facts |= {
        "point": {"layer": "x"},
        "proof": dict.fromkeys(("whole", "cut", "batch_size", "lines")),
    }
    hub.files["lab/short", "scalecut.json"] = json.dumps(facts).encode()
    hub.files["lab/short", "model.safetensors"] = hub.files["lab/short", "model.onnx"] = b"some"
    with pytest.raises(ModelError, match="was changed after it was written"):
        load_cut("hf-hub:lab/short")
    asked = dict(hub.revisions)
    assert asked == {"scalecut.json": "main", "model.safetensors": COMMIT, "model.onnx": COMMIT}


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b'{"files": 5}'])
def test_a_record_on_the_hub_that_is_none_is_one_line(hub, content):
    hub.files["lab/short", "scalecut.json"] = content
    with pytest.raises(DataError, match=r"scalecut\.json cannot be read") as error:
        load_cut("hf-hub:lab/short")
    assert "\n" not in str(error.value)


FACTORY = """
import timm
def make():
    return timm.create_model("hf-hub:lab/vit", pretrained=True)
"""


@pytest.mark.long
def test_a_cut_of_a_factory_that_reads_the_hub_is_used_without_it(hub, tmp_path, monkeypatch):
    published(hub, tmp_path / "pushed", reg_tokens=4)
    (tmp_path / "hubfactory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "hubfactory", raising=False)
    whole = load_network("hubfactory:make")
    cut = cut_after(whole, "blocks.0").eval()
    save_cut(cut, tmp_path / "cut", whole)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    hub.requests.clear()
    hub.files.clear()
    with torch.no_grad():
        again = load_cut(tmp_path / "cut", "hubfactory:make")
        assert torch.equal(again(images()), cut(images()))
    assert hub.requests == []


def test_files_of_one_network_are_of_one_revision(hub, tmp_path):
    """The weights are those of the configuration that is in the cache, not of a later one."""
    published(hub, tmp_path / "pushed")
    load_network("hf-hub:lab/vit", weights="random")  # the configuration alone
    load_network("hf-hub:lab/vit")
    weights = [each for each in hub.revisions if each[0] == "model.safetensors"]
    assert {revision for _, revision in weights} == {COMMIT}


def test_classes_that_the_weights_do_not_have_are_refused(hub, tmp_path):
    published(hub, tmp_path / "pushed")
    assert "its classifier would be random" in refusal("hf-hub:lab/vit?num_classes=5")
    load_network("hf-hub:lab/vit?num_classes=5", weights="random")


# --- transformers --------------------------------------------------------------------------------


def transformer(kind):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    made = {
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**small, **sizes)),
        "registers": lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**small, **sizes, num_register_tokens=4)
        ),
        "vit": lambda: transformers.ViTModel(
            transformers.ViTConfig(**small, **sizes, intermediate_size=64)
        ),
        "clip": lambda: transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(**small, **sizes, intermediate_size=64)
        ),
    }[kind]()
    return made.eval()


PREFIX = {"dinov2": 1, "registers": 5, "vit": 1, "clip": 1}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
    "resample": 3,
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
}


@pytest.mark.parametrize("kind", PREFIX)
def test_patches_of_transformers_are_averaged_without_class_token_and_registers(kind, tmp_path):
    module = transformer(kind)
    module.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    network = load_network(f"transformers:{tmp_path}")
    shown = network.preprocessing
    assert (shown.height, shown.mean, shown.std) == (32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    assert (shown.interpolation, shown.shown) == ("bicubic", 0.8)
    points = [point for point in every_point(network)[0] if "layer" in point.layer.lower()]
    points = [point for point in points if "embed" not in point.layer][:2]
    assert [point.prefix_tokens for point in points] == 2 * [PREFIX[kind]]
    with torch.no_grad():
        hidden = module(images(), output_hidden_states=True).hidden_states
    with pooled_outputs(network.module, points) as outputs, torch.no_grad():
        network.module(images())
    for point, states in zip(points, hidden[1:], strict=True):
        patches = states[:, -16:]  # 4 x 4
        torch.testing.assert_close(outputs[point.layer], patches.mean(dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_a_cut_of_a_transformer_comes_back_without_its_files(tmp_path):
    module = transformer("registers")
    module.save_pretrained(tmp_path / "given")
    (tmp_path / "given" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    whole = load_network(f"transformers:{tmp_path / 'given'}")
    layer = next(p.layer for p in every_point(whole)[0] if "layer" in p.layer)
    cut = cut_after(whole, layer, pooling="both").eval()
    save_cut(cut, tmp_path / "cut", whole)
    (tmp_path / "given").rename(tmp_path / "gone")
    with torch.no_grad():
        assert torch.equal(load_cut(tmp_path / "cut")(images()), cut(images()))


def processor(tmp_path, **settings):
    """The preprocessing of an image processor with these settings."""
    transformer("vit").save_pretrained(tmp_path)
    plain = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**plain, **settings}))
    return load_network(f"transformers:{tmp_path}").preprocessing


PROCESSED = [  # settings, and what red 255 becomes
    ({}, (1 - 0.5) / 0.5),  # what ViT's processor does by default
    ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}, 0.9 / 0.5),
    ({"do_normalize": False}, 1.0),
    ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 1.0),
    ({"do_rescale": False, "do_normalize": False}, 255.0),
]


@pytest.mark.parametrize(("settings", "expected"), PROCESSED)
def test_images_are_shown_as_the_processor_shows_them(settings, expected, tmp_path):
    shown = processor(tmp_path, **settings)
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert shown.tensor(red)[0, 0].unique().tolist() == pytest.approx([expected], rel=1e-5)


def test_channels_that_the_processor_turns_around_are_turned_around(tmp_path):
    settings = {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 36}}
    shown = processor(tmp_path, **settings, crop_size={"height": 32, "width": 32})
    assert (shown.channels, shown.shown) == ("bgr", 32 / 36)


def test_tensors_that_a_folder_lacks_are_never_drawn_at_random(tmp_path):
    module = transformer("vit")
    module.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    state = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in state if "layer.1" in name or "layers.1" in name)
    del state[lost]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    network = load_network(f"transformers:{tmp_path}")
    (name,) = network.weights.missing  # by the names of the installed version
    assert network.module.state_dict()[name].isnan().all()
    points, left_out = chosen_points(network)
    assert len(points) == 2
    assert [name in each.reason for each in left_out] == [True]


# --- files ---------------------------------------------------------------------------------------


def test_a_folder_without_files_is_refused(tmp_path):
    assert "has no config.json" in refusal(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "resnet999"}')
    assert "does not know" in refusal(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet"}')
    assert "has none of model.safetensors" in refusal(f"local-dir:{tmp_path}")
    load_network(f"local-dir:{tmp_path}", weights="random")


def test_torchvision_weights_come_from_its_own_cache(tmp_path, monkeypatch):
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    stored = models.get_model("mobilenet_v3_small", weights=None).eval()
    url = models.get_model_weights("mobilenet_v3_small").DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(stored.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    network = load_network("torchvision:mobilenet_v3_small")
    with torch.no_grad():
        x = images(side=64)
        assert torch.equal(network.module(x), stored(x))
    assert network.preprocessing.shown == 224 / 256
    assert "no weights 'NOPE'" in refusal("torchvision:mobilenet_v3_small?weights=NOPE")


def test_arguments_may_be_numbers_products_and_layers():
    name = (
        "vit_tiny_patch16_224?img_size=32&depth=1&mlp_layer=SwiGLUPacked&act_layer=torch.nn.SiLU"
        "&mlp_ratio=2.66667*2&reg_tokens=8&init_values=1e-5&dynamic_img_size=True"
    )
    module = load_network(name, weights="random").module
    block = module.blocks[0]
    assert type(block.mlp).__name__ == "GluMlp"
    assert block.mlp.fc1.out_features == int(192 * 2.66667 * 2)
    assert isinstance(block.mlp.act, nn.SiLU)
    assert module.reg_token.shape[1] == 8 and block.ls1.gamma.numel() == 192
    assert sources.values({"act_layer": "gelu", "a": "1/0"}) == {"act_layer": "gelu", "a": "1/0"}

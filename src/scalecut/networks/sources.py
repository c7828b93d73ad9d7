"""Where networks come from: a name is looked up in one source after the other.

A name may end in arguments of the network, `NAME?KEY=VALUE&KEY=VALUE`, as cards on the hub give
them (`--model-arg KEY=VALUE` on the command line). To add a source, write one function and add it
to SOURCES.
"""

import ast
import copy
import functools
import importlib
import importlib.util
import json
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias, cast

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import _builder as timm_builder
from timm.models import _factory as timm_factory
from torch import nn

from ..data.decoding import INTERPOLATIONS
from ..errors import ModelError, first_line, near
from .googlenet import GoogLeNet
from .hub import WEIGHTS, hub_file
from .layers import with_pooled_module
from .network import Preprocessing, Weights, reinitialised
from .weights import check_head, in_one_line, of_folder, of_timm, weights_of

Args: TypeAlias = Mapping[str, str]  # as they were given


@dataclass(frozen=True, slots=True)
class Source:
    """How a network is built, and how it gets its pretrained weights."""

    name: str  # as it was given, with its arguments
    build: Callable[[], nn.Module]  # makes the module, without weights from elsewhere
    # makes it with fresh random weights; None if only a copy can be reset
    fresh: Callable[[], nn.Module] | None
    # loads the pretrained weights into a module and says where they come from; it is given
    # whether tensors may be missing
    pretrained: Callable[[nn.Module, bool], Weights]
    preprocessing: Preprocessing | None = None  # None for that of the module's timm configuration
    # how `build_again` makes the module without files or network; empty if it takes the name
    # alone
    recipe: Mapping[str, Any] = field(default_factory=dict)


def source_of(model: str | nn.Module) -> Source:
    """The source of a network.

    Raises:
        ModelError: if no source knows the name, or its network cannot be built.
    """
    if isinstance(model, nn.Module):
        return _as_it_is(model)
    name, args = name_and_arguments(model)
    for find in SOURCES.values():
        found = find(name, args)
        if found is not None:
            return found
    names = [*BUILT_IN, *timm.list_models()]
    raise ModelError(
        f"No network is named {name!r}. Near it: "
        f"{near(name, names, otherwise=['resnet50', 'inception_v3'])}. Give a timm name "
        f"({len(names)} are known), one of another source ({', '.join(PREFIXES)}), or "
        "module.path:factory for one of your own."
    )


def name_and_arguments(model: str) -> tuple[str, dict[str, str]]:
    """Split `NAME?KEY=VALUE&KEY=VALUE`; `values` gives the values meant."""
    name, _, text = model.partition("?")
    args: dict[str, str] = {}
    for part in text.split("&") if text else []:
        key, is_given, value = part.partition("=")
        if not is_given or not key.strip().isidentifier():
            raise ModelError(f"{part!r} is no argument of a network. Give KEY=VALUE.")
        args[key.strip()] = value.strip()
    return name, args


def values(args: Mapping[str, Any]) -> dict[str, Any]:
    """What arguments mean: numbers, lists, layers of timm or torch by their names, or text."""
    return {key: _value(each) if isinstance(each, str) else each for key, each in args.items()}


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return _literal(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, TypeError, ArithmeticError):
        pass
    place, _, name = text.rpartition(".")
    places = [place] if place in ("timm.layers", "torch.nn") else ["timm.layers", "torch.nn"]
    for each in places if place in ("", "nn", "timm.layers", "torch.nn") else []:
        found = getattr(importlib.import_module(each), name, None)
        if callable(found) and name[:1].isupper():  # timm takes `gelu` and the like as text
            return found
    return text


_TIMES = {ast.Mult: operator.mul, ast.Div: operator.truediv}


def _literal(node: ast.expr) -> Any:
    """A literal, or a product of numbers, as cards write `2.66667 * 2`."""
    if isinstance(node, ast.BinOp) and type(node.op) in _TIMES:
        return _TIMES[type(node.op)](_literal(node.left), _literal(node.right))
    return ast.literal_eval(node)


def is_factory(name: str) -> bool:
    """Whether a name is a `module.path:factory`, a function that is called to build the network."""
    kind, is_split, _ = name.partition("?")[0].partition(":")
    return bool(is_split) and kind not in {prefix.partition(":")[0] for prefix in PREFIXES}


READING = ("pretrained", "checkpoint", "load", "cache", "weights_only")  # begin such arguments


def check_named_in_file(
    name: str, where: str, remedy: str, recipe: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Refuse to build a network because a file names it, if that would run code or read files.

    Args:
        name: of the network, as the file gives it.
        where: what the file says it of, to begin a sentence.
        remedy: how the user names the network.
        recipe: of the network, as for `build_again`.

    Raises:
        ModelError: for a factory, and for arguments by which libraries load weights.
    """
    if is_factory(name):
        raise ModelError(
            f"{where} {name[:100]!r}, a function, and no function is called because a file names "
            f"it. {remedy}"
        )
    args = {**name_and_arguments(name)[1], **recipe.get("args", {})}
    reading = [key for key in args if key.startswith(READING)]
    if reading:
        raise ModelError(
            f"{where} {name[:100]!r} with the argument {reading[0][:40]!r}, and no weights are "
            f"read because a file names them. {remedy}"
        )


def build_again(name: str, recipe: Mapping[str, Any]) -> nn.Module:
    """The module of a recipe, with fresh weights; without files or network.

    Args:
        name: of the network, for recipes that need no more.
    """
    kind = recipe.get("kind")
    if kind == "timm":
        architecture, args = recipe["architecture"], values(recipe["args"])
        return _builder(name, timm.create_model, architecture, **args)()
    if kind == "transformers":
        return _builder(name, _of_configuration, recipe["config"])()
    return source_of(name).build()


# --- sources -------------------------------------------------------------------------------------


def _as_it_is(model: nn.Module) -> Source:
    """A module that the caller has built; it is copied."""
    name = type(model).__name__
    _check_usable(model, name)
    given = Weights("pretrained", "the weights the module came with")
    return Source(name, lambda: copy.deepcopy(model), None, lambda module, partial: given)


def _built_in(name: str, args: Args) -> Source | None:
    if name not in BUILT_IN:
        return None
    build, preprocessing = BUILT_IN[name]
    if args:
        raise ModelError(f"{name} takes no arguments, got {', '.join(args)}. Leave them out.")
    return Source(name, build, build, functools.partial(of_folder, name), preprocessing)


def _of_timm(name: str, args: Args) -> Source | None:
    if not timm.is_model(name):
        return None
    _check_tag(name)
    build = _builder(name, timm.create_model, name, **values(args))
    return Source(
        _joined(name, args),
        build,
        build,
        lambda module, partial: of_timm(name, module, partial, values(args)),
        recipe={"kind": "timm", "architecture": name, "args": args},
    )


def _of_hub(name: str, args: Args) -> Source | None:
    """`hf-hub:ORG/NAME`: a network of timm on the hub, whose configuration names it."""
    if not name.startswith("hf-hub:"):
        return None
    repository = name.removeprefix("hf-hub:")
    hint = "Or give a folder with the files, local-dir:DIR."
    folder = hub_file(repository, ["config.json"], remedy=hint).parent

    def pretrained(module: nn.Module, partial: bool) -> Weights:
        path = hub_file(repository, WEIGHTS, remedy=hint, sibling=folder)
        _load_of_folder(name, folder, module, args)
        return weights_of(module, f"hub {repository}", path)

    return _of_configured(name, folder, args, pretrained)


def _of_directory(name: str, args: Args) -> Source | None:
    """`local-dir:DIR`: a folder with the configuration and the weights of a network of timm."""
    if not name.startswith("local-dir:"):
        return None
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{str(folder)!r} has no config.json. Give a folder with the files that timm's hub "
            "has: config.json and model.safetensors."
        )

    def pretrained(module: nn.Module, partial: bool) -> Weights:
        path = next((folder / each for each in WEIGHTS if (folder / each).is_file()), None)
        if path is None:
            raise ModelError(f"{str(folder)!r} has none of {', '.join(WEIGHTS)}. Add it.")
        _load_of_folder(name, folder, module, args)
        return weights_of(module, f"folder {folder.name}", path)

    return _of_configured(name, folder, args, pretrained)


def _of_configured(
    name: str, folder: Path, args: Args, pretrained: Callable[[nn.Module, bool], Weights]
) -> Source:
    """A network of timm by the config.json of a folder."""
    config = _json(folder / "config.json")
    of_weights = config.get("pretrained_cfg") or {}
    architecture = config.get("architecture") or of_weights.get("architecture")
    if not architecture:
        kind = config.get("model_type")
        other = f"transformers:{name.partition(':')[2]}" if kind else "another source"
        raise ModelError(f"{name} is not a network of timm (its config names none). Try {other}.")
    if not timm.is_model(architecture):
        raise ModelError(
            f"{name} is a {architecture}, which timm {timm.__version__} does not know. Install a "
            "newer timm."
        )
    build = _builder(name, timm.create_model, f"local-dir:{folder}", **values(args))
    n_classes = config.get("num_classes", of_weights.get("num_classes"))
    own = {} if n_classes is None else {"num_classes": n_classes}
    every = {**own, **(config.get("model_args") or {}), **args}
    return Source(
        _joined(name, args),
        build,
        build,
        pretrained,
        recipe={"kind": "timm", "architecture": architecture, "args": every},
    )


def _load_of_folder(name: str, folder: Path, module: nn.Module, args: Args) -> None:
    check_head(name, module, values(args))
    place = f"local-dir:{folder}"
    whole = _builder(name, timm.create_model, place, pretrained=True, **values(args))()
    module.load_state_dict(whole.state_dict())


def _of_torchvision(name: str, args: Args) -> Source | None:
    """`torchvision:NAME`, with the weights that torchvision takes by default."""
    if not name.startswith("torchvision:"):
        return None
    from torchvision import models

    architecture, more = name.removeprefix("torchvision:"), values(args)
    wanted = more.pop("weights", "DEFAULT")
    known = models.list_models(module=models)
    if architecture not in known:
        similar = near(architecture, known)
        raise ModelError(f"torchvision has no {architecture!r}. Near it: {similar}.")
    choices = models.get_model_weights(architecture)
    if wanted not in choices.__members__:
        raise ModelError(
            f"torchvision has no weights {wanted!r} of {architecture}. Give one of "
            f"{', '.join(choices.__members__)}."
        )
    chosen: Any = choices[wanted]  # DEFAULT is another name of one of them
    shown = chosen.transforms()
    crop, resize = shown.crop_size[0], shown.resize_size[0]
    preprocessing = Preprocessing(
        *(crop, crop),
        mean=tuple(shown.mean),
        std=tuple(shown.std),
        interpolation=shown.interpolation.value,
        shown=crop / resize,
    )
    fresh: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        more.setdefault("transform_input", True)  # as their weights were trained
        fresh["init_weights"] = True  # what the default will be
    build = _builder(name, models.get_model, architecture, weights=None, **more, **fresh)

    def pretrained(module: nn.Module, partial: bool) -> Weights:
        place = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
        with in_one_line(name):
            try:
                whole = models.get_model(architecture, weights=chosen, **more)
            except OSError as error:
                raise ModelError(
                    f"The weights of {name} could not be downloaded ({first_line(error)}). Put "
                    f"{place.name} into {place.parent}, give a file by --weights, or use "
                    "--weights random."
                ) from error
        module.load_state_dict(whole.state_dict(), strict=False)
        return weights_of(module, f"torchvision {architecture} {chosen.name}", place)

    return Source(_joined(name, args), build, build, pretrained, preprocessing)


def _of_transformers(name: str, args: Args) -> Source | None:
    """`transformers:ORG/NAME` or `transformers:DIR`: the image model, as its processor shows it."""
    if not name.startswith("transformers:"):
        return None
    _need("transformers", name)
    place = name.removeprefix("transformers:")
    folder = Path(place).expanduser()
    hint = "Or give a folder with the files."
    is_local = (folder / "config.json").is_file()
    if not is_local:
        folder = hub_file(place, ["config.json"], remedy=hint).parent
    given = values(args)
    config = {**_json(folder / "config.json"), **given}
    build = _builder(name, _of_configuration, config)

    def pretrained(module: nn.Module, partial: bool) -> Weights:
        path = folder / WEIGHTS[0]
        if not is_local:
            path = hub_file(place, WEIGHTS, remedy=hint, sibling=folder)
        if not path.is_file():
            raise ModelError(f"{place!r} has no {WEIGHTS[0]}. Add it, or use --weights random.")
        missing = _load_transformer(name, folder, module, given)
        source = f"{'folder' if is_local else 'hub'} {place}"
        return weights_of(module, source, path, missing=missing)

    if not is_local:
        hub_file(place, ["preprocessor_config.json"], remedy=hint, sibling=folder)
    shown = _processed(name, folder)
    recipe = {"kind": "transformers", "config": config}
    return Source(_joined(name, args), build, build, pretrained, shown, recipe)


def _of_configuration(config: Mapping[str, Any]) -> nn.Module:
    """The image part of a network of transformers, with fresh weights."""
    import transformers

    given = {key: value for key, value in config.items() if key != "model_type"}
    own = transformers.AutoConfig.for_model(config["model_type"], **given)
    return _image_part(transformers.AutoModel.from_config(own)).eval()


def _load_transformer(
    name: str, folder: Path, module: nn.Module, given: Mapping[str, Any]
) -> tuple[str, ...]:
    """Load the weights of a folder into the image part, and name the tensors that it lacks.

    transformers draws these at random; here they become NaN, so that no layer uses them.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with in_one_line(name):
        whole, loaded = transformers.AutoModel.from_pretrained(
            str(folder), output_loading_info=True, **given
        )
    lacking = {*loaded["missing_keys"]}
    with torch.no_grad():
        for key, tensor in whole.state_dict().items():
            if key in lacking and tensor.is_floating_point():
                tensor.fill_(float("nan"))
    state = _image_part(whole).state_dict()
    module.load_state_dict(state)
    return tuple(key for key, tensor in state.items() if tensor.isnan().any())


def _image_part(module: nn.Module) -> nn.Module:
    """The part of a network of images and text, or of images and prompts, that takes images."""
    for name in ("vision_model", "vision_tower", "vision_encoder", "visual"):
        part = getattr(module, name, None)
        if isinstance(part, nn.Module):
            return part
    return module


def _processed(name: str, folder: Path) -> Preprocessing:
    """The preprocessing of the image processor of a folder of transformers.

    A processor computes (factor x - mean) / std, and may turn red, green, blue around first.
    """
    import transformers

    try:
        config = transformers.AutoImageProcessor.from_pretrained(
            str(folder), trust_remote_code=False
        ).to_dict()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} has no preprocessor_config.json that can be read ({first_line(error)}). Add "
            "it: it says how images are shown to the network."
        ) from error
    size, crop = config.get("size") or 224, config.get("crop_size")
    sides = _sides(crop if crop and config.get("do_center_crop") else size)
    shorter = size.get("shortest_edge") if isinstance(size, Mapping) else size
    shown = min(sides) / shorter if isinstance(shorter, int) and shorter >= min(sides) else 1.0
    factor = 255 * (config.get("rescale_factor") or 1 / 255) if config.get("do_rescale") else 255
    is_scaled = bool(config.get("do_normalize"))
    mean = _three(config["image_mean"]) if is_scaled else (0.0, 0.0, 0.0)
    std = _three(config["image_std"]) if is_scaled else (1.0, 1.0, 1.0)
    is_turned = bool(config.get("do_flip_channel_order"))
    if config.get("rescale_offset") or (is_turned and len({*mean}) + len({*std}) > 2):
        raise ModelError(
            f"The image processor of {name} shifts values, or turns channels around and scales "
            "each in its own way, which is not supported. Give a module.path:factory, --mean and "
            "--std."
        )
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # of Pillow
    return Preprocessing(
        *sides,
        mean=_three([each / factor for each in mean]),
        std=_three([each / factor for each in std]),
        interpolation=names.get(int(config.get("resample", 2)), "bilinear"),
        shown=shown,
        channels="bgr" if is_turned else "rgb",
    )


def _sides(size: Any) -> tuple[int, int]:
    """Height and width, of a side, two sides or their names."""
    if isinstance(size, Mapping):
        side = size.get("shortest_edge") or size.get("longest_edge") or 0
        return int(size.get("height", side)), int(size.get("width", side))
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _of_open_clip(name: str, args: Args) -> Source | None:
    """`open_clip:NAME` or `open_clip:NAME/TAG`: the part that takes images."""
    if not name.startswith("open_clip:"):
        return None
    _need("open_clip", name)
    import open_clip

    architecture, _, tag = name.removeprefix("open_clip:").partition("/")
    if architecture not in open_clip.list_models():
        similar = near(architecture, open_clip.list_models(), 0.4, otherwise=["ViT-B-32"])
        raise ModelError(f"open_clip has no {architecture!r}. Near it: {similar}.")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise ModelError(
            f"open_clip has no weights {tag!r} of {architecture}. Give one of "
            f"{', '.join(tags) or 'none'}."
        )
    facts = {**open_clip.get_pretrained_cfg(architecture, tag)} if tag else {}
    # the activation that the weights were trained with, which the architecture may not have
    given = {"force_quick_gelu": bool(facts.get("quick_gelu")), **values(args)}
    build = _builder(name, lambda: _image_part(open_clip.create_model(architecture, **given)))

    def pretrained(module: nn.Module, partial: bool) -> Weights:
        if not tag:
            raise ModelError(
                f"open_clip has {len(tags)} weights of {architecture}. Give one, such as "
                f"open_clip:{architecture}/{tags[-1] if tags else 'TAG'}, or --weights random."
            )
        try:
            whole = open_clip.create_model(architecture, pretrained=tag, **given)
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"The weights of {name} could not be loaded ({first_line(error)}). Give a file by "
                "--weights, or use --weights random."
            ) from error
        module.load_state_dict(_image_part(whole).state_dict())
        return weights_of(module, f"open_clip {architecture} {tag}")

    config: Any = open_clip.get_model_config(architecture)
    shown = Preprocessing(
        *_sides(config["vision_cfg"].get("image_size", 224)),
        mean=_three(facts.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=_three(facts.get("std") or open_clip.OPENAI_DATASET_STD),
        interpolation=facts.get("interpolation") or "bicubic",
        shown=1.0,
    )
    return Source(_joined(name, args), build, build, pretrained, shown)


def _of_factory(name: str, args: Args) -> Source | None:
    """`module.path:factory`, which gives a network with weights of its own.

    What timm reads from the hub meanwhile is kept for the recipe.
    """
    if ":" not in name:
        return None
    configs: dict[str, Any] = {}
    build = _factory(name, args, configs)
    given = Weights("pretrained", "the weights the factory gave")
    return Source(
        _joined(name, args),
        build,
        lambda: reinitialised(build()),
        lambda module, partial: given,
        recipe={"kind": "factory", "configs": configs},
    )


SOURCES: dict[str, Callable[[str, Args], Source | None]] = {
    "resnet50_v1, googlenet_bvlc": _built_in,
    "hf-hub:ORG/NAME": _of_hub,
    "local-dir:DIR": _of_directory,
    "torchvision:NAME": _of_torchvision,
    "transformers:NAME_OR_DIR": _of_transformers,
    "open_clip:NAME/WEIGHTS": _of_open_clip,
    "module.path:factory": _of_factory,
    "names of timm": _of_timm,
}
PREFIXES = [name for name in SOURCES if ":" in name and not name.startswith("module")]


def _builder(
    name: str, make: Callable[..., nn.Module], *args: Any, **more: Any
) -> Callable[[], nn.Module]:
    """What builds a network by a function; what this raises becomes one line."""

    def build() -> nn.Module:
        with in_one_line(name):
            module = make(*args, **more)
        _check_usable(module, name)
        return with_pooled_module(module)

    return build


def _check_usable(module: object, name: str) -> None:
    """Refuse what cannot be watched or copied."""
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name!r} is a {type(module).__name__}, but a torch.nn.Module is needed.")
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{name} is TorchScript, whose layers cannot be watched. Give the module that was "
            "scripted or traced."
        )
    if any(".quantized" in type(each).__module__ for each in module.modules()):
        raise ModelError(
            f"{name} is quantised, and its layers give no floating-point numbers. Give the "
            "network from before; --precision int8 measures what quantisation costs."
        )


def _check_tag(name: str) -> None:
    """Refuse weights that timm does not know."""
    architecture, _, tag = name.partition(".")
    every = timm.list_models(f"{architecture}.*", pretrained=True)
    known = [each.partition(".")[2] for each in every]
    if tag and tag not in known:
        listed = f"Near it: {near(tag, known, 0.3)}." if known else f"Give {architecture} alone."
        raise ModelError(f"timm has no weights {tag!r} of {architecture}. {listed}")


def _need(package: str, name: str) -> None:
    """Refuse a source whose package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"{name} needs the package {package}. Install scalecut[models].")


def _joined(name: str, args: Args) -> str:
    """The name with its arguments, as `name_and_arguments` splits it."""
    texts = [f"{key}={value}" for key, value in args.items()]
    return f"{name}?{'&'.join(texts)}" if texts else name


def _factory(spec: str, args: Args, configs: dict[str, Any]) -> Callable[[], nn.Module]:
    path, _, name = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{spec!r} could not be imported ({error}). Give module.path:factory, where factory() "
            "returns the network, and start from the folder that holds the module or install it."
        ) from error
    finally:
        sys.path.pop(0)

    def recorded() -> Any:
        with _hub_recorded(configs):
            return factory(**values(args))

    return _builder(spec, recorded)


CONFIG_OF_HUB = "load_model_config_from_hf"  # of timm


@contextmanager
def _replaced(module: ModuleType, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Another function in place of one of a module."""
    own = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, own)


@contextmanager
def _hub_recorded(configs: dict[str, Any]) -> Iterator[None]:
    """Keep the configurations that timm reads from the hub, by repository."""
    own: Any = getattr(timm_factory, CONFIG_OF_HUB)

    def read(repository: str, **more: Any) -> Any:
        configs[repository] = own(repository, **more)
        return copy.deepcopy(configs[repository])

    with _replaced(timm_factory, CONFIG_OF_HUB, read):
        yield


@contextmanager
def hub_replayed(recipe: Mapping[str, Any]) -> Iterator[None]:
    """Let timm build networks from the configurations of a recipe, and load no weights."""
    own: Any = getattr(timm_factory, CONFIG_OF_HUB)
    configs = recipe.get("configs", {})

    def read(repository: str, **more: Any) -> Any:
        if repository not in configs:
            return own(repository, **more)
        return tuple(copy.deepcopy(configs[repository]))

    with (
        _replaced(timm_factory, CONFIG_OF_HUB, read),
        _replaced(timm_builder, "load_pretrained", lambda *args, **more: None),
    ):
        yield


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path.name} is not JSON ({first_line(error)}). Copy it again."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(
            f"{path.name} holds a {type(found).__name__}, not settings. Copy it again."
        )
    return found


CAFFE = Preprocessing(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    channels="bgr",
)


def _with_stride_first() -> nn.Module:
    """ResNet50 of `he2016` and of Keras: the stride sits in the first 1 x 1 convolution."""
    network = timm.create_model("resnet50", pretrained=False)
    for stage in ("layer2", "layer3", "layer4"):
        for convolution, stride in (("conv1", 2), ("conv2", 1)):
            layer = cast(nn.Conv2d, network.get_submodule(f"{stage}.0.{convolution}"))
            layer.stride = (stride, stride)
    network.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
    return network


BUILT_IN: dict[str, tuple[Callable[[], nn.Module], Preprocessing]] = {
    "resnet50_v1": (_with_stride_first, CAFFE),  # of `graziani2021`, after `he2016`
    "googlenet_bvlc": (GoogLeNet, replace(CAFFE, mean=(123 / 255, 117 / 255, 104 / 255))),
}


def preprocessing_of_module(module: nn.Module) -> Preprocessing | None:
    """The preprocessing of a network of timm or a cut network, or of the one inside a module."""
    stated = [getattr(each, "preprocessing", None) for each in module.modules()]
    of_cuts = {each for each in stated if isinstance(each, Preprocessing)}
    if len(of_cuts) == 1:
        return of_cuts.pop()
    own = _configured_part(module)
    if own is None:
        return None
    found = resolve_model_data_config(own)
    interpolation = found["interpolation"]
    interpolation = interpolation if interpolation in INTERPOLATIONS else "bicubic"
    return Preprocessing(
        height=found["input_size"][1],
        width=found["input_size"][2],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation=interpolation,
        shown=found["crop_pct"],
    )


def _configured_part(module: nn.Module) -> nn.Module | None:
    """The module with a configuration of timm; None if there is none, or several that differ."""
    if getattr(module, "pretrained_cfg", None):
        return module
    found = [each for each in module.modules() if getattr(each, "pretrained_cfg", None)]
    configs = {str(resolve_model_data_config(each)) for each in found}
    return found[0] if len(configs) == 1 else None

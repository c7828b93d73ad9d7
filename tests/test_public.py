"""The public names: those that are promised, each with every type that its signature names."""

import ast
import inspect
import re
from pathlib import Path

import scalecut

FOLDER = Path(scalecut.__file__).parent
PROMISED = {
    "probe", "Curve", "Evidence", "choose_layer", "compare_curves", "cut_after", "CutNetwork",
    "save_cut", "load_cut", "CutFeatures", "create_transform", "read_images", "make_image_set",
    "make_scenes", "Image", "ImageSet", "load_network", "Network", "Preprocessing", "list_layers",
    "ProbePoint", "extract_features", "invariance", "probe_noise", "probe_scenes", "rcv",
    "visualise", "transfer", "Transfer", "read_patches", "open_run", "write_report", "DataError",
    "LayerError", "ModelError", "OutputError", "ScalecutError",
}  # fmt: skip
OWN = r"scalecut\.[\w.]+\.([A-Z]\w+)"


def named_types(thing):
    """Classes of this package that the signatures of a function, or of a class, name."""
    own = (
        [each for name, each in vars(thing).items() if not name.startswith("_")]
        if (inspect.isclass(thing))
        else []
    )
    for each in (thing, *own):
        if callable(each):
            try:
                signature = inspect.signature(each)
            except ValueError:
                continue
            given = [str(parameter.annotation) for parameter in signature.parameters.values()]
            yield from re.findall(OWN, " ".join([*given, str(signature.return_annotation)]))


def test_promised_names_are_public_and_every_public_name_exists():
    assert set(scalecut.__all__) >= PROMISED
    assert scalecut.__all__ == sorted(scalecut.__all__)
    assert [name for name in scalecut.__all__ if not hasattr(scalecut, name)] == []
    assert re.fullmatch(r"\d+\.\d+\.\d+", scalecut.__version__)


def test_every_type_in_a_public_signature_is_public():
    named = {each for name in scalecut.__all__ for each in named_types(getattr(scalecut, name))}
    assert named - set(scalecut.__all__) == set()


def test_type_checkers_see_the_same_names():
    stub = ast.parse((FOLDER / "__init__.pyi").read_text(encoding="utf-8"))
    names = {
        alias.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == {name: scalecut._HOME[name] for name in scalecut.__all__}
    assert (FOLDER / "py.typed").is_file()


def test_no_function_takes_more_than_ten_parameters():
    # ruff's PLR0913 says the same; this also counts what a decorator would hide from it
    for name in scalecut.__all__:
        thing = getattr(scalecut, name)
        if inspect.isfunction(thing):
            assert len(inspect.signature(thing).parameters) <= 10, name


def test_folder_of_the_package_lists_the_method():
    modules = {path.stem for path in FOLDER.glob("*.py")}
    assert len(modules) <= 6
    packages = {path.name for path in FOLDER.iterdir() if (path / "__init__.py").is_file()}
    assert packages == {
        "analyses", "cli", "cut", "data", "features", "figures", "networks", "paper", "pathology",
        "probing", "report", "stats",
    }  # fmt: skip

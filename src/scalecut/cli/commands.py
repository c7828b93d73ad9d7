"""Commands made from verbs: the signature gives the options, the docstring's Args their help.

A verb's source is read, not imported, so that `--help` and errors about options come before torch
is loaded. A parameter that is a dataclass (`Reading`, `Computation`, ...) is flattened into one
option per field, but for the fields that the verb's module names in `UNUSED`. Where a field means
something else for a verb, its Args say so: `reading.at_most: ...`. Options that its Args do not
describe are those of `probe`. What a type means on the command line stands in `_KINDS`. An option
named like a keyword of Python ends with an underscore: `class_`.
"""

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import scalecut

from ..errors import DataError

ROOT = Path(scalecut.__file__).parent
NOT_OPTIONS = ("progress", "command", "as_json")
MAIN = "probing.probe:probe"  # its help is that of options which other verbs do not describe
_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter of a verb, or a field of a dataclass among its parameters."""

    name: str
    annotation: str
    default: Any
    help: str
    owner: str = ""  # the parameter whose dataclass this is a field of

    @property
    def flag(self) -> str:
        """As it is typed, such as `--at-most`."""
        return "--" + self.name.rstrip("_").replace("_", "-")


@dataclass(frozen=True, slots=True)
class Verb:
    """A function of the package, known by its source alone."""

    path: str  # `package.module:function`
    summary: str  # the first line of its docstring
    options: tuple[Option, ...]
    owners: Mapping[str, str]  # parameters that are dataclasses, with where these are defined

    def call(self, values: Mapping[str, Any], **more: Any) -> Any:
        """Import the function and call it, dataclasses put together from their fields."""
        arguments: dict[str, Any] = {}
        grouped: dict[str, dict[str, Any]] = {owner: {} for owner in self.owners}
        for option in self.options:
            value = values[option.name]
            if isinstance(value, str):
                value = converted(option.annotation, value, option.flag, option.default)
            if option.annotation == "int":
                _check_range(option, value)
            (grouped[option.owner] if option.owner else arguments)[option.name] = value
        for owner, given in grouped.items():
            arguments[owner] = imported(self.owners[owner])(**given)
        return imported(self.path)(**arguments, **more)


def imported(path: str) -> Any:
    """The object at `package.module:name` of this package."""
    module, name = path.split(":")
    return getattr(importlib.import_module(f"scalecut.{module}"), name)


def verb_of(path: str) -> Verb:
    """Read a verb from its source."""
    tree, function = _function(path)
    documented = ast.get_docstring(function) or ""
    help_of = _args(ast.get_docstring(_function(MAIN)[1]) or "") | _args(documented)
    positional = function.args.posonlyargs + function.args.args
    defaults = [None] * (len(positional) - len(function.args.defaults)) + function.args.defaults
    unused = _value(tree, ast.Name("UNUSED"), ())
    options: list[Option] = []
    owners: dict[str, str] = {}
    pairs = [
        *zip(positional, defaults, strict=True),
        *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.arg in NOT_OPTIONS:
            continue
        assert argument.annotation is not None
        if isinstance(default, ast.Call) and isinstance(default.func, ast.Name):
            place = _place_of(tree, path.partition(":")[0], default.func.id)
            owners[argument.arg] = place
            changed = {word.arg: word.value for word in default.keywords if word.arg}
            fields = _fields(place, argument.arg, changed, help_of)
            options += [field for field in fields if field.name not in unused]
            continue
        value = _REQUIRED if default is None else _value(tree, default)
        annotation, text = ast.unparse(argument.annotation), help_of.get(argument.arg, "")
        options.append(Option(argument.arg, annotation, value, text))
    return Verb(path, documented.splitlines()[0], tuple(options), owners)


def add(
    app: typer.Typer,
    name: str,
    path: str,
    examples: str,
    finish: Callable[..., None],
    extra: Sequence[inspect.Parameter],
) -> None:
    """Add the command that is made of a verb.

    Args:
        path: of the verb, `package.module:function`.
        examples: one per line, as they are typed.
        finish, extra: as for `callback`.
    """
    verb = verb_of(path)
    listed = textwrap.indent(textwrap.dedent(examples).strip("\n"), "  ")
    app.command(name, help=f"{verb.summary}\n\n\b\nExamples:\n{listed}")(
        callback(verb, finish, extra)
    )


def callback(verb: Verb, finish: Callable[..., None], extra: Sequence[inspect.Parameter]) -> Any:
    """A function with the verb's options in its signature, for typer.

    Args:
        finish: is given the verb, the options' values and those of `extra`.
        extra: parameters of the command that the verb does not have, such as `--out`.
    """
    parameters = [
        _parameter(option, is_first=number == 0) for number, option in enumerate(verb.options)
    ]
    if any(option.name == "model" for option in verb.options):
        parameters.append(_MODEL_ARGUMENT)

    def command(**values: Any) -> None:
        own = {parameter.name: values.pop(parameter.name) for parameter in extra}
        arguments = values.pop(_MODEL_ARGUMENT.name, None)
        if arguments:
            values["model"] += ("&" if "?" in values["model"] else "?") + "&".join(arguments)
        finish(verb, values, **own)

    command.__signature__ = inspect.Signature([*parameters, *extra])  # type: ignore[attr-defined] - typer reads it
    command.__annotations__ = {p.name: p.annotation for p in (*parameters, *extra)}
    return command


_MODEL_ARGUMENT = inspect.Parameter(
    "model_arg",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            "--model-arg",
            metavar="KEY=VALUE",
            help="An argument of the network, such as init_values=1e-5; several may be given.",
        ),
    ],
    default=None,
)


# --- reading the source --------------------------------------------------------------------------


# A definition at the top of a module: decorators, head and body, up to the next line that starts
# with something else than space or a closing bracket.
_DEFINITION = re.compile(
    r"^(?:@.*\n(?:[ )\]}].*\n)*)*(def|class) (\w+).*\n(?:(?:[ )\]}].*)?\n)*", re.M
)


@functools.cache  # several verbs share the modules of their options
def _tree(path: str) -> ast.Module:
    """The module of `package.module:name`, in which all definitions but that one are empty.

    Most of the time of `--help` would go into what is not looked at.
    """
    module, name = path.split(":")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")

    def shortened(found: re.Match[str]) -> str:
        stub = f"class {found[2]}: ...\n" if found[1] == "class" else ""
        return found[0] if found[2] == name else stub

    return ast.parse(_DEFINITION.sub(shortened, file.read_text(encoding="utf-8")))


def _function(path: str) -> tuple[ast.Module, ast.FunctionDef]:
    """The module of a verb, and the verb in it."""
    tree, name = _tree(path), path.partition(":")[2]
    return tree, next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)


def _args(docstring: str) -> dict[str, str]:
    """The Args of a docstring, each in one line."""
    found = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.M)
    if not found:
        return {}
    texts: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(found[1]).splitlines():
        head = re.match(r"([\w.]+): (.*)", line)
        if head:
            name, texts[head[1]] = head[1], head[2]
        elif name and line.startswith(" "):
            texts[name] += " " + line.strip()
        else:
            name = ""
    return texts


def _fields(
    place: str, owner: str, changed: Mapping[str, ast.expr], help_of_verb: Mapping[str, str]
) -> list[Option]:
    """The fields of a dataclass, their defaults and help possibly changed by the verb."""
    tree, name = _tree(place), place.partition(":")[2]
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    help_of = _args(ast.get_docstring(found) or "")
    return [
        Option(
            node.target.id,
            ast.unparse(node.annotation),
            _value(tree, changed.get(node.target.id, node.value)),
            help_of_verb.get(f"{owner}.{node.target.id}", help_of.get(node.target.id, "")),
            owner,
        )
        for node in found.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.value is not None
    ]


def _place_of(tree: ast.Module, module: str, name: str) -> str:
    """Where a class is defined that a module names: in it, or where it imports it from."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return f"{module}:{name}"
        if isinstance(node, ast.ImportFrom) and any(each.name == name for each in node.names):
            parents = module.split(".")[: -node.level] if node.level else []
            place = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
            return f"{place}:{name}"
    raise LookupError(f"{module} names no class {name}")


def _value(tree: ast.Module, node: ast.expr | None, otherwise: Any = None) -> Any:
    """A default: a literal, or a name that the module gives a literal."""
    if isinstance(node, ast.Name):
        for each in tree.body:
            if isinstance(each, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == node.id for target in each.targets
            ):
                return _value(tree, each.value)
        return otherwise
    assert node is not None
    return ast.literal_eval(node)


# --- what a type is on the command line ----------------------------------------------------------


def _parameter(option: Option, *, is_first: bool) -> inspect.Parameter:
    kind, settings = _kind_of(option)
    default = "" if option.default is None and kind is str else option.default
    if isinstance(default, tuple | list):
        default = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in default)
    if is_first and (option.default is _REQUIRED or option.name == "model"):
        declared: Any = typer.Argument(help=option.help, show_default=False)
    else:
        # what is done by default can be switched off
        off = f"/--no-{option.flag[2:]}" if option.default is True else ""
        declared = typer.Option(option.flag + off, help=option.help, **settings)
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, declared],
        **({} if default is _REQUIRED else {"default": default}),
    )


def _kind_of(option: Option) -> tuple[Any, dict[str, Any]]:
    """The type that typer checks, and more that it should know."""
    choices = _choices(option.annotation)
    plain = {"bool": bool, "int": int, "float": float}
    if option.annotation in plain:
        return plain[option.annotation], {}
    if choices and not option.annotation.startswith("Sequence"):
        kind: Any = Literal[tuple(choices)]
        return (kind | None if option.default is None else kind), {}
    is_shown = option.default not in (None, "", ())
    return str, {"metavar": _metavar(option), "show_default": is_shown}


def _check_range(option: Option, value: int) -> None:
    """Refuse what is less than the help says, before anything heavy is imported."""
    least = re.search(r"at least (\d+)", option.help)
    if least and value < int(least[1]):
        raise DataError(f"{option.flag} must be at least {least[1]}, got {value}.")
    if option.name == "seed" and not 0 <= value < 2**32:
        raise DataError(f"{option.flag} must be from 0 to {2**32 - 1}, got {value}.")


def _choices(annotation: str) -> list[str]:
    found = re.search(r"Literal\[([^\]]*)\]", annotation)
    return list(ast.literal_eval(f"[{found[1]}]")) if found else []


def _metavar(option: Option) -> str:
    choices = _choices(option.annotation)
    if choices:
        return ",".join(choices)
    if "Path" in option.annotation and "str" not in option.annotation:
        return "PATH"
    if option.annotation.startswith(("Sequence", "tuple")):
        return "A,B,..."
    return "TEXT"


def converted(annotation: str, text: str, flag: str = "", default: Any = None) -> Any:
    """What a parameter of this type is given for what was typed."""
    if text == "" and default is None and "None" in annotation:
        return None
    for pattern, convert in _KINDS:
        if re.fullmatch(pattern, annotation):
            try:
                return convert(text)
            except ValueError as error:
                raise DataError(f"{flag} {text!r} {error}.") from error
    return text


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated text."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise ValueError("is no size in pixels. Give 224, or 224x320 (height x width)")
    return int(sides[0]), int(sides[-1])


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in listed(text))
    except ValueError as error:
        raise ValueError("is no list of numbers. Give numbers, such as 0.5,1,2") from error


def _whole_numbers(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in listed(text)):
        raise ValueError("is no list of whole numbers. Give such as 160,224")
    return tuple(int(part) for part in listed(text))


def _three(text: str) -> tuple[float, ...]:
    values = _numbers(text)
    if len(values) != 3:
        raise ValueError("is not three numbers. Give red, green and blue, such as 0.5,0.5,0.5")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError("is no number") from error


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError("is no whole number. Give such as 5") from error


_KINDS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"Sequence\[(str( \| float \| int)?|Literal\[.*\])\]( \| None)?", listed),
    (r"Sequence\[float\]( \| None)?", _numbers),
    (r"Sequence\[int\]( \| None)?", _whole_numbers),
    (r"int \| tuple\[int, int\]( \| None)?", _size),
    (r"tuple\[float, float, float\]( \| None)?", _three),
    (r"float \| None", _number),
    (r"int \| None", _whole_number),
    (r"Path( \| None)?", Path),
)

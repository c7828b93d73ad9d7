"""Errors that scalecut raises on purpose; each message says what to do next.

    ScalecutError
    ├── DataError (ValueError)      images, annotations, measures
    ├── ModelError (ValueError)     networks and their weights
    ├── LayerError (LookupError)    layers of a network
    └── OutputError (OSError)       places that results are written to

The command line turns them into one line and exit status 2; any other exception is a bug.
"""

import difflib
import re
import traceback
from collections.abc import Iterable, Sequence


class ScalecutError(Exception):
    """Any error that the user can fix."""


class DataError(ScalecutError, ValueError):
    """Images, annotations or measures that cannot be used as they are."""


class ModelError(ScalecutError, ValueError):
    """A network that is not known, or weights that do not fit it."""


class LayerError(ScalecutError, LookupError):
    """A layer that the network does not have, or whose output cannot be used."""


class OutputError(ScalecutError, OSError):
    """A folder or file that cannot be written."""


MOST_NAMED = 5  # known names in a message

# Raised where a file does not hold what its format says: by libraries, and where it is read.
OF_CONTENT = (
    *(ValueError, OverflowError, LookupError),
    *(TypeError, AttributeError, RecursionError),
)

# Raised by a network's own code where it is built, run or captured as it was not written for.
OF_NETWORKS = (
    *(RuntimeError, ValueError, TypeError),
    *(AttributeError, LookupError, AssertionError),
)


def first_line(error: Exception) -> str:
    """The first line of an error of a library, short enough to quote in a sentence.

    Of an assertion without a message, the line of code that asserts.
    """
    said = str(error).strip().splitlines()
    if not said and isinstance(error, AssertionError):
        lines = [frame.line or "" for frame in traceback.extract_tb(error.__traceback__)]
        said = [line for line in reversed(lines) if re.match(r"assert |(\w+\.)?_assert\(", line)]
    return (said or [type(error).__name__])[0][:100].rstrip(".")


def check_names(given: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """The given name or names, each once and each among the known ones.

    Raises:
        DataError: if one is unknown.
    """
    names = tuple(dict.fromkeys(several(given)))
    for name in names:
        if name not in known:
            most = "one" if isinstance(given, str) else "one or more"
            raise DataError(f"No {what} is named {name!r}. Give {most} of {', '.join(known)}.")
    return names


def several(given: Sequence[str]) -> tuple[str, ...]:
    """The names; text is one name, not a name per letter."""
    return (given,) if isinstance(given, str) else tuple(given)


def check_least(options: object, **least: int) -> None:
    """Compare options of a verb, by name, with the least number that each can be.

    Raises:
        DataError: if one is smaller; None is not compared.
    """
    for name, number in least.items():
        given = getattr(options, name)
        if given is not None and given < number:
            option = f"--{name.replace('_', '-')}"
            raise DataError(f"{option} must be at least {number}, got {given}.")


def near(
    given: str, known: Sequence[str], cutoff: float = 0.5, otherwise: Sequence[str] = ()
) -> str:
    """Up to three known names that resemble a given one, as a message lists them.

    Args:
        cutoff: how much they have to, 0 to 1.
        otherwise: what is listed if none does; the first three by default.
    """
    found = difflib.get_close_matches(given, known, 3, cutoff)
    return ", ".join(found or otherwise or known[:3])


def nearest(given: str, known: Iterable[str]) -> str:
    """All known names as a message lists them, the most similar to the given one first."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, given.lower(), name.lower()).ratio()

    ordered = sorted(known, key=lambda name: (-likeness(name), name))
    listed = ", ".join(repr(name) for name in ordered[:MOST_NAMED])
    return listed + (f" and {len(ordered) - MOST_NAMED} more" if len(ordered) > MOST_NAMED else "")

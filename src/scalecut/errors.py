"""Errors that scalecut raises on purpose; each message says what to do next.

    ScalecutError
    ├── DataError (ValueError)      images, annotations, measures
    ├── ModelError (ValueError)     networks and their weights
    ├── LayerError (LookupError)    layers of a network
    └── OutputError (OSError)       places that results are written to

The command line turns them into one line and exit status 2; any other exception is a bug.
"""

from collections.abc import Sequence


class ScalecutError(Exception):
    """Any error that the user can fix."""


class DataError(ScalecutError, ValueError):
    """Images, annotations or measures that cannot be used as they are."""


class ModelError(ScalecutError, ValueError):
    """An unknown network, or weights that do not fit it."""


class LayerError(ScalecutError, LookupError):
    """A layer that the network does not have, or whose output cannot be used."""


class OutputError(ScalecutError, OSError):
    """A folder or file that cannot be written."""


def check_names(given: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    is_one = isinstance(given, str)
    names = (given,) if is_one else tuple(dict.fromkeys(given))
    for name in names:
        if name not in known:
            most = "one" if is_one else "one or more"
            raise DataError(f"No {what} is named {name!r}. Give {most} of {', '.join(known)}.")
    return names

"""What the C library of Linux does with memory that is freed; nothing elsewhere."""

import ctypes
import sys
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # in malloc.h


def reused() -> None:
    """Keep freed memory for what comes next, in blocks of up to 256 MB.

    Blocks above 32 MB, such as the outputs of layers, come from the system anew each time
    otherwise, which fills them with zeros: in PyTorch that took as long as to compute the layers.
    """
    option = _of_the_c_library("mallopt")
    if option and option(MMAP_THRESHOLD, 2**28):  # older ones refuse so much
        option(TRIM_THRESHOLD, 2**31 - 1)


def freed() -> None:
    """Return freed memory to the system."""
    trim = _of_the_c_library("malloc_trim")
    if trim:
        trim(0)


def _of_the_c_library(name: str) -> Any:
    """One of its functions; None where it has none of this name, as musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

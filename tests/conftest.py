"""What test files of several modules share."""

import contextlib
import resource

import jaxtyping
import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """With networks as small as these, threads wait for one another most of the time."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.fixture
def untyped():
    """For messages about values that type hints forbid: types are not checked meanwhile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def small_files():
    """A disk that takes only so many bytes of a file, inside a `with` block."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def limited(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))

    return limited

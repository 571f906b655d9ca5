"""What holds for all tests."""

import logging

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("taskloom", deadline=None)
settings.load_profile("taskloom")


@pytest.fixture(autouse=True)
def own_logger():
    """Take back what the command line does to the package's logger, so that other tests see its records."""
    logger = logging.getLogger("taskloom")
    handlers, propagates = list(logger.handlers), logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagates

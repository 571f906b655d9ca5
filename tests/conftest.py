"""What holds for all tests."""

import logging
import signal

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("taskloom", deadline=None)
settings.load_profile("taskloom")

# What a shell starts in the background ignores interrupts; tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_logger():
    """Take back what the command line does to the package's logger, so that other tests see its records."""
    logger = logging.getLogger("taskloom")
    handlers, propagates = list(logger.handlers), logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagates

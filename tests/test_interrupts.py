"""Interrupts: put off while something is under way, at once on the second, and at once while nothing is."""

import os
import signal
import threading
import time

import pytest

from taskloom.interrupts import Interrupts

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture
def interrupts():
    told = []
    made = Interrupts(lambda: told.append("told"))
    made.told = told
    made.watch()
    yield made
    made.restore()


@BOTH
def test_the_first_is_put_off_and_the_second_stops_at_once(interrupts, number):
    assert not interrupts.requested
    signal.raise_signal(number)
    assert interrupts.requested
    assert interrupts.told == ["told"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert interrupts.told == ["told"]


@BOTH
def test_while_waiting_the_first_stops_at_once(interrupts, number):
    reading, writing = os.pipe()
    timer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupts.waiting():
        os.read(reading, 1)  # to which nothing is ever written
    assert time.monotonic() - start < 5
    signal.raise_signal(number)  # no longer waiting: put off
    assert interrupts.requested
    os.close(reading)
    os.close(writing)


def test_an_interrupt_that_was_put_off_does_not_make_waiting_safe(interrupts):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts.waiting():
        signal.raise_signal(signal.SIGINT)


def test_signals_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    made = Interrupts(lambda: None)
    made.watch()
    assert signal.getsignal(signal.SIGTERM) is not before[1]
    made.restore()
    made.restore()  # twice is harmless
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_than_the_main_one_watches_nothing():
    before = signal.getsignal(signal.SIGINT)
    failures = []

    def work():
        made = Interrupts(lambda: None)
        try:
            made.watch()
            made.restore()
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
    assert signal.getsignal(signal.SIGINT) is before

"""Work on purpose: it goes on until it is closed, and says what broke it."""

from __future__ import annotations

import threading
import time

import pytest

from device.calibrate.load import Load, multiply_matrices


def test_every_step_goes_on_until_close() -> None:
    calls = [0, 0]
    both = threading.Event()

    def make_step(index: int) -> None:
        calls[index] += 1
        if min(calls) > 3:
            both.set()
        time.sleep(0)

    released: list[bool] = []
    load = Load("steps", [lambda: make_step(0), lambda: make_step(1)], lambda: released.append(True))
    assert both.wait(10)
    load.check()
    load.close()
    load.close()
    counted = list(calls)
    assert calls == counted
    assert released == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "load"]


def test_what_breaks_it_is_raised_where_it_is_asked_for() -> None:
    broken = threading.Event()

    def fail() -> None:
        broken.set()
        raise ZeroDivisionError("the network broke")

    with Load("broken", [fail]) as load:
        assert broken.wait(10)
        load.close()
        with pytest.raises(ZeroDivisionError, match="the network broke"):
            load.check()


def test_matrices_take_processor_time() -> None:
    before_s = time.process_time()
    with multiply_matrices(2) as load:
        while time.process_time() - before_s < 0.05:
            time.sleep(0.005)
        load.check()
    assert load.kind == "matrix products"

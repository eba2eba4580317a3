"""One switch ends every wait and every request, whenever it is thrown."""

from threading import Event

import pytest

from klaviyo_assets.api.retry import CancelToken, InFlightConnection
from klaviyo_assets.errors import StoppedError


def test_a_stopped_switch_ends_waits_and_begins_nothing() -> None:
    """After `cancel` a wait of an hour returns at once, and neither check nor line lets go on."""
    switch = CancelToken()
    switch.raise_if_cancelled()
    switch.cancel()
    switch.wait(3600)
    with pytest.raises(StoppedError):
        switch.raise_if_cancelled()
    with pytest.raises(StoppedError), switch.track_connection(60):
        raise AssertionError


def test_a_line_under_way_is_cut_by_the_stop() -> None:
    """What a request is waiting on is ended, once."""
    ended: list[str] = []
    switch = CancelToken()
    with switch.track_connection(60) as line:
        line.attach(lambda: ended.append("cut"))
        switch.cancel()
        assert line.is_aborted
    assert ended == ["cut"]


def test_a_line_is_cut_at_its_deadline() -> None:
    """A request that takes too long is ended by another thread."""
    ended = Event()
    with CancelToken().track_connection(0.01) as line:
        line.attach(ended.set)
        assert ended.wait(300)
        assert line.is_aborted


def test_a_line_cut_before_it_is_connected_does_not_go_on() -> None:
    """A deadline that passes while connecting is seen as soon as there is a connection."""
    line = InFlightConnection()
    line.abort()
    with pytest.raises(TimeoutError):
        line.attach(lambda: None)


def test_a_line_that_was_left_is_not_cut() -> None:
    """The connection may serve another request by then."""
    ended: list[str] = []
    switch = CancelToken()
    with switch.track_connection(60) as line:
        line.attach(lambda: ended.append("cut"))
    switch.cancel()
    line.abort()
    assert ended == []


def test_an_end_that_was_already_over_is_no_failure() -> None:
    """A socket that the other side has closed cannot be shut down again."""

    def raise_not_connected() -> None:
        raise OSError(107, "not connected")

    line = InFlightConnection()
    line.attach(raise_not_connected)
    line.abort()
    assert line.is_aborted

import os
import signal
import threading

import pytest

from snapensemble.contracts.process import SIGNALS, Stopped, raise_on_signals, signals_deferred

pytestmark = pytest.mark.usefixtures("signal_handlers")


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_raises_at_once(signum: signal.Signals) -> None:
    raise_on_signals()
    with pytest.raises(Stopped, match=f"stopped by {signum.name}"):
        os.kill(os.getpid(), signum)


def test_a_deferred_signal_waits_for_the_place_where_stopping_is_safe() -> None:
    done = []
    with pytest.raises(Stopped, match="SIGTERM"), signals_deferred() as deferred:
        deferred.raise_if_received()
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("half done is done whole")
        deferred.raise_if_received()
        done.append("never")
    assert done == ["half done is done whole"]


def test_a_deferred_signal_is_not_lost_at_the_end_of_the_block() -> None:
    with pytest.raises(Stopped, match="SIGINT"), signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_signal_ends_the_process() -> None:
    with pytest.raises(Stopped), signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        assert [signal.getsignal(signum) for signum in SIGNALS] == [signal.SIG_DFL] * len(SIGNALS)


def test_the_handlers_of_before_are_put_back() -> None:
    raise_on_signals()
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with signals_deferred():
        assert [signal.getsignal(signum) for signum in SIGNALS] != before
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_another_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("mine")


def test_outside_the_main_thread_nothing_is_held_back() -> None:
    found = []

    def work() -> None:
        with signals_deferred() as deferred:
            deferred.raise_if_received()
            found.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["ran"]


def test_under_nohup_a_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(Stopped, match="SIGTERM"), signals_deferred() as deferred:
        os.kill(os.getpid(), signal.SIGHUP)
        deferred.raise_if_received()
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)  # not even after a stop has begun

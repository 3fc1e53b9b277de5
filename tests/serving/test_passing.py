"""What computes beside the event loop waits for the slates that it makes."""

from threading import Event, Thread

from serving.passing import Passing

FOREVER_S = 600.0


def test_work_waits_until_no_slate_is_being_made() -> None:
    slates, went_on = Passing(FOREVER_S), Event()

    def work() -> None:
        slates.wait()
        went_on.set()

    with slates:
        with slates:
            Thread(target=work, daemon=True).start()
            assert not went_on.wait(0.1)
        assert not went_on.wait(0.1)
    assert went_on.wait(60)


def test_it_does_not_wait_for_nothing() -> None:
    Passing(FOREVER_S).wait()


def test_under_a_load_without_gaps_it_goes_on() -> None:
    slates = Passing(0.001)
    with slates:
        slates.wait()

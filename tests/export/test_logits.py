from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import snapensemble.export.parity
from snapensemble.export.parity import IMAGES_AT_A_TIME, run_member
from tests.factories import CONTRACT, linear_logits, linear_member

IMAGES = np.random.default_rng(0).integers(0, 256, (75, *CONTRACT.shape), dtype=np.uint8)


def test_each_image_gets_its_own_answer_in_order() -> None:
    logits_NK = run_member(linear_member(3), IMAGES)
    assert logits_NK.dtype == np.float32
    np.testing.assert_allclose(logits_NK, linear_logits(3, IMAGES), atol=1e-4)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapensemble.export.parity, "cpu_budget", lambda: 4)
    one, four = (run_member(linear_member(3), IMAGES, threads) for threads in (1, 4))
    assert one.tobytes() == four.tobytes()


class Session:
    """Remembers how many images came together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, _: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(feed["images"]))
        return [np.zeros((len(feed["images"]), 3), np.float32)]


def test_never_more_than_a_bounded_number_of_images_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session()
    monkeypatch.setattr(snapensemble.export.parity, "open_session", lambda _: session)
    assert run_member(b"", IMAGES).shape == (75, 3)
    assert sorted(session.sizes) == [75 - 2 * IMAGES_AT_A_TIME, IMAGES_AT_A_TIME, IMAGES_AT_A_TIME]


@pytest.mark.parametrize(("asked", "budget", "used"), [(None, 3, 3), (2, 3, 2), (8, 3, 3)])
def test_no_more_threads_than_processors(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, budget: int, used: int
) -> None:
    started: list[int] = []

    def pool(workers: int) -> ThreadPoolExecutor:
        started.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(snapensemble.export.parity, "cpu_budget", lambda: budget)
    monkeypatch.setattr(snapensemble.export.parity, "ThreadPoolExecutor", pool)
    run_member(linear_member(0), IMAGES[:2], asked)
    assert started == [used]

import pytest

from snapensemble.bench.figures import HEAD, Row, Usage, line, row, warnings
from snapensemble.bench.load import Answer, Sample

# Four requests of two images each in two seconds; one of them is refused.
SAMPLES = [
    Sample(10.0, 10.5, Answer(members_used=4)),
    Sample(10.5, 11.5, Answer(members_used=6)),
    Sample(10.5, 10.6, Answer("overloaded")),
    Sample(11.0, 12.0, Answer(members_used=2)),
]
USAGE = Usage(cpu_seconds=0.3, peak_memory_bytes=100 * 2**20, client_core_share=0.5)


def example(usage: Usage = USAGE) -> Row:
    return row("http", SAMPLES, usage, rate=2.5, images_per_request=2)


def test_rates_and_latencies_are_those_of_answered_requests() -> None:
    found = example()
    assert (found.requests, found.answered, found.errors) == (4, 3, {"overloaded": 1})
    assert found.seconds == 2
    assert found.requests_per_second == 1.5 and found.images_per_second == 3
    assert found.latency_ms == {"p50": 1000, "p95": 1000, "p99": 1000, "max": 1000}
    assert found.members_used == 2
    assert found.cpu_seconds_per_image == pytest.approx(0.05)


def test_a_row_without_answers_has_no_latencies() -> None:
    found = row("http", SAMPLES[2:3], USAGE, concurrency=1)
    assert found.latency_ms is None and found.members_used is None
    assert found.requests_per_second == 0 and found.cpu_seconds_per_image is None
    assert row("http", [], USAGE, concurrency=1).requests == 0
    assert line(found).split()[-2:] == ["overloaded", "1"]


def test_a_line_shows_each_figure_under_its_name() -> None:
    shown = line(example())
    assert shown.split() == [
        "http", "2.5/s", "1.5", "3.0", "1000.0", "1000.0", "1000.0", "1000.0", "2.00", "50.00",
        "100", "overloaded", "1",
    ]  # fmt: skip
    for title, figure in (("requests/s", " 1.5"), ("CPU ms/image", " 50.00"), ("peak MiB", "100 ")):
        assert shown.index(figure) + len(figure.rstrip()) == HEAD.index(title) + len(title)


def test_a_busy_client_is_said() -> None:
    assert warnings([example()]) == []
    (text,) = warnings([example(Usage(client_core_share=0.93))])
    assert text.startswith("the client used 93% of a core at 2 requests/s")

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.http.prediction import MAX_QUERY_BYTES, options_of


def test_parameters_become_options_and_the_last_of_several_counts() -> None:
    options = options_of(b"top=1&members=true&top=3&coverage=0.9")
    assert (options.top, options.members, options.coverage) == (3, True, 0.9)


def test_a_few_problems_are_told_and_the_others_counted() -> None:
    with pytest.raises(InvalidParameter) as caught:
        options_of(b"top=-1&a=1&b=2&c=3&d=4")
    assert str(caught.value).count(";") == 3 and str(caught.value).endswith("and 2 more")


def test_a_query_longer_than_any_that_makes_sense_is_refused_by_its_length() -> None:
    with pytest.raises(InvalidParameter, match="has 2,049 bytes, at most 2,048"):
        options_of(b"x" * (MAX_QUERY_BYTES + 1))


@given(st.lists(st.sampled_from([b"a&", b"a=1&", b"%41&", b"top=9&", b"&", b"="]), max_size=500))
def test_no_query_costs_much(pieces: list[bytes]) -> None:
    query = (b"".join(pieces) * 40)[:60_000]
    started = time.thread_time()
    try:
        options_of(query)
    except InvalidParameter as error:
        assert len(str(error)) < 500
    assert time.thread_time() - started < 0.1  # seconds; it was 0.18 for 55 KB

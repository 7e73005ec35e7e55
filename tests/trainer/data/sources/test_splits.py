import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.trainer.data.sources.splits import WORDS, composed, part_called, part_in

EVERY = [(part, word) for part, words in WORDS.items() for word in words]


@pytest.mark.parametrize(("part", "word"), EVERY)
def test_a_part_is_known_by_each_of_its_names_in_any_case(part: str, word: str) -> None:
    for name in (word, word.upper(), word.title(), f" {word} "):
        assert part_called(name) == part_in(name) == part


@pytest.mark.parametrize(("part", "word"), EVERY)
@pytest.mark.parametrize(
    "form",
    ["{}_old", "{}2", "my-{}", "{}_set", "{}Set", "{}set", "{} data", "a.{}.b", "x-{}-0001", "{}_"],
)
def test_a_part_is_recognised_within_a_name(part: str, word: str, form: str) -> None:
    name = form.format(word)
    assert part_called(name) is None and part_in(name) == part_in(name.capitalize()) == part


@pytest.mark.parametrize(
    "name",
    ["", "trainer", "valley", "device", "testudo", "contest", "evaluation", "bus", "été", "a1b"],
)
def test_other_words_mean_no_part(name: str) -> None:
    assert part_called(name) is None and part_in(name) is None


@pytest.mark.parametrize("name", ["train_val", "test/train", "dev-test"])
def test_a_name_with_the_words_of_two_parts_means_none(name: str) -> None:
    assert part_in(name) is None


@given(st.text())
def test_both_codes_of_an_accent_are_one_name(text: str) -> None:
    assert composed(unicodedata.normalize("NFD", text)) == composed(text)
    assert composed(composed(text)) == composed(text)

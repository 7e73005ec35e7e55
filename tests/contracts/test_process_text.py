import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.process import exit_code, printable, printable_json, printable_lines

ANY = st.text(st.characters(codec=None))  # surrogates too, as in names of files


def obeyed(text: str) -> bool:
    """Whether there is a character that a terminal does not show as itself."""
    return any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in text)


@given(ANY)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    assert not obeyed(printable(text))
    printable(text).encode()  # and nothing that cannot be written


@given(ANY)
def test_lines_stay_lines(text: str) -> None:
    assert printable_lines(text).count("\n") == text.count("\n")
    assert not obeyed(printable_lines(text).replace("\n", ""))


@given(st.dictionaries(st.text(), st.text()))
def test_json_says_the_same(content: dict[str, str]) -> None:
    text = printable_json(json.dumps(content, ensure_ascii=False, indent=2))
    assert json.loads(text) == content
    assert not obeyed(text.replace("\n", ""))


@pytest.mark.parametrize("text", ["", "dog", "größe", "犬 3", "sneakers & boots", "🐕"])
def test_names_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jdog", r"\x1b[2Jdog"),
        ("\x9b31mdog", r"\x9b31mdog"),
        ("gpj.\u202egod", r"gpj.\u202egod"),
        ("dog\ncat 99%", r"dog\ncat 99%"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_is_hidden_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_error_message_holds_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise InvalidData("dog\x1b]0;owned\x07.png: not a picture")

    assert exit_code("snapensemble predict", command) == 2
    assert capsys.readouterr().err == (
        "snapensemble predict: dog\\x1b]0;owned\\x07.png: not a picture\n"
    )

import hmac
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.cli import build_settings
from snapensemble.serving.http.auth import Tokens, parse_tokens, read_tokens
from snapensemble.serving.settings import Settings

FIRST, SECOND = "first-token-of-two", "second-token-of-two"
BOTH = Tokens([FIRST, SECOND])


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"{scheme} {token}".encode())]


def test_each_token_opens() -> None:
    assert BOTH.accept(bearer(FIRST)) and BOTH.accept(bearer(SECOND))
    assert BOTH.accept(bearer(FIRST, "bearer")) and BOTH.accept(bearer(f" {FIRST}"))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer(""),
        bearer(FIRST[:-1]),
        bearer(FIRST + "x"),
        bearer(FIRST.upper()),
        bearer(FIRST, "Basic"),
        bearer(f"{FIRST},{SECOND}"),
        [(b"authorization", FIRST.encode())],
        [(b"authorization", b"Bearer")],
        [(b"x-authorization", f"Bearer {FIRST}".encode())],
        bearer("wrong-token-of-some") + bearer(FIRST),
        bearer(FIRST) + bearer("wrong-token-of-some"),
    ],
)
def test_nothing_else_opens(headers: list[tuple[bytes, bytes]]) -> None:
    assert not BOTH.accept(headers)


@given(st.binary(max_size=40))
def test_no_other_bytes_open(value: bytes) -> None:
    assert not BOTH.accept([(b"authorization", b"Bearer " + value)])


@pytest.mark.parametrize("token", [FIRST, SECOND, "neither-of-the-two"])
def test_every_token_is_compared_whichever_is_right(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    lengths = []
    compare = hmac.compare_digest

    def watched(one: Any, other: Any) -> bool:
        lengths.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    BOTH.accept(bearer(token))
    assert lengths == [(32, 32)] * 2


def test_a_file_has_a_token_per_line_and_comments() -> None:
    text = f"# of the web shop\n{FIRST}\n\n  {SECOND}  \r\n"
    assert parse_tokens(text, "tokens") == {FIRST, SECOND}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no token in it"),
        ("# only a comment\n\n", "there is no token in it"),
        ("fifteen-letters", "entry 1 is too short"),
        (f"{FIRST}\nfew", "entry 2 is too short"),
        ("a token with spaces in it", "entry 1 .* other characters"),
        ("pässwörter-sind-länger", "entry 1 .* other characters"),
    ],
)
def test_tokens_that_are_not_right_are_refused_and_not_repeated(text: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=f"tokens.txt: .*{message}") as refused:
        parse_tokens(text, "tokens.txt")
    assert not any(line and line in str(refused.value) for line in text.splitlines())


def test_the_file_and_the_variable_count_together(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(FIRST)
    variable = SecretStr(f"{SECOND}, third-token-of-all")
    tokens = read_tokens(Settings(tokens=variable, tokens_file=tmp_path / "tokens"))
    assert tokens is not None
    assert all(tokens.accept(bearer(t)) for t in (FIRST, SECOND, "third-token-of-all"))
    assert read_tokens(Settings()) is None


def test_an_empty_variable_does_not_open_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_TOKENS", "")
    with pytest.raises(InvalidConfig, match="SNAPENSEMBLE_TOKENS: there is no token"):
        read_tokens(build_settings({}))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(InvalidConfig, match="--tokens-file .*one token per line"):
        read_tokens(Settings(tokens_file=tmp_path / "tokens"))


def test_settings_do_not_show_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENSEMBLE_TOKENS", FIRST)
    settings = build_settings({})
    assert FIRST not in f"{settings!r}{settings}{settings.model_dump_json()}"

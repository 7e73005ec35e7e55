"""Pictures in texts: every way to write one gives the picture, all else is refused."""

import base64
import re
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import snapensemble.serving.http.media.texts as module
from snapensemble.serving.errors import MalformedBody
from snapensemble.serving.http.media.texts import picture_of

HEADS = [
    "data:image/png;base64,", "DATA:Image/PNG;BASE64,", "data:;base64,",
    "data:application/octet-stream;base64,", "data:image/svg+xml;charset=utf-8;name=a%20b;base64,",
]  # fmt: skip


def as_lines(text: str, width: int, end: str) -> str:
    return end.join(text[place : place + width] for place in range(0, len(text), width)) + end


@given(
    st.binary(min_size=1, max_size=300), st.booleans(), st.booleans(), st.integers(1, 80),
    st.sampled_from(["", "\n", "\r\n"]), st.sampled_from(["", *HEADS]), st.integers(1, 20),
)  # fmt: skip
def test_every_way_to_write_a_picture_gives_the_picture(
    data: bytes, for_urls: bool, padded: bool, width: int, end: str, head: str, quads: int
) -> None:
    encode = base64.urlsafe_b64encode if for_urls else base64.b64encode
    text = encode(data).decode()
    if not padded:
        text = text.rstrip("=")
    if end:
        text = as_lines(text, width, end)
    texts = [head + text] + ([head + quote(text, safe="")] if head else [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLICE", 4 * quads)
        assert [picture_of(each, "here") for each in texts] == [data] * len(texts)


def expected_of(text: str) -> bytes | None:
    """What the rules say of a text that is no URI, in the fewest words; None if it is refused."""
    text = text.replace("\r", "").replace("\n", "")
    if re.search("[+/]", text) and re.search("[-_]", text):
        return None
    text = text.replace("-", "+").replace("_", "/")
    if not re.fullmatch("[A-Za-z0-9+/]*={0,2}", text) or len(text.rstrip("=")) % 4 == 1:
        return None
    if "=" in text and len(text) % 4:
        return None
    return base64.b64decode(text + "=" * (-len(text) % 4))


@given(st.text("ABab01+/=-_\r\n%", max_size=40), st.integers(1, 5))
@example("QUJD====", 1)
@example("QQ==\nQUJD", 1)
@example("QUI=\n\n\n\n\n\n\n\n\n", 1)
def test_slices_accept_what_the_whole_would_be(text: str, quads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLICE", 4 * quads)
        try:
            found: bytes | None = picture_of(text, "here")
        except MalformedBody as error:
            assert str(error).startswith("here: not base64: ")
            found = None
    assert found == expected_of(text)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:", "not base64; expected data:image/png;base64"),
        ("data:image/png;base64", "not base64; expected"),
        ("data:image/svg+xml,%3Csvg%3E", "not base64; expected"),
        ("data:image/png;base64;charset=utf-8,QUJD", "not base64; expected"),
        ("data:,A%20brief%20note", "not base64; expected"),
        ("data:text/html;base64,QUJD", "of 'text/html'; expected"),
        ("data:image/png;base64,QU%4AD", "images.3: not base64: "),
        ("data:image/png;base64,QUJD%", "images.3: not base64: "),
        ("data: image/png;base64,QUJD", "of ' image/png'; expected"),
        ("data:image/png;" + "a" * 1000 + ";base64,QUJD", "not base64; expected"),
    ],
)
def test_another_data_uri_is_refused(uri: str, message: str) -> None:
    with pytest.raises(MalformedBody, match="images.3: ") as caught:
        picture_of(uri, "images.3")
    assert message in str(caught.value)


def test_a_mixture_of_alphabets_is_told() -> None:
    with pytest.raises(MalformedBody, match="both alphabets"):
        picture_of("ab+/ab-_", "here")


@given(st.text(max_size=100))
def test_no_text_is_a_defect(text: str) -> None:
    for each in (text, f"data:{text}", f"data:image/png;base64,{text}"):
        try:
            assert isinstance(picture_of(each, "here"), bytes)
        except MalformedBody:
            pass

"""Hypothesis strategies for pictures, bodies, headers and queries that no decent client sends."""

import base64
import json

from hypothesis import strategies as st

from tests.factories import encoded, picture

PICTURES = [
    encoded(picture(0), "PNG"),
    encoded(picture(1, mode="P"), "PNG"),
    encoded(picture(2, mode="RGBA"), "WEBP", lossless=True),
    encoded(picture(3), "WEBP"),
    encoded(picture(4), "JPEG"),
    encoded(picture(5, width=20, height=20), "JPEG", progressive=True),
    encoded(picture(6), "BMP"),
    encoded(picture(7, mode="P"), "GIF"),
    *(
        encoded(picture(8), "TIFF", compression=compression)
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    ),
]
HEAD_BYTES = 64  # where sizes, counts and offsets are
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF]


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """A picture file with some bytes changed, mostly near its beginning, and perhaps cut off."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(1, 6))):
        last = len(data) - 1
        place = draw(st.integers(0, min(HEAD_BYTES, last)) | st.integers(0, last))
        data[place] = draw(st.sampled_from(NUMBERS) | st.integers(0, 255))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data[place:place] = data[draw(st.integers(0, place)) : place]
    if draw(st.booleans()):
        del data[draw(st.integers(1, len(data))) :]
    return bytes(data)


media_types = st.sampled_from(
    [
        b"image/png", b"IMAGE/PNG", b"image/", b"image/svg+xml", b"application/octet-stream",
        b"application/json", b"application/json; charset=utf-16", b"application/json;;;",
        b"multipart/form-data", b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=x",
        b'multipart/form-data; boundary="x', b"multipart/form-data; boundary=\xff\xfe",
        b"multipart/form-data; boundary=" + b"x" * 300, b"multipart/mixed; boundary=x",
        b"multipart/form-data; boundary=x; charset=utf-7", b"text/plain", b"/", b";", b"",
    ]
) | st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n\0"))  # fmt: skip

bodies = st.binary(max_size=200) | st.sampled_from(PICTURES) | damaged_pictures()

form_pieces = st.sampled_from(
    [
        b"--x", b"--x--", b"--y", b"\r\n", b"\n", b"\r", b"--", b":", b";", b"=", b'"', b"\0",
        b"\xff",
        b'Content-Disposition: form-data; name="f"; filename="a"\r\n',
        b"Content-Disposition: form-data; name=f; filename*=utf-8''%ff\r\n",
        b"Content-Disposition: form-data; name*=latin-9''x; filename=\r\n",
        b"Content-Disposition: attachment\r\n", b"Content-Disposition:\r\n",
        b"Content-Type: text/plain; charset=nothing\r\n", b"Content-Transfer-Encoding: base64\r\n",
        b"a" * 5000 + b": b\r\n", b"x: " + b"y" * 5000 + b"\r\n",
        PICTURES[0], PICTURES[4][:50],
    ]
)  # fmt: skip
form_names = st.sampled_from(
    [
        b"; name=f; filename=a", b'; name="f"; filename="\xff\xfe"', b"; name=\xe9",
        b"; name*=\xe9''f",
        b"; name=f; filename=\\N{x}", b"; name=\\ud800", b"; filename=a", b"",
        b"; name=" + b"n" * 900,
    ]
)  # fmt: skip
form_parts = st.tuples(form_names, bodies).map(
    lambda part: b"--x\r\nContent-Disposition: form-data%b\r\n\r\n%b\r\n" % part
)
whole_forms = st.lists(form_parts, max_size=3).map(lambda parts: b"".join([*parts, b"--x--\r\n"]))
broken_forms = st.lists(form_pieces | form_parts, max_size=25).map(b"".join)
form_types = st.sampled_from(
    [
        b"utf-8", b"utf-7", b"utf-16", b"utf-32", b"idna", b"undefined", b"punycode", b"hex",
        b"unicode_escape", b"raw_unicode_escape", b"nothing", b"\xff", b"", b"zlib", b"rot13",
    ]
).map(b"multipart/form-data; boundary=x; charset=".__add__)  # fmt: skip

encoded_texts = (
    st.text(max_size=20)
    | bodies.map(lambda data: base64.b64encode(data).decode())
    | bodies.map(lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="))
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | encoded_texts,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=15,
)
json_documents = (
    json_values
    | st.fixed_dictionaries({"images": json_values})
    | st.fixed_dictionaries({"images": st.lists(encoded_texts, max_size=6)})
).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
json_oddities = st.sampled_from(
    [
        b'{"images":["aGk="],"images":[]}', b'\xef\xbb\xbf{"images":["aGk="]}',
        b'{"images":["\\ud800"]}', b'{"images":["aGk=\\u0000"]}', b'{"images":[1e999]}',
        b'{"images":' + b"9" * 5000 + b"}", b"[" * 5000, b'{"a":' * 3000, b'"' + b"\\" * 999,
        b'{"images":["aGk="]}\0', b'{"images":["aGk="]}{}', b"\xff\xfe{\0}\0", b"-", b"1E", b"nan",
        '{"images":["ａＧk="]}'.encode(), b'{"images":["====",""]}',
    ]
)  # fmt: skip

header_values = st.sampled_from(
    [
        b"",
        b" ",
        b"\t",
        b"0",
        b"-1",
        b"+5",
        b"1e3",
        b"0x10",
        b"9" * 30,
        b"1_0",
        "١".encode(),
        b"5, 5",
    ]
) | st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n\0"))
header_names = st.sampled_from(
    [
        b"content-length", b"content-encoding", b"expect", b"x-request-id", b"authorization",
        b"origin", b"accept", b"cookie", b"host", b"range", b"if-none-match", b"te", b"traceparent",
        b"tracestate", b"x-forwarded-for", b"content-disposition",
    ]
)  # fmt: skip
headers = st.lists(st.tuples(header_names, header_values), max_size=4)

query_pieces = st.sampled_from(
    [
        b"top=", b"members=", b"mode=", b"coverage=", b"deadline_ms=", b"probabilities=", b"&",
        b"=",
        b"%", b"%ff", b"%00", b";", b"1", b"-1", b"1e9", b"nan", b"inf", b"0.9", b"true", b"full",
        b"cascade", b"9" * 400, b"[]", b"top[]=1", b"\xff", b"+",
    ]
)  # fmt: skip
queries = st.lists(query_pieces, max_size=8).map(b"".join)

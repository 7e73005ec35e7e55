import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.report.suspects import (
    COLUMNS,
    MOST_SHOWN,
    SUSPECTS_PAGE,
    SUSPECTS_TABLE,
    Picture,
    Suspect,
    page,
    table,
    write_suspects,
)
from tests.report.test_html import Content

STRANGE = 'roses/"a", <b>&.jpg'


def shown(name: str = "roses/a.jpg", split: str = "train", label: str = "roses") -> Picture:
    image_CHW = np.random.default_rng(len(name)).integers(0, 256, (3, 8, 12), dtype=np.uint8)
    return Picture(name, split, label, image_CHW)


SUSPECTS = [
    Suspect("near-duplicate", shown("a"), 0.97, other=shown("b", label="tulips")),
    Suspect("label", shown(STRANGE), 0.9312, suggested="tulips"),
    Suspect("exact-duplicate", shown("c"), 1.0, other=shown("d", split="test")),
    Suspect("exact-duplicate", shown("e"), 1.0, other=shown("f")),
]


def drawn(suspects: list[Suspect] = SUSPECTS, *, thumbnails: bool = True) -> str:
    return page(suspects, data="flowers", judged=100, thumbnails=thumbnails)


def test_the_table_has_a_line_for_each_and_any_name_survives_it() -> None:
    head, *rows = csv.reader(io.StringIO(table(SUSPECTS)))
    assert tuple(head) == COLUMNS and len(rows) == len(SUSPECTS)
    expected = ["2", STRANGE, "train", "roses", "tulips", "0.9312", "label", "", "", ""]
    assert rows[1] == expected
    assert rows[2][-4:] == ["exact-duplicate", "d", "test", "roses"]


def test_the_page_has_a_section_for_each_kind_and_shows_every_name_as_it_is() -> None:
    content = Content(drawn())
    text = "".join(content.texts)
    for heading in ("two labels", "Labels that may be wrong", "two parts", "One picture twice"):
        assert heading in text
    assert STRANGE in text and content.tags.count("img") == 7 and content.tags.count("b") == 5
    assert "http" not in drawn()


def test_a_page_without_thumbnails_has_no_picture_and_still_names_all() -> None:
    content = Content(drawn(thumbnails=False))
    assert "img" not in content.tags
    assert all(suspect.picture.name in "".join(content.texts) for suspect in SUSPECTS)


def test_a_long_list_is_cut_on_the_page_and_says_so() -> None:
    many = [
        Suspect("label", shown(f"{i:05}"), 0.5, suggested="tulips") for i in range(MOST_SHOWN + 5)
    ]
    found = drawn(many, thumbnails=False)
    assert f"The first {MOST_SHOWN} of {MOST_SHOWN + 5}; suspects.csv has all." in found
    assert found.count("<figure>") == MOST_SHOWN
    assert table(many).count("\n") == len(many) + 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 500, 250)])
def test_a_thumbnail_is_a_small_picture_of_the_same_shape(shape: tuple[int, int, int]) -> None:
    picture = Picture("a", "train", "b", np.zeros(shape, dtype=np.uint8))
    with Image.open(io.BytesIO(picture.thumbnail)) as found:
        assert max(found.size) == 112 and found.width * shape[1] == found.height * shape[2]


def test_another_page_of_this_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / SUSPECTS_PAGE).write_text("mine")
    with pytest.raises(InvalidConfig, match="is not a report"):
        write_suspects(tmp_path, SUSPECTS, data="d", judged=1, thumbnails=True)
    assert not (tmp_path / SUSPECTS_TABLE).exists()
    (tmp_path / SUSPECTS_PAGE).unlink()
    for _ in range(2):  # an earlier one of ours is
        write_suspects(tmp_path, SUSPECTS, data="d", judged=1, thumbnails=True)

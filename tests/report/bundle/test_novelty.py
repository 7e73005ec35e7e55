"""Pictures of other things: what is measured, and how it comes into a report that is there."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.novelty import NoveltyRecord, NoveltyThreshold
from snapensemble.report.bundle.novelty import (
    Scored,
    novel_shares,
    novelty_figures,
    novelty_lines,
)
from snapensemble.report.bundle.page import add_novelty, bundle_page, read_bundle_report
from snapensemble.report.bundle.records import NoveltyFigures
from tests.rendering import unrendered
from tests.report.bundle.test_page import make_report
from tests.report.run.test_page import NASTY

pytestmark = pytest.mark.usefixtures("unrendered")  # its pages are compared to the byte

RECORD = NoveltyRecord(
    images=77,
    thresholds=(
        NoveltyThreshold(false_alarms=0.05, distance=0.5),
        NoveltyThreshold(false_alarms=0.1, distance=0.3),
    ),
)


def figures_of(data: str = "others", record: NoveltyRecord = RECORD) -> NoveltyFigures:
    own = Scored("own", np.array([0.1, 0.2, 0.4, 0.6]), np.array([0.9, 0.9, 0.8, 0.5]))
    others = Scored(data, np.array([0.4, 0.8]), np.array([0.95, 0.6]))
    return novelty_figures(own, others, record, "test")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows what is novel, for tests that leave it as it is."""
    directory = tmp_path_factory.mktemp("novelty") / "bundle"
    with unrendered():
        make_report(directory, novelty=RECORD)
    return directory


@pytest.fixture
def bundle_dir(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "bundle"))


def page_of(directory: Path) -> str:
    return (directory / "report" / "index.html").read_text()


def test_distance_and_confidence_are_measured_with_an_interval_and_at_every_limit() -> None:
    found = figures_of()
    assert (found.images, found.own_images, found.own_split) == (2, 4, "test")
    assert found.auroc == pytest.approx((2.5 + 4) / 8)
    assert found.auroc_of_confidence == pytest.approx((0 + 3) / 8)
    for value, (low, high) in (
        (found.auroc, found.auroc_interval),
        (found.auroc_of_confidence, found.auroc_of_confidence_interval),
    ):
        assert 0 < low < value < high < 1
    assert [(s.false_alarms, s.own, s.others) for s in found.shares] == [
        (0.05, 0.25, 0.5), (0.1, 0.5, 1.0),
    ]  # fmt: skip


def test_a_measurement_is_added_to_the_page_as_if_the_page_had_been_drawn_with_it(
    bundle_dir: Path,
) -> None:
    add_novelty(bundle_dir, figures_of("cats"))
    page = add_novelty(bundle_dir, figures_of("dogs"))
    bundle, figures, file = read_bundle_report(bundle_dir)
    assert page == file and [each.data for each in figures.novelty] == ["cats", "dogs"]
    assert page_of(bundle_dir) == bundle_page(bundle, figures)
    for shown in ("cats", "dogs", "0.812 (", "0.375 (", "another kind of other picture may score"):
        assert shown in page_of(bundle_dir), shown


def test_measuring_the_same_pictures_again_replaces_what_was_there(bundle_dir: Path) -> None:
    for data in ("cats", "dogs", "cats"):
        add_novelty(bundle_dir, figures_of(data))
    _, figures, _ = read_bundle_report(bundle_dir)
    assert [each.data for each in figures.novelty] == ["dogs", "cats"]


def test_before_anything_is_measured_the_page_says_how(drawn: Path) -> None:
    text = page_of(drawn)
    assert "snapensemble evaluate BUNDLE_DIR --unlike SPEC --report" in text
    assert "AUROC" not in text


def test_own_pictures_that_are_the_same_have_one_row() -> None:
    rows = novel_shares([figures_of("cats"), figures_of("dogs")])
    assert [row.pictures for row in rows] == ["its own: 4 of own, test", "cats", "dogs"]
    assert [row.shares for row in rows] == [(0.25, 0.5), (0.5, 1.0), (0.5, 1.0)]


def test_names_of_pictures_are_escaped_and_open_no_other_section(bundle_dir: Path) -> None:
    for name in (*NASTY, '</section><section id="novelty">', "\\1"):
        add_novelty(bundle_dir, figures_of(name))
    bundle, figures, _ = read_bundle_report(bundle_dir)
    text = page_of(bundle_dir)
    assert text == bundle_page(bundle, figures) and "<script" not in text
    assert text.count('<section id="novelty">') == 1


def test_a_bundle_with_too_few_images_for_a_limit_still_shows_the_areas(tmp_path: Path) -> None:
    none = NoveltyRecord(images=3, thresholds=())
    make_report(tmp_path / "bundle", novelty=none)
    add_novelty(tmp_path / "bundle", figures_of(record=none))
    assert "AUROC, distance" in page_of(tmp_path / "bundle")
    assert "called novel, by" not in page_of(tmp_path / "bundle")


def test_the_commands_say_what_was_measured_against_what() -> None:
    first, *limits = novelty_lines(figures_of("cats"))
    assert first.startswith("2 pictures of cats: AUROC 0.812 (")
    assert first.endswith("against its own, 4 of own, test")
    assert limits[0] == "novel at 5% false alarms: 25.0% of its own, 50.0% of the others"


def test_the_report_of_a_signed_bundle_is_left_as_it_is(bundle_dir: Path) -> None:
    before = page_of(bundle_dir)
    (bundle_dir / "model.sig").write_text("a signature")
    with pytest.raises(InvalidConfig, match=r"model\.sig covers its report: remove the signature"):
        add_novelty(bundle_dir, figures_of())
    assert page_of(bundle_dir) == before


def test_a_page_of_an_earlier_version_has_no_place_for_other_pictures(bundle_dir: Path) -> None:
    page = bundle_dir / "report" / "index.html"
    page.write_text(page.read_text().replace(' id="novelty"', ""))
    with pytest.raises(InvalidManifest, match=r"an earlier version made it; .*--novelty$"):
        add_novelty(bundle_dir, figures_of())


def test_the_model_card_of_a_bundle_that_knows_what_is_novel_says_so(drawn: Path) -> None:
    bundle, figures, _ = read_bundle_report(drawn)
    plain: BundleManifest = bundle.model_copy(update={"novelty": None})
    assert "asking for novelty finds some of these images, not all" in page_of(drawn)
    assert "there is no answer that says none of these" in bundle_page(plain, figures)

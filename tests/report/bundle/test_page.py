import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from snapensemble.cli import main
from snapensemble.contracts.bundle import Gain, Price, Trunk, read_bundle, write_bundle
from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.manifest import write_manifest
from snapensemble.contracts.novelty import NoveltyRecord, NoveltyThreshold
from snapensemble.report.bundle.measure import ReportInputs, measure_bundle
from snapensemble.report.bundle.page import bundle_page, read_bundle_report, write_bundle_report
from snapensemble.report.bundle.records import read_figures
from snapensemble.report.bundle.words import remedy, summary
from tests.factories import DATA, abstention_record
from tests.report.bundle.bundles import SPEED, answers, make_manifest
from tests.report.run.test_page import NASTY, Tags

SECTIONS = [
    "How many members", "How far confidence can be believed", "How far the members disagree",
    "Answering only where it is sure", "What it costs, and what it gives", "Prediction sets",
    "Members", "Classes", "What is taken for what", "The worst mistakes", "Right, but hardly",
    "Model card", "Limits",
]  # fmt: skip


def make_report(
    directory: Path, *, calibration: int = 60, test: int = 80, members: int = 3, **changes: Any
) -> None:
    """A bundle directory with a manifest and a report, and no members."""
    classes = len(changes.get("names", "abc"))
    half = answers(calibration, members=members, classes=classes, seed=1)
    reported = answers(test, members=members, classes=classes, seed=13) if test else None
    speed = changes.pop("speed", None)
    bundle = make_manifest(half, **changes)
    inputs = ReportInputs(calibration=half, test=reported, speed=speed)
    directory.mkdir(parents=True)
    write_bundle_report(directory, bundle, inputs)
    write_bundle(directory, bundle)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a report on test images, for tests that leave it as it is."""
    directory = tmp_path_factory.mktemp("drawn") / "bundle"
    make_report(directory)
    return directory


@pytest.fixture(scope="module")
def untested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without test images, whose manifest would break the page if it were not escaped."""
    directory = tmp_path_factory.mktemp("untested") / "bundle"
    data = DATA.model_copy(update={"spec": "<b>&'\""})
    make_report(directory, test=0, names=NASTY, data=data, model="<i>", snapensemble="<u>")
    return directory


def page_of(directory: Path) -> str:
    return (directory / "report" / "index.html").read_text()


def headings(text: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", text)


def test_a_report_is_one_page_and_its_numbers(drawn: Path) -> None:
    assert set(os.listdir(drawn / "report")) == {"index.html", "figures.json"}
    assert headings(page_of(drawn)) == SECTIONS


def test_the_page_of_a_bundle_needs_nothing_but_itself(drawn: Path) -> None:
    text = page_of(drawn)
    tags = Tags(text).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 6 and len(text) < 500_000
    assert all((i["src"] or "").startswith("data:image/png;base64,") for i in images)
    assert all(re.search(r"\d", i["alt"] or "") for i in images)
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in tags}
    assert "url(" not in text and "@import" not in text and "://" not in text


def test_what_comes_from_the_manifest_is_escaped(untested: Path) -> None:
    text = page_of(untested)
    for tag in ("<script", "<b>", "<i>", "<u>", "<img src=//"):
        assert tag not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&lt;i&gt;" in text
    assert "--data &#39;&lt;b&gt;&amp;&#39;" in text  # and quoted for the shell


def test_the_same_bundle_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    make_report(tmp_path / "again")
    for file in ("index.html", "figures.json"):
        again = (tmp_path / "again" / "report" / file).read_bytes()
        assert again == (drawn / "report" / file).read_bytes()


def test_only_the_key_of_the_speed_depends_on_the_machine() -> None:
    half = answers(30)
    bundle = make_manifest(half, int8=True)
    slow, unknown = (
        measure_bundle(bundle, ReportInputs(calibration=half, test=half, speed=speed)).model_dump()
        for speed in (SPEED, None)
    )
    assert slow.pop("speed")["fp32"] == {"batch_1": 100.0, "batch_16": 160.0}
    assert unknown.pop("speed") is None
    assert slow == unknown


@pytest.mark.usefixtures("unrendered")
def test_the_numbers_are_read_back_as_they_were_measured(tmp_path: Path) -> None:
    half = answers(30)
    inputs = ReportInputs(calibration=half, test=half, speed=SPEED)
    figures = measure_bundle(make_manifest(half, int8=True), inputs)
    (tmp_path / "report").mkdir()
    write_manifest(tmp_path / "report" / "figures.json", figures)
    assert read_figures(tmp_path) == figures


def test_without_test_images_the_calibration_half_is_shown_and_named(untested: Path) -> None:
    text = page_of(untested)
    assert "The test images were not at hand when this bundle was exported" in text
    assert "the 60 images of the calibration half of validation instead" in text
    assert "<code>snapensemble export RUN_DIR --out BUNDLE_DIR --force --data " in text
    assert "what is found is what was fitted" in text and "calibration NLL" in text
    assert "test accuracy" not in text


def test_data_without_a_test_part_are_not_to_be_found_again() -> None:
    half = answers(30)
    bundle = make_manifest(half, data=DATA.model_copy(update={"test_images": 0}))
    figures = measure_bundle(bundle, ReportInputs(calibration=half))
    assert summary(bundle, figures)[-1].startswith("The data have no test images, so this page")
    assert remedy(bundle, figures) == []


@pytest.mark.usefixtures("unrendered")
def test_without_any_image_the_page_tells_what_the_manifest_knows(tmp_path: Path) -> None:
    make_report(tmp_path / "bundle", test=0, calibration=0)
    text = page_of(tmp_path / "bundle")
    assert headings(text) == ["Members", "Model card", "Limits"]
    assert "there are no validation images that chose nothing" in text


@pytest.mark.usefixtures("unrendered")
def test_test_images_are_enough_for_all_but_prediction_sets(tmp_path: Path) -> None:
    make_report(tmp_path / "bundle", calibration=0)
    shown = [section for section in SECTIONS if section != "Prediction sets"]
    assert headings(page_of(tmp_path / "bundle")) == shown


@pytest.mark.usefixtures("unrendered")
def test_the_page_shows_what_is_promised_of_sure_answers_and_of_pictures_of_other_things(
    drawn: Path,
) -> None:
    bundle, figures, _ = read_bundle_report(drawn)
    calibration = bundle.calibration
    assert calibration is not None and "Promised to clients" not in page_of(drawn)
    novelty = NoveltyRecord(
        images=77, thresholds=(NoveltyThreshold(false_alarms=0.02, distance=0.4321),)
    )
    promising = bundle.model_copy(
        update={
            "calibration": calibration.model_copy(update={"abstention": abstention_record(0.6543)}),
            "novelty": novelty,
        }
    )
    text = bundle_page(promising, figures)
    assert "Pictures of other things" in headings(text)
    for shown in ("by 40 validation images", "0.6543", "10.00%", "77 validation images", "0.4321"):
        assert shown in text, shown


@pytest.mark.usefixtures("unrendered")
def test_one_member_is_compared_with_nothing(tmp_path: Path) -> None:
    make_report(tmp_path / "bundle", members=1)
    text = page_of(tmp_path / "bundle")
    assert "is one network" in text and "alone" not in text
    left_out = {SECTIONS[0], SECTIONS[2], SECTIONS[4]}
    assert headings(text) == [s for s in SECTIONS if s not in left_out]


@pytest.mark.parametrize(
    "changes",
    [
        {"cascade": False, "sets": False, "test": 1},
        {"calibration": 3, "names": ["no", "yes"], "members": 2, "temperature": 1.0},
        {"members": 1, "int8": True, "speed": SPEED},
        {"calibration": 20, "test": 30, "members": 20},
    ],
    ids=["one image", "two classes", "one int8 member", "many members"],
)
def test_bundles_of_all_kinds_have_a_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    make_report(tmp_path / "bundle", **changes)
    found = headings(page_of(tmp_path / "bundle"))
    assert found == [section for section in SECTIONS if section in found]
    assert set(SECTIONS[6:9]) | set(SECTIONS[-2:]) <= set(found)


def test_a_thousand_classes_fit(tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(1000)]
    make_report(tmp_path / "bundle", names=names, calibration=200, test=300)
    text = page_of(tmp_path / "bundle")
    assert "200 of 1,000; figures.json has all" in text
    assert "and 950 more, listed in ensemble.json" in text
    figures = read_figures(tmp_path / "bundle")
    assert figures.answers is not None and len(figures.answers.classes) == 1000
    assert len(text) < 800_000


@pytest.mark.usefixtures("unrendered")
def test_the_page_says_how_often_sets_hold_each_class(tmp_path: Path) -> None:
    for kind, said in (("marginal", True), ("class-conditional", False)):
        make_report(tmp_path / kind, calibration=200, test=300, kind=kind)
        text = page_of(tmp_path / kind)
        assert "by class; the least covered first" in text
        assert ("Nothing is promised here for a single class" in text) == said
        assert ("on average over images of each class like" in text) != said


@pytest.mark.usefixtures("unrendered")
def test_the_page_says_whether_limits_are_promised() -> None:
    half = answers(60, seed=1)
    bundle = make_manifest(half, int8=True)
    assert bundle.cascade is not None and bundle.quantization is not None
    inputs = ReportInputs(calibration=half)
    text = bundle_page(bundle, measure_bundle(bundle, inputs))
    assert text.count("by an estimate on validation, which is no promise") == 3
    assert "its limits are kept by an estimate" in text
    bounds: dict[str, Any] = {"promise": "bound", "confidence": 0.95}
    points = [
        point.model_copy(
            update={"accuracy_drop_bound": point.accuracy_drop, "nll_rise_bound": point.nll_rise}
        )
        for point in bundle.cascade.points
    ]
    records = {
        "cascade": bundle.cascade.model_copy(update={**bounds, "points": tuple(points)}),
        "quantization": bundle.quantization.model_copy(
            update={
                **bounds,
                "accuracy_drop_bound": 0.004,
                "nll_rise_bound": 0.01,
                "agreement_bound": 0.97,
            }
        ),
    }
    promised = bundle.model_copy(update=records)
    text = bundle_page(promised, measure_bundle(promised, inputs))
    assert text.count("with 95% confidence") == 4 and "no promise" not in text
    assert "accuracy falls by no more than 0.40%" in text


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.usefixtures("unrendered")
def test_the_page_says_what_members_share_and_what_an_image_takes(int8: bool) -> None:
    half = answers(60, seed=1)
    trunk = Trunk(file="trunk.onnx", sha256="0" * 64, features=(4, 3, 2))
    price = Price(trunk=900_000, members=(100_000,) * 3)
    bundle = make_manifest(half, int8=int8, trunk=trunk, price=price)
    figures = measure_bundle(bundle, ReportInputs(calibration=half, speed=SPEED if int8 else None))
    assert "share a trunk: an image takes 1.20 times what one of them takes" in " ".join(
        summary(bundle, figures)
    )
    text = bundle_page(bundle, figures)
    assert "trunk.onnx, fp32, 4 x 3 x 2 numbers" in text
    assert "1,200,000 multiplications and additions" in text
    assert "Dashed: what one fp32 network, trunk and member, costs." in text
    of_every_member = 1.2 * (100 / 250 if int8 else 1)
    assert f"<td>{of_every_member:.2f}</td>" in text


@pytest.mark.usefixtures("unrendered")
def test_the_model_card_says_why_the_members_were_taken_and_what_they_gain() -> None:
    half = answers(60, seed=1)
    bundle = make_manifest(half)
    gain = Gain(
        over="last",
        member="cycle-02",
        images=60,
        nll=(0.0312, 0.001, 0.0614),
        accuracy=(0.0133, -0.004, 0.0306),
    )
    update = {"rule": "auto", "reason": "the cycles' moving averages", "gains": (gain,)}
    selection = bundle.selection.model_copy(update=update)
    bundle = bundle.model_copy(update={"selection": selection})
    text = bundle_page(bundle, measure_bundle(bundle, ReportInputs(calibration=half)))
    assert "Taken: the cycles&#39; moving averages." in text
    assert "Over the last snapshot (cycle-02): NLL -0.0312 (-0.0614 to -0.0010)" in text
    assert "accuracy +1.33 points (-0.40 to +3.06)" in text
    assert "95.00% confidence, on 60 validation images that chose nothing" in text


@pytest.mark.usefixtures("unrendered")
def test_int8_is_compared_with_the_same_members_in_fp32(tmp_path: Path) -> None:
    half, test = answers(60, seed=1), answers(80, seed=2)
    bundle = make_manifest(half, int8=True)
    fp32_MNK = answers(80, seed=2).probs_MNK[::-1].copy()
    inputs = ReportInputs(calibration=half, test=test, fp32_test_MNK=fp32_MNK, speed=SPEED)
    figures = measure_bundle(bundle, inputs)
    assert figures.answers is not None
    assert [o.precision for o in figures.answers.options] == 6 * ["fp32"] + 6 * ["int8"]
    text = bundle_page(bundle, figures)
    assert "in fp32 the same members have" in text
    assert "an int8 member takes 0.40 times as long as in fp32" in text
    assert "measured on a processor" in text
    assert "under the temperatures and thresholds of the int8 ones" in text


def test_the_command_prints_a_summary_and_where_the_page_is(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(drawn)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("insects 0badcafe averages the probabilities of 3 networks")
    assert lines[1].startswith("On the 80 test images: accuracy ")
    assert "macro accuracy" in lines[1] and lines[1].endswith("right, at 95% confidence.")
    assert lines[-1] == str(drawn / "report" / "index.html")


def test_the_command_prints_how_to_measure_on_the_test_images(
    untested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(untested)]) == 0
    line = capsys.readouterr().out.splitlines()[-2]
    assert line.startswith("Measure on the test images: snapensemble export RUN_DIR --out ")


def test_the_command_prints_the_numbers_and_copies_the_page(
    untested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    assert main(["report", str(untested), "--out", str(out), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers.pop("page") == str(out / "index.html")
    written = (untested / "report" / "figures.json").read_text()
    assert numbers == json.loads(written) and numbers["split"] == "calibration"
    assert (out / "index.html").read_text() == page_of(untested)


def test_a_copy_replaces_no_other_page(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("my homepage")
    with pytest.raises(InvalidConfig, match="is not a report; it is not replaced"):
        read_bundle_report(drawn, tmp_path)
    assert (tmp_path / "index.html").read_text() == "my homepage"


@pytest.mark.parametrize("file", ["index.html", "figures.json"])
def test_a_bundle_without_a_report_is_explained(
    drawn: Path, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn, tmp_path / "bundle")
    (tmp_path / "bundle" / "report" / file).unlink()
    assert main(["report", str(tmp_path / "bundle")]) == 2
    message = capsys.readouterr().err
    assert "was exported without a report" in message
    assert "snapensemble export RUN_DIR --out BUNDLE_DIR --force --data digits" in message


def test_the_report_of_another_bundle_is_refused(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "bundle")
    bundle = read_bundle(drawn)
    write_bundle(tmp_path / "bundle", bundle.model_copy(update={"version": "11111111"}))
    with pytest.raises(InvalidManifest, match="report is of version 0badcafe"):
        read_bundle_report(tmp_path / "bundle")


def test_a_report_without_the_answers_to_all_images_is_refused(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "bundle")
    file = tmp_path / "bundle" / "report" / "figures.json"
    content = json.loads(file.read_text())
    content["answers"]["selective"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(InvalidManifest, match=r"answers\.selective"):
        read_bundle_report(tmp_path / "bundle")

import numpy as np
import pytest

from snapensemble.contracts.bundle import Price, Trunk
from snapensemble.contracts.cascade import run_cascade
from snapensemble.contracts.metrics import Answers
from snapensemble.contracts.prediction_sets import SetQuantile
from snapensemble.report.bundle.charts import size_groups
from snapensemble.report.bundle.confusion import class_figures
from snapensemble.report.bundle.measure import ReportInputs, measure_bundle
from snapensemble.report.bundle.options import (
    chance,
    class_coverage,
    cost,
    precision_of,
    serving_options,
    set_figures,
)
from snapensemble.report.bundle.records import Option
from tests.report.bundle.bundles import SPEED, answers, make_manifest

LEAST = SetQuantile(method="least_ambiguous", coverage=0.9, quantile=0.7)
PROBS_NK = np.array([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.4, 0.35, 0.25]])
LABELS_N = np.array([0, 1, 1, 2])


def test_sets_are_counted_by_size_and_by_what_they_hold() -> None:
    # A class is in from a probability of 0.3: {0, 1}, {0, 1}, {2}, {0, 1}; the last two miss.
    found = set_figures(PROBS_NK, LABELS_N, LEAST, cascade=False, fitted_on=100)
    assert found.sizes == ((1, 1), (2, 3))
    assert found.coverage == 0.5 and found.mean_size == 1.75


def test_coverage_is_counted_by_class_the_least_covered_first() -> None:
    found = set_figures(PROBS_NK, LABELS_N, LEAST, cascade=False, fitted_on=100)
    assert found.covered == (1, 1, 0)  # of 1, 2 and 1 images
    classes = class_figures(PROBS_NK.argmax(axis=1), LABELS_N, ("ant", "bee", "fly"))
    rows = class_coverage([found], classes, ("ant", "bee", "fly"))
    assert [(row.name, row.images, row.shares) for row in rows] == [
        ("fly", 1, (0.0,)), ("bee", 2, (0.5,)), ("ant", 1, (1.0,)),
    ]  # fmt: skip


def test_a_quantile_that_too_few_images_gave_puts_every_class_in() -> None:
    every = LEAST.model_copy(update={"quantile": None})
    found = set_figures(PROBS_NK, LABELS_N, every, cascade=True, fitted_on=3)
    assert found.coverage == 1.0 and found.sizes == ((3, 4),)


def test_coverage_strays_by_what_fits_it_and_by_what_measures_it() -> None:
    assert chance(0.9, images=100, fitted_on=98) == pytest.approx(2 * (0.09 * 0.02) ** 0.5)
    assert chance(0.5, images=1, fitted_on=0) == 1.0
    here = set_figures(PROBS_NK, LABELS_N, LEAST, cascade=False, fitted_on=None)
    assert here.chance is None


def test_measured_coverage_is_what_was_promised_but_for_chance() -> None:
    calibration, test = answers(400, classes=6, seed=1), answers(2000, classes=6, seed=2)
    bundle = make_manifest(calibration, names=list("abcdef"))
    figures = measure_bundle(bundle, ReportInputs(calibration=calibration, test=test))
    assert figures.answers is not None and len(figures.answers.sets) == 8
    for found in figures.answers.sets:
        assert found.chance is not None
        assert found.coverage >= found.promised - found.chance


def test_every_point_of_the_cascade_is_an_option_and_one_is_in_use() -> None:
    calibration, test = answers(200, seed=1), answers(300, seed=2)
    bundle = make_manifest(calibration)
    options = serving_options(bundle, test.probs_MNK, test.labels_N, "fp32")
    assert [o.cascade for o in options] == [False] + 5 * [True]
    assert options[0].members_per_image == 3
    costs = [o.members_per_image for o in options[1:]]
    assert costs == sorted(costs) and costs[-1] == 3
    # 0.004 is the first expected drop within the tolerance of 0.005.
    assert [o.active for o in options] == [False, False, False, True, False, False]
    cascade = bundle.cascade_at()
    assert cascade is not None
    probs_NK, used_N = run_cascade(test.probs_MNK, cascade, bundle.temperature)
    assert options[3].members_per_image == used_N.mean()
    assert options[3].figures.accuracy == (probs_NK.argmax(axis=1) == test.labels_N).mean()


def test_no_point_is_in_use_in_another_precision() -> None:
    calibration = answers(50)
    bundle = make_manifest(calibration, int8=True)
    options = serving_options(bundle, calibration.probs_MNK, calibration.labels_N, "fp32")
    assert not any(o.active for o in options)


def test_the_cost_of_int8_is_in_units_of_one_fp32_member() -> None:
    test = answers(20)
    bundle = make_manifest(test, int8=True, cascade=False)
    (int8,) = serving_options(bundle, test.probs_MNK, test.labels_N, "int8")
    fp32: Option = int8.model_copy(update={"precision": "fp32"})
    # 100 images a second against 250.
    assert cost(int8, SPEED) == pytest.approx(3 * 100 / 250)
    assert cost(fp32, SPEED) == cost(int8, None) == 3
    assert cost(int8, SPEED.model_copy(update={"int8": None})) == 3


def test_members_on_a_trunk_cost_what_they_add_to_it() -> None:
    test = answers(20)
    (full,) = serving_options(
        make_manifest(test, cascade=False), test.probs_MNK, test.labels_N, "fp32"
    )
    half: Option = full.model_copy(update={"members_per_image": 1.5, "precision": "int8"})
    price = Price(trunk=900, members=(100, 100, 100))
    assert cost(full, None, price) == price.in_single_networks == pytest.approx(1.2)
    assert cost(half, SPEED, price) == pytest.approx(1.05 * 100 / 250)
    assert cost(full, None, Price(members=(7, 7, 7))) == pytest.approx(3)  # without a trunk


def test_a_bundle_is_int8_if_its_trunk_is() -> None:
    trunk = Trunk(file="trunk.onnx", sha256="0" * 64, precision="int8", features=(4,))
    assert precision_of(make_manifest(answers(20), trunk=trunk)) == "int8"


def test_sizes_are_drawn_alone_while_they_are_few() -> None:
    assert size_groups([1, 3]) == [(1, 1), (2, 2), (3, 3)]
    assert size_groups([10])[-1] == (10, 10)
    assert size_groups([1, 30])[-4:] == [(5, 5), (6, 10), (11, 20), (21, 30)]
    covered = [size for low, high in size_groups([1000]) for size in range(low, high + 1)]
    assert covered == list(range(1, 1001))


def test_answers_that_do_not_fit_each_other_are_refused() -> None:
    test = answers(4)
    with pytest.raises(ValueError, match="there are 3 labels"):
        Answers(test.probs_MNK, test.labels_N[:3])
    with pytest.raises(ValueError, match="shape of the test answers"):
        ReportInputs(calibration=test, test=test, fp32_test_MNK=test.probs_MNK[:1])
    with pytest.raises(ValueError, match="shape of the test answers"):
        ReportInputs(calibration=test, fp32_test_MNK=test.probs_MNK)

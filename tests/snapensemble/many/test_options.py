"""What the rows of one file have in common."""

from pathlib import Path

from snapensemble.many.options import ManyOptions, depends_on
from snapensemble.serving.http.schemas import PredictOptions

OTHERS = {"top": 1, "mode": "cascade", "coverage": 0.9, "abstain": 0.05, "novelty": 0.01}
ELSEWHERE = {
    "members": "rows have no column for it",
    "probabilities": "an option of ManyOptions",
    "explain": "refused for many pictures",
    "deadline_ms": "no option of predict",
}


def test_rows_of_one_file_were_asked_for_alike_in_all_that_an_answer_may_have(
    bundle_dir: Path,
) -> None:
    assert OTHERS.keys() | ELSEWHERE.keys() == PredictOptions.model_fields.keys()

    def depends(**asked: object) -> dict[str, str]:
        options = PredictOptions.model_validate(asked)
        return depends_on(bundle_dir, ManyOptions(out=Path("rows.csv")), options, 1.0)

    first = depends()
    for name, other in OTHERS.items():
        assert depends(**{name: other}) == first | {f"--{name}": str(other)} != first

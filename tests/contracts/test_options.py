import argparse
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr, model_validator

from snapensemble.contracts.errors import InvalidConfig, Misfit
from snapensemble.contracts.options import Options, add_options, build, expected, flag, read_options


class Oven(Options):
    heat: float = Field(0.5, ge=0, le=1, description="share of its power")
    shelves: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2), description="which")
    top_up: bool | None = Field(None, description="more water (as the dish wants)")
    dish: Literal["pie", "bread"] = Field("pie", description="what is baked")
    minutes: int | Literal["auto"] = Field(30, description="100% of the time")
    book: Path | None = Field(
        None, description="recipes", json_schema_extra={"const": "usual", "belongs_to": ["pie"]}
    )
    secret: SecretStr | None = Field(None, min_length=9, description="ingredient")

    @model_validator(mode="after")
    def _bread_needs_heat(self) -> "Oven":
        if self.dish == "bread" and self.heat < 0.5:
            raise Misfit(f"{{dish}} needs {{heat}} 0.5, got {self.heat}")
        return self


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser, Oven, without=("secret",))
    return vars(parser.parse_args(arguments))


def test_what_is_not_given_is_left_to_the_default() -> None:
    assert parsed() == {}
    assert build(Oven, {}) == Oven()


def test_flags_build_what_their_values_stand_for() -> None:
    line = ["--heat", "1", "--shelves", "3", "4", "--no-top-up", "--minutes", "auto", "--book"]
    assert build(Oven, parsed(*line)) == Oven(
        heat=1, shelves=(3, 4), top_up=False, minutes="auto", book=Path("usual")
    )


def test_help_has_the_meaning_and_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "--heat HEAT share of its power (0.5)",
        "--shelves SHELVES [SHELVES ...] which (1 2)",
        "--top-up, --no-top-up more water (as the dish wants)",
        "--dish {pie,bread} what is baked (pie)",
        "100% of the time (30)",
        "--book [BOOK] pie: recipes",
    ):
        assert part in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("heat", "2", "--heat: expected a number, from 0 to 1, got '2'"),
        ("heat", "nan", "--heat: expected a finite number, from 0 to 1, got 'nan'"),
        ("shelves", ["1", "0"], "--shelves: expected a list, each a whole number, at least 1, got"),
        ("top_up", "x", "--top-up: expected true or false, got 'x'"),
        ("dish", "soup", "--dish: expected one of pie, bread, got 'soup'"),
        ("minutes", "long", "--minutes: expected a whole number, or auto, got 'long'"),
        ("book", 3, "--book: expected a path, got 3"),
        ("book", "a\0b", "--book: holds a NUL character, which is in no path or name, got 'a"),
        ("book", Path("a\0b"), "--book: holds a NUL character"),
    ],
)
def test_a_wrong_value_is_said_with_what_is_expected(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        build(Oven, {name: value})
    assert str(caught.value).startswith(message)


def test_all_that_is_wrong_is_said_at_once_and_each_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        build(Oven, {"minutes": "x", "heat": "y"})
    assert str(caught.value).count("--") == 2


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="^there is no --heart$"):
        build(Oven, {"heart": 1})


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidConfig, match="^--secret: expected a text$"):
        build(Oven, {"secret": "nutmeg"})


def test_values_that_do_not_fit_have_the_names_that_the_user_knows() -> None:
    wrong = {"dish": "bread", "heat": "0.1"}
    with pytest.raises(InvalidConfig, match="^--dish needs --heat 0.5, got 0.1$"):
        build(Oven, wrong)
    with pytest.raises(InvalidConfig, match="^DISH needs HEAT 0.5, got 0.1$"):
        build(Oven, wrong, str.upper)


@pytest.mark.parametrize("value", ["1", True, None, [0.5], float("nan"), 2])
def test_a_file_must_hold_values_of_their_kind(value: object) -> None:
    with pytest.raises(InvalidConfig, match=r"^heat in a.toml: expected a (finite )?number, from"):
        read_options(Oven, {"heat": value}, "a.toml")


def test_a_file_gives_the_values_that_the_model_has() -> None:
    content = {"heat": 1, "shelves": [1, 3], "book": "x", "minutes": "auto", "dish": "bread"}
    values = read_options(Oven, content, "a.toml")
    assert values == {**content, "shelves": (1, 3), "book": Path("x")}
    assert build(Oven, values) == Oven(**values)


def test_a_name_in_a_file_that_is_none_comes_with_those_that_are() -> None:
    with pytest.raises(InvalidConfig, match="^a.toml: unknown setting 'heart'; known: heat, shel"):
        read_options(Oven, {"heart": 1}, "a.toml")


def test_settings_that_do_not_fit_can_have_other_names_elsewhere() -> None:
    misfit = Misfit("{T_0} and {other} are {} 5")
    assert str(misfit) == "T_0 and other are {} 5"
    assert misfit.said(flag) == "--T-0 and --other are {} 5"
    assert misfit.renamed({"T_0": "length"}).said(flag) == "--length and --other are {} 5"


def test_what_may_be_given_is_told_for_each_option() -> None:
    assert [expected(Oven, name) for name in ("heat", "dish", "book")] == [
        "a number, from 0 to 1", "one of pie, bread", "a path",
    ]  # fmt: skip

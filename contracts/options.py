"""Options: fields of pydantic models as flags, as keys of a file, and in messages.

The `Field` of an option holds its bounds, its default and its help text. Its `json_schema_extra`
may hold `belongs_to`, the choices with which it counts, and argparse's `metavar` and `const`.
"""

import argparse
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from snapensemble.contracts.errors import InvalidConfig, Misfit, SnapensembleError
from snapensemble.contracts.process import EXTRAS

KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
}
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_FLAG = re.compile(r"(?<![\w/.-])--(no-)?([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
Model = TypeVar("Model", bound=BaseModel)


class Options(BaseModel):
    """The base of a command's options: frozen, and without infinite numbers or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: object) -> object:
        """Files, which can hold it where a command line cannot, would give paths that none has."""
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("holds a NUL character, which is in no path or name")
        return value


def flag(name: str) -> str:
    """The name of an option on the command line."""
    return f"--{name.replace('_', '-')}"


def add_options(
    parser: argparse.ArgumentParser, model: type[BaseModel], *, without: Container[str] = ()
) -> None:
    """Give a parser one flag for each option of a model.

    What is not given on the command line is not in the namespace. Values are texts: `build` checks
    them, so that one function words what is wrong with them.

    Args:
        parser: the parser of the command.
        model: the model whose fields are the options.
        without: names of options that have no flag.
    """
    for name, field in model.model_fields.items():
        if name in without:
            continue
        more: dict[str, Any]
        if _takes(bool, field):
            choices = [kind["const"] for kind in _kinds(model, name) if "const" in kind]
            more = {"action": _Switch, "choices": choices, "metavar": "|".join(choices) or None}
        else:
            more = {"metavar": extra(field).get("metavar") or _metavar(model, name)}
            if (const := extra(field).get("const")) is not None:
                more |= {"nargs": "?", "const": const}
            elif _takes(tuple, field):
                more["nargs"] = "+"
        parser.add_argument(
            flag(name), default=argparse.SUPPRESS, help=help_text(field).replace("%", "%%"), **more
        )


class _Switch(argparse.BooleanOptionalAction):
    """A flag and its opposite; with `choices` the flag may have one of them as its value."""

    def __init__(self, *args: Any, choices: list[str], metavar: str | None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.metavar = metavar
        if choices:
            self.nargs = "?"

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the value if there is one, and otherwise whether the flag is not the opposite."""
        if values:
            setattr(namespace, self.dest, values)
        else:
            super().__call__(parser, namespace, values, option_string)


def differences(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What settings were and are, in words, for each that is not the same."""
    return [
        f"{name} was {found.get(name)}, is {now.get(name)}"
        for name in dict.fromkeys([*found, *now])
        if found.get(name) != now.get(name)
    ]


def help_text(field: FieldInfo) -> str:
    """What an option means, and its default unless that is in the text."""
    text, shown = meaning(field), shown_default(field)
    return f"{text} ({shown})" if shown and not text.endswith(")") else text


def meaning(field: FieldInfo) -> str:
    """What an option means; the choices that it belongs to come first."""
    owners = ", ".join(extra(field).get("belongs_to", ()))
    return f"{owners}: {field.description}" if owners else str(field.description)


def shown_default(field: FieldInfo) -> str:
    """The default as a user would write it; nothing where there is none."""
    default = field.default
    if field.is_required() or default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def extra(field: FieldInfo) -> Mapping[str, Any]:
    """The `json_schema_extra` of a field; empty if it has none."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def build(
    model: type[Model], values: Mapping[str, Any], word: Callable[[str], str] = flag
) -> Model:
    """Build a model from values by name; texts are read as what they stand for.

    Args:
        model: what to build.
        values: by the names of the options.
        word: gives the name by which the user knows an option.

    Raises:
        InvalidConfig: a value is out of bounds, or two do not fit; in the user's names.
    """
    try:
        return model(**values)
    except ValidationError as error:
        # A union type has an error for each of its parts; the first one says it all.
        problems: dict[object, ErrorDetails] = {}
        for details in error.errors():
            problems.setdefault(details["loc"][:1], details)
        texts = (_explained(details, model, word) for details in problems.values())
        raise InvalidConfig("; ".join(texts)) from error


@contextmanager
def in_python_words() -> Iterator[None]:
    """Have errors name arguments of Python functions where they name flags.

    `--max-nll-rise` becomes `max_nll_rise`, `--no-report` becomes `report=False`; what stands
    between backticks is a command line, and stays. A package that is not installed is an
    ImportError with a note on what to install.
    """
    try:
        yield
    except SnapensembleError as error:
        error.args = tuple(
            _without_flags(each) if isinstance(each, str) else each for each in error.args
        )
        if hasattr(error, "__notes__"):
            error.__notes__ = list(map(_without_flags, error.__notes__))
        raise
    except ModuleNotFoundError as error:
        error.add_note(EXTRAS)
        raise


def _without_flags(text: str) -> str:
    def name(found: re.Match[str]) -> str:
        word = found[2].replace("-", "_")
        return f"{word}=False" if found[1] else word

    parts = text.split("`")
    parts[::2] = [_FLAG.sub(name, part) for part in parts[::2]]
    return "`".join(parts)


def read_options(
    model: type[BaseModel], content: Mapping[str, Any], source: object
) -> dict[str, Any]:
    """Check the options of a file one by one; here a number in quotes is no number.

    Args:
        model: the model whose fields are the known options.
        content: the file's values by name.
        source: the file's name, for messages.

    Raises:
        InvalidConfig: no option has such a name, or a value is out of bounds.
    """
    values = {}
    for name, value in content.items():
        field = model.model_fields.get(name)
        if field is None:
            known = ", ".join(model.model_fields)
            raise InvalidConfig(f"{source}: unknown setting {name!r}; known: {known}")
        try:
            # Read as JSON, where a path is a text and a tuple a list, and which knows no dates.
            values[name] = TypeAdapter[Any](
                Annotated[field.annotation, field],  # type: ignore[arg-type]
                config=ConfigDict(allow_inf_nan=False),
            ).validate_json(json.dumps(value, default=lambda _: {}), strict=True)
        except ValidationError as error:
            problem = _problem(model, name, error.errors()[0]["type"], f"{name} in {source}")
            raise InvalidConfig(f"{problem}, got {value!r}") from error
    return values


def _explained(details: ErrorDetails, model: type[BaseModel], word: Callable[[str], str]) -> str:
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, Misfit):
        return cause.said(word)
    name = str(details["loc"][0])
    if details["type"] == "extra_forbidden":
        return f"there is no {word(name)}"
    if details["type"] == "missing":
        return f"{word(name)} is required: {model.model_fields[name].description}"
    problem = _problem(model, name, details["type"], word(name), cause)
    is_secret = _takes(SecretStr, model.model_fields[name])
    return problem if is_secret else f"{problem}, got {details['input']!r}"


def _problem(
    model: type[BaseModel], name: str, kind: str, called: str, cause: Exception | None = None
) -> str:
    text = f"{called}: {cause or f'expected {expected(model, name)}'}"
    return text.replace("a number", "a finite number") if kind == "finite_number" else text


def expected(model: type[BaseModel], name: str) -> str:
    """What may be given for an option, in words."""
    return ", or ".join(map(_kind, _kinds(model, name)))


def _kind(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "items" in schema:
        return f"a list, each {_kind(schema['items'])}"
    bounds = [f"{text} {schema[key]}" for key, text in BOUNDS.items() if key in schema]
    if "minimum" in schema and "maximum" in schema:
        bounds = [f"from {schema['minimum']} to {schema['maximum']}"]
    kind = "a path" if schema.get("format") == "path" else KINDS[schema["type"]]
    return f"{kind}, {' and '.join(bounds)}" if bounds else kind


def _metavar(model: type[BaseModel], name: str) -> str:
    choices = _kinds(model, name)[0].get("enum")
    return f"{{{','.join(choices)}}}" if choices else name.rpartition("_")[2].upper()


def _kinds(model: type[BaseModel], name: str) -> list[dict[str, Any]]:
    """The JSON schemas of what an option may be, but for null, which means that it is left out."""
    schema = _properties(model)[name]
    return [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties


def _takes(kind: type, field: FieldInfo) -> bool:
    """Whether an option may be of this type, perhaps beside others."""
    kinds = (field.annotation, *get_args(field.annotation))
    return kind in kinds or kind in [get_origin(each) for each in kinds]

"""Pages from templates: each is one HTML file that needs nothing else; what it shows is escaped."""

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from snapensemble.contracts.errors import InvalidConfig, WriteFailed
from snapensemble.contracts.files import explaining_failures, refuse_unwritable
from snapensemble.contracts.manifest import ValFigures

PAGE_FILE = "index.html"
GENERATOR = '<meta name="generator" content="snapensemble report">'  # marks a page as a report


def render(template: str, **values: object) -> str:
    r"""The page that a template gives with these values; a name that it misses is an error.

    What UTF-8 cannot hold, such as a byte in a file's name that is none, shows as `\udcff`.
    """
    page = _environment().get_template(template).render(values)
    return page.encode(errors="backslashreplace").decode()


def percents(fraction: float) -> str:
    """A fraction as people read it."""
    return f"{fraction:.2%}"


def accuracies(figures: ValFigures) -> str:
    """Accuracy and, where it is said, macro accuracy, as a phrase."""
    macro = figures.macro_accuracy
    text = f"accuracy {percents(figures.accuracy)}"
    return text if macro is None else f"{text}, macro accuracy {percents(macro)}"


def number(value: float, spec: str = ",") -> str:
    """A number as people read it, its thousands apart where no other format is asked for."""
    return format(value, spec)


def claim_directory(directory: Path, page: str = PAGE_FILE) -> None:
    """Make a directory for a report, unless it holds another page under this name.

    Raises:
        InvalidConfig: the directory holds such a page.
        WriteFailed: the directory cannot be made, read or written to.
    """
    refuse_directory(directory, page)
    with explaining_failures(directory):
        directory.mkdir(parents=True, exist_ok=True)


def refuse_directory(directory: Path, page: str = PAGE_FILE) -> None:
    """Raise what `claim_directory` would, and make nothing: for what takes long before it."""
    refuse_unwritable(directory)
    path = directory / page
    try:
        with path.open("rb") as file:
            ours = GENERATOR.encode() in file.read(500)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteFailed(f"{path}: {error.strerror}; choose another --out") from error
    if not ours:
        raise InvalidConfig(f"{path} is not a report; it is not replaced, choose another --out")


@cache
def _environment() -> Environment:
    """The templates beside this module, and the filters that they use."""
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["generator"] = GENERATOR
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode(),
        "number": number,
        "percents": percents,
    }
    return environment

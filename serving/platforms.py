"""What platforms say by variables and places: where the bundle lies, the port, and the routes.

A platform starts one image for everybody, so it tells nothing by flags. What it sets counts where
nothing of this server's own does. See docs/clients.md.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.errors import InvalidConfig

# Where a bundle may lie if none is named: what variables of Azure ML, Hugging Face and Vertex AI
# say, and the places of this image, SageMaker, KServe and Hugging Face.
PLACE_VARIABLES = ("AZUREML_MODEL_DIR", "HF_MODEL_DIR", "AIP_STORAGE_URI")
PLACES = ("/bundle", "/opt/ml/model", "/mnt/models", "/repository")
# Of SageMaker, of Vertex AI, and of Cloud Run, Knative and Heroku; the first that is set counts.
PORT_VARIABLES = ("SAGEMAKER_BIND_TO_PORT", "AIP_HTTP_PORT", "PORT")
PORT_RANGE = "SAGEMAKER_SAFE_PORT_RANGE"
SAGEMAKER_WORD = "serve"  # SageMaker starts `docker run IMAGE serve`, and asks at port 8080
SAGEMAKER_PORT = "8080"
HEALTH_ROUTE, PREDICT_ROUTE = "AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE"
NAME_ONE = "name one: snapensemble serve BUNDLE_DIR"
_ROUTE = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]*)+")
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


def is_word_of_sagemaker(argument: Path | None) -> bool:
    """Whether what was given for a bundle is the word with which SageMaker starts an image."""
    return argument == Path(SAGEMAKER_WORD) and not argument.exists()


def port_variable(environment: Mapping[str, str]) -> str | None:
    """The variable in which a platform says the port; None if there is none."""
    return next((name for name in PORT_VARIABLES if environment.get(name)), None)


def check_ports(environment: Mapping[str, str], others: Mapping[str, int | None]) -> None:
    """Refuse ports beside the main one that SageMaker has not set free for this container.

    Args:
        environment: that of the process.
        others: by flag, the ports that are to be opened beside that for predictions; None: none.

    Raises:
        InvalidConfig: a port is outside of the range, or the range is none.
    """
    text = environment.get(PORT_RANGE)
    opened = {flag: port for flag, port in others.items() if port is not None}
    if not text or not opened:
        return
    found = _RANGE.fullmatch(text)
    low, high = map(int, found.groups()) if found else (1, 0)
    if low > high:
        raise InvalidConfig(
            f"{PORT_RANGE}: found {text!r}, expected LOWEST-HIGHEST, as 20000-29999"
        )
    for flag, port in opened.items():
        if not low <= port <= high:
            raise InvalidConfig(
                f"{flag} {port}: {PORT_RANGE} leaves {low} to {high} to this container; take one "
                "of those"
            )


def vertex_route(environment: Mapping[str, str], name: str) -> str | None:
    """The path that a variable of Vertex AI names; None if it is not set.

    Raises:
        InvalidConfig: the value is no path.
    """
    text = environment.get(name)
    if not text:
        return None
    if not _ROUTE.fullmatch(text):
        raise InvalidConfig(
            f"{name}: found {text[:80]!r}, expected a path such as /predict, without a query"
        )
    return text


def bundle_place(environment: Mapping[str, str], places: Sequence[str] = PLACES) -> Path:
    """The one place that holds a bundle, where no argument names one.

    A place that has no manifest itself, but one folder with one somewhere below it, stands for
    that folder: Azure ML and Hugging Face keep the folder that was uploaded. A place with several
    stands for itself.

    Args:
        environment: has the variables of platforms.
        places: directories to look at beside those that the variables name.

    Raises:
        InvalidConfig: no place has a bundle, or several have; the message names them.
    """
    named = {name: environment[name] for name in PLACE_VARIABLES if environment.get(name)}
    remote = {name: text for name, text in named.items() if "://" in text}
    looked_at = dict.fromkeys([*(t for n, t in named.items() if n not in remote), *places])
    found = [place for each in looked_at if (place := _bundle_in(Path(each))) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidConfig(
            f"no bundle is named, and there are several: {', '.join(map(str, found))}; {NAME_ONE}"
        )
    notes = [
        f"{name} is {text}, which this server cannot fetch: copy the bundle into the image "
        "(docker/baked.Dockerfile), or mount it"
        for name, text in remote.items()
    ]
    missing = ", ".join(f"{each}/{BUNDLE_FILE}" for each in looked_at)
    raise InvalidConfig(
        "; ".join([f"no bundle is named, and none of these exists: {missing}", *notes, NAME_ONE])
    )


def _bundle_in(place: Path) -> Path | None:
    """The directory with a manifest that a place stands for; None if it has none."""
    try:
        if (place / BUNDLE_FILE).is_file():
            return place
        # As deep as NAME/VERSION, and a folder that an upload has put around it.
        below = [
            file.parent
            for depth in ("*", "*/*", "*/*/*")
            for file in sorted(place.glob(f"{depth}/{BUNDLE_FILE}"))
        ]
    except PermissionError as error:
        raise InvalidConfig(
            f"{place}: {error.strerror}; let the user of this process read it, or start the "
            "container as another one: docker run --user 0"
        ) from None
    if not below:
        return None
    return below[0] if len(below) == 1 else place

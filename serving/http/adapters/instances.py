"""Bodies as platforms send them: a picture as it is, or JSON with pictures in base64 and options.

Vertex AI, KServe, TensorFlow Serving, MLflow and Hugging Face put the same into JSON under other
names. What they have in common is read here, and each contract has a `Grammar` with its names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from snapensemble.serving.errors import MalformedBody, TooManyImages
from snapensemble.serving.http.adapters.adapter import JSON, Head, InferenceResponse, Reply
from snapensemble.serving.http.body import Body
from snapensemble.serving.http.media.json_guard import WIDE_GROWTH, is_narrow, parsed_json
from snapensemble.serving.http.media.json_images import GROWTH, too_many
from snapensemble.serving.http.media.texts import OCTETS, picture_of
from snapensemble.serving.http.schemas import PredictOptions, invalid_parameters

Json = dict[str, Any]
# Names under which an instance has its picture, if it has others beside it.
PICTURES = ("b64", "image_bytes", "content", "image", "bytes", "data")
# Media types that say nothing: curl sends the first with every --data, boto3 the second, and the
# third is what image classifiers of SageMaker's own are sent.
VAGUE = ("application/x-www-form-urlencoded", OCTETS, "application/x-image", "")
Unfold = Callable[[Any, str], Sequence[Any]]  # what is under a name, and the name -> instances


def rows(value: Any, where: str) -> Sequence[Any]:
    """A list with one instance for each image.

    Raises:
        MalformedBody: it is none.
    """
    if not isinstance(value, list):
        raise MalformedBody(f"{where}: expected a list, found {kind_of(value)}")
    return value


def one_or_rows(value: Any, _: str) -> Sequence[Any]:
    """One instance, or a list of them."""
    return value if isinstance(value, list) else [value]


def column(value: Any, where: str) -> Sequence[Any]:
    """The column of a table that has one, such as `{"image": [...]}`; or as `one_or_rows`.

    Raises:
        MalformedBody: there are several columns.
    """
    if isinstance(value, dict) and "b64" not in value:
        if len(value) != 1:
            raise MalformedBody(f"{where}: expected one input, found {shown(value)}")
        ((name, value),) = value.items()
        where = f"{where}.{name}"
    return one_or_rows(value, where)


def table(value: Any, where: str) -> Sequence[Any]:
    """The rows of `{"columns": [...], "data": [...]}`.

    Raises:
        MalformedBody: it is no such table.
    """
    names, data = (value.get("columns"), value.get("data")) if isinstance(value, dict) else 2 * [0]
    if (
        not isinstance(names, list)
        or not isinstance(data, list)
        or not all(isinstance(row, list) and len(row) == len(names) for row in data)
        or not all(isinstance(name, str) for name in names)
    ):
        raise MalformedBody(
            f'{where}: expected {{"columns": [name, …], "data": [[value, …], …]}}, with as many '
            "values in each row as there are columns"
        )
    return [dict(zip(names, row, strict=True)) for row in data]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks."""

    pictures: list[bytes]
    options: PredictOptions
    place: str | None = None  # the name under which the pictures were; None if it was no JSON
    is_list: bool = True  # whether they were several, or one in a list
    others: Json = field(default_factory=dict)  # what else the contract knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The names of one contract.

    Args:
        places: where the pictures may be, and how they are put there.
        parameters: where the options are, if there are any.
        others: what may be there besides.
        meant: the options of this server that the contract's own parameters mean; raises
            InvalidParameter.
    """

    places: Mapping[str, Unfold]
    parameters: str | None = "parameters"
    others: tuple[str, ...] = ()
    meant: Callable[[Json], Json] = lambda parameters: parameters

    async def read(self, body: Body, head: Head, deadline: float) -> Asked:
        """Read a body: JSON of these names, or pictures as `POST /predict` takes them.

        Where the media type says nothing, a body that begins with a brace is JSON: no picture
        does.

        Raises:
            ServingError, ClientDisconnect: as `Body.pictures`.
            InvalidParameter: an option is unknown or out of bounds.
        """
        media_type = head.media_type
        is_json = media_type == JSON or media_type.endswith("+json")
        if not is_json and media_type not in VAGUE:
            return Asked(await body.pictures(deadline), head.options)
        content = await body.content(deadline)
        if not is_json and content.lstrip()[:1] != b"{":
            return Asked([content], head.options)
        growth = GROWTH if is_narrow(content) else WIDE_GROWTH
        return await body.parsed(content, lambda text: self.asked(text, head), growth)

    def asked(self, text: bytes, head: Head) -> Asked:
        """What a JSON document asks.

        Raises:
            MalformedBody: the document is another one, or an instance has no picture.
            TooManyImages: it has more instances than one request may have.
            InvalidParameter: an option is unknown or out of bounds.
        """
        document = document_of(text)
        known = (*self.places, *filter(None, [self.parameters]), *self.others)
        if unknown := [name for name in document if name not in known]:
            raise MalformedBody(f"found {shown(unknown)}, expected some of {', '.join(known)}")
        found = [name for name in self.places if name in document]
        if len(found) != 1:
            raise MalformedBody(
                f"expected one of {', '.join(self.places)}, found {shown(found) or 'none'}"
            )
        (place,) = found
        instances = self.places[place](document[place], place)
        if not instances:
            raise MalformedBody(f"{place}: expected at least one image, found none")
        if len(instances) > (limit := head.settings.max_images_per_request):
            raise TooManyImages(too_many(f"{len(instances):,}", limit))
        options = head.options
        if self.parameters is not None:
            options = self.with_parameters(options, document.get(self.parameters))
        return Asked(
            [picture_of(*text_in(each, f"{place}.{i}")) for i, each in enumerate(instances)],
            options,
            place,
            isinstance(document[place], list),
            {name: document[name] for name in self.others if name in document},
        )

    def with_parameters(self, options: PredictOptions, parameters: Any) -> PredictOptions:
        """The options of a query, and those of a document, which win.

        Raises:
            MalformedBody: they are no object.
            InvalidParameter: one is unknown or out of bounds.
        """
        if parameters is None or parameters == {}:
            return options
        if not isinstance(parameters, dict):
            raise MalformedBody(
                f"{self.parameters}: expected an object, found {kind_of(parameters)}"
            )
        given = self.meant(parameters)
        if isinstance(explain := given.get("explain"), bool | str):  # as a query has it
            word = str(explain).lower() if isinstance(explain, bool) else explain
            given = {**given, "explain": [word]}
        try:
            return PredictOptions.model_validate(
                {**options.model_dump(exclude_unset=True), **given}
            )
        except ValidationError as error:
            raise invalid_parameters(error) from error


def row_reply(answered: InferenceResponse) -> Reply:
    """One prediction for each instance, in their order, and nothing else."""
    return json_reply({"predictions": answered.predictions()})


def json_reply(content: Any) -> Reply:
    """An answer in JSON; numbers that are none become null."""
    return Reply(to_json(content, inf_nan_mode="null"))


def document_of(text: bytes) -> Json:
    """The object that a body is.

    Raises:
        MalformedBody: it is another kind of JSON or none, or has too many values.
    """
    document = parsed_json(text, expected="send encoded pictures in base64, and not their pixels")
    if not isinstance(document, dict):
        raise MalformedBody(f"the body: expected an object, found {kind_of(document)}")
    return document


def text_in(instance: Any, where: str) -> tuple[str, str]:
    """The text that an instance has for its picture, and its place in the document.

    Raises:
        MalformedBody: it has none, or more than one could be meant.
    """
    while not isinstance(instance, str):
        if isinstance(instance, list) and len(instance) == 1:
            name: str | int = 0
        elif isinstance(instance, dict):
            name = _name_of_picture(instance, where)
        else:
            raise MalformedBody(
                f'{where}: expected a picture in base64, as a text or as {{"b64": text}}, found '
                f"{kind_of(instance)}"
            )
        instance, where = instance[name], f"{where}.{name}"
    return instance, where


def _name_of_picture(instance: Json, where: str) -> str:
    """The name under which an object has its picture."""
    names = [name for name in PICTURES if name in instance]
    names = names or [k for k, v in instance.items() if isinstance(v, dict) and "b64" in v]
    if not names and len(instance) == 1:
        names = list(instance)
    if len(names) != 1:
        raise MalformedBody(
            f'{where}: expected one picture, as {{"b64": text}} or under one of '
            f"{', '.join(PICTURES)}; found {shown(names or instance) or 'nothing'}"
        )
    return names[0]


def kind_of(value: Any) -> str:
    """What a value of JSON is called."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def shown(names: Any) -> str:
    """Some names, as far as a message has room for them."""
    return ", ".join(f"{name:.40}" for name in list(names)[:5])

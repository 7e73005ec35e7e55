"""The query of POST /predict -> its options."""

from functools import lru_cache

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from serving.errors import InvalidParameter
from serving.schemas import PredictOptions


@lru_cache(maxsize=256)
def options_of(query: bytes) -> PredictOptions:
    """The parameters of a query; of one that is repeated the last counts.

    Raises:
        InvalidParameter: one is unknown or out of bounds; names it.
    """
    try:
        return PredictOptions.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidParameter("; ".join(problems)) from error

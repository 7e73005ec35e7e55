"""The query of POST /predict -> its options."""

from functools import lru_cache

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.http.schemas import PredictOptions

MAX_QUERY_BYTES = 1024
MAX_PROBLEMS = 3  # of which a message tells; each costs more to word than to find


def options_of(query: bytes) -> PredictOptions:
    """The parameters of a query; of one that is repeated the last counts.

    Raises:
        InvalidParameter: one is unknown or out of bounds; names it. Or they are longer than all
            parameters that there are could be.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise InvalidParameter(
            f"the query has {len(query):,} bytes, at most {MAX_QUERY_BYTES:,} are accepted"
        )
    return _options_of(query)


@lru_cache(maxsize=256)
def _options_of(query: bytes) -> PredictOptions:
    try:
        return PredictOptions.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        more = len(problems) - MAX_PROBLEMS
        told = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise InvalidParameter("; ".join(told)) from error

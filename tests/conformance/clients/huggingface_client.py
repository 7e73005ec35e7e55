"""What huggingface_hub's clients find out about pictures: URL PICTURE..."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError


def scores(elements: list[Any]) -> list[list[Any]]:
    """Labels and scores in the order they came."""
    return [[each.label, each.score] for each in elements]


def main() -> None:
    """Ask in all ways, and print the answers as JSON."""
    url, *pictures = sys.argv[1:]
    client = InferenceClient(model=url)
    found: dict[str, Any] = {
        "path": [scores(client.image_classification(picture)) for picture in pictures],
        "bytes": [
            scores(client.image_classification(Path(picture).read_bytes())) for picture in pictures
        ],
        "top": scores(
            client.image_classification(pictures[0], top_k=2, function_to_apply="softmax")
        ),
    }
    try:
        client.image_classification(pictures[0], function_to_apply="sigmoid")
    except HfHubHTTPError as error:
        found["refusal"] = [error.response.status_code, str(error)]

    async def ask() -> list[list[list[Any]]]:
        async with AsyncInferenceClient(model=url) as other:
            return [scores(await other.image_classification(picture)) for picture in pictures]

    found["aio"] = asyncio.run(ask())
    print(json.dumps(found))


main()

"""What MLflow's client of a scoring server finds out about pictures: URL PICTURE..."""

import base64
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient


def main() -> None:
    """Ask in all ways, and print the answers as JSON."""
    url, *pictures = sys.argv[1:]
    parts = urlsplit(url)
    client: Any = ScoringServerClient(parts.hostname, parts.port)  # type: ignore[no-untyped-call]
    client.wait_server_ready(timeout=30)
    texts = [base64.b64encode(Path(picture).read_bytes()).decode() for picture in pictures]
    table = pd.DataFrame({"image": texts})
    found = {
        "version": client.get_version(),
        "table": client.invoke(table).get_predictions().to_dict("records"),
        "top": client.invoke(table, params={"top": 1}).get_predictions().to_dict("records"),
    }
    try:
        client.invoke(pd.DataFrame({"image": ["?"]}))
    except Exception as error:
        found["refusal"] = str(error)
    print(json.dumps(found, default=dict))


main()

"""For scale: a FastAPI endpoint that reads the body and returns the same JSON each time.

    python -m benchmarks.serving.minimal_fastapi ANSWER.json

It has no decoding, no members, no limits and no metrics, so it shows what the framework alone
costs. It prints its URL once the port is open.
"""

import argparse
import json
import socket
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request


def main() -> None:
    """Serve on a free port until the end of the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("answer", type=Path, help="a file with the JSON to answer")
    answer: dict[str, Any] = json.loads(parser.parse_args().answer.read_text())
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        await request.body()
        return answer

    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, access_log=False, log_level="error")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

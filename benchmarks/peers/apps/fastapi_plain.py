"""FastAPI as written by hand: the endpoint awaits a thread that decodes and asks the members.

No batching. A process per core, as the page "Server Workers" of FastAPI's documents advises, each
with one working thread, so that the cores are busy with as many pictures and none waits half done.
The thread is our own, not one of the forty that Starlette shares out; the answer is a Response
with finished JSON, which spares FastAPI's encoder.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from benchmarks.peers.apps.members import CORES, HOST, PORT, Members


def create_app() -> FastAPI:
    """A worker's application."""
    app, members, worker = FastAPI(), Members(), ThreadPoolExecutor(1)

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        picture, loop = await request.body(), asyncio.get_running_loop()
        return JSONResponse(await loop.run_in_executor(worker, members.classify, picture))

    return app


if __name__ == "__main__":
    uvicorn.run(
        f"{__spec__.name}:create_app",
        factory=True,
        host=HOST,
        port=PORT,
        workers=CORES,
        access_log=False,
        log_level="warning",
    )

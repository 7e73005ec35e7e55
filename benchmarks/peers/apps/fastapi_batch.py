"""FastAPI with batching of its own: what a careful engineer may write in an afternoon.

One process. A task takes whatever waits, up to the largest batch, as soon as the last batch is
done; its members are spread over a thread per core, so a lone picture has the whole machine.
Pictures are decoded on the same threads before they wait. No limits, no deadlines, no health, no
metrics: this shows what such things cost ours, and what batching and spreading alone bring.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from benchmarks.peers.apps.members import CORES, HOST, MAX_BATCH_SIZE, PORT, Image, Members
from snapensemble.contracts.metrics import Floats

PendingImage = tuple[Image, "asyncio.Future[Floats]"]


def create_app() -> FastAPI:
    """The application."""
    members, threads = Members(), ThreadPoolExecutor(CORES)
    batches = ThreadPoolExecutor(1)  # holds a batch together while the threads ask its members
    queue: asyncio.Queue[PendingImage] = asyncio.Queue()

    async def run_batches() -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await queue.get()]
            while len(batch) < MAX_BATCH_SIZE and not queue.empty():
                batch.append(queue.get_nowait())
            images = [image for image, _ in batch]
            probs = await loop.run_in_executor(batches, members.ask_all, images, threads)
            for (_, answer), probs_K in zip(batch, probs, strict=True):
                if not answer.done():
                    answer.set_result(probs_K)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(run_batches())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        picture, loop = await request.body(), asyncio.get_running_loop()
        image_CHW = await loop.run_in_executor(threads, members.decode, picture)
        answer: asyncio.Future[Floats] = loop.create_future()
        queue.put_nowait((image_CHW, answer))
        return JSONResponse(members.answer(await answer))

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), host=HOST, port=PORT, access_log=False, log_level="warning")

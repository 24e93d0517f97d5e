"""A web service whose work is done by workers: a request becomes a task, and its result is the answer.
Run `web.py serve` (needs fastapi and uvicorn), `web.py work` as often as it takes, and `curl --data hello localhost:8000/upper`.
`curl` prints HELLO. What takes longer than ten seconds is answered with 202, and the path at which the answer will be.
"""

import asyncio
import os
import sys

import uvicorn
from contact_worker import ContactError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from contact_worker.aio import Client, Worker
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

GROUP = "web"
STATUS = {InvalidArgument: 400, NotFound: 404, Unavailable: 503}
client = Client()
worker = Worker(group=GROUP)


@worker.task
async def upper(task):
    return task.text.upper()


app = FastAPI()


@app.exception_handler(ContactError)
async def refused(request, error):
    return PlainTextResponse(str(error), STATUS.get(type(error), 500))


@app.post("/upper")
async def submit(request: Request, wait: float = 10):
    text = (await request.body()).decode(errors="replace")
    return await answer((await client.submit(text, to=GROUP, ttl=3600)).id, wait)


@app.get("/tasks/{id}")
async def answer(id: int, wait: float = 10):
    try:
        result = (await client.wait(id, timeout=wait)).result
    except (DeadlineExceeded, Unavailable):  # Whatever the server does meanwhile: the task is on its disk.
        return Response(status_code=202, headers={"location": f"/tasks/{id}"})
    return PlainTextResponse(result.text, 200 if result.outcome == "DONE" else 502)


if sys.argv[1:] == ["work"]:
    asyncio.run(worker.run())
elif sys.argv[1:] == ["serve"]:
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
else:
    sys.exit(__doc__)

"""What users write, for mypy: it finds nothing here but the mistakes that are marked, and these it finds. Not run."""

from contact_worker import Client, Reply, Retry, Task, Worker
from contact_worker.aio import Client as AsyncClient
from contact_worker.aio import Worker as AsyncWorker

worker = Worker("127.0.0.1:50051", group="g", labels={"os": "linux"})
async_worker = AsyncWorker(group="g")


@worker.task
def handle(task: Task) -> str:
    if task.revoked.wait(0.1):
        raise Retry("later", delay=3)
    task.progress(0.5, "half")
    return task.text


@async_worker.task
async def page(task: Task) -> Reply:
    return Reply("ok", data=task.data, headers={"content-type": "image/png"})


# The decorated function stays what it is.
TEXT: str = handle(Task("a text"))


@worker.task  # type: ignore[type-var]
def number(task: Task) -> int:
    return 1


def operate(client: Client) -> None:
    accepted = client.submit("x", to=["a", "b"], delay=1.5)
    text: str = client.wait(accepted.id).result.text
    client.submit(text, dellay=3)  # type: ignore[call-arg]
    for result in client.run("uptime", select="os=linux", canary="10%"):
        print(result.group)


async def operate_async(client: AsyncClient) -> None:
    async for found in client.tasks(state="DEAD"):
        print(found.task.text)
    submitted = await client.submit_many(text for text in ("a", "b"))
    print(submitted.accepted)

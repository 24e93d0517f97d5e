"""Webhooks that are sent again, later each time, until they arrive. Those that do not are dead letters, to be given again.
Run `webhooks.py work`, and `webhooks.py send URL JSON`; later `webhooks.py dead`, and `webhooks.py again` when the receiver is mended.
`send` prints the number of the task, `dead` for each dead letter its number, the URL and the last error, `again` the numbers.
"""

import sys
import urllib.error
import urllib.request

from contact_worker import Client, Fail, Retry, Worker

GROUP = "webhooks"
RETRY = "max=4,first=500ms,factor=2"  # Half a second, one, two. For the world outside rather "max=12,first=10s,factor=3,cap=6h".
worker = Worker(group=GROUP, concurrency=16)


@worker.task
def send(task):
    # Delivery is at least once: by its id the receiver can tell what it has already.
    headers = {"content-type": task.headers["content-type"], "idempotency-key": str(task.id)}
    try:
        with urllib.request.urlopen(urllib.request.Request(task.text, task.data, headers), timeout=10) as answer:
            return f"{answer.status} {answer.reason}"
    except urllib.error.HTTPError as error:
        after = error.headers.get("retry-after", "")
        if after.isdigit():
            raise Retry(str(error), delay=int(after)) from None
        if 400 <= error.code < 500 and error.code not in (408, 429):
            raise Fail(str(error)) from None
        raise Retry(str(error)) from None
    except OSError as error:
        raise Retry(str(error)) from None


def main(client, command="", url="", body=""):
    if command == "send" and body:
        print(client.submit(url, to=GROUP, data=body.encode(), headers={"content-type": "application/json"}, retry=RETRY).id)
    elif command in ("dead", "again"):
        for letter in list(client.dead(GROUP)):
            if command == "dead":
                print(letter.task_id, client.task(letter.task_id).task.text, letter.text)
            else:
                client.retry(letter.task_id, GROUP)
                print(letter.task_id)
    else:
        sys.exit(__doc__)


if sys.argv[1:] == ["work"]:
    worker.run()
else:
    with Client() as operator:
        main(operator, *sys.argv[1:4])

"""A work queue: paths of pictures are submitted, and any number of workers make their thumbnails.
Run `thumbnails.py work`, several times if you like, and `thumbnails.py make *.jpg` (needs Pillow).
`make` prints the path of each thumbnail, or why there is none.
"""

import os
import pathlib
import sys

from contact_worker import Client, Fail, Worker
from PIL import Image, UnidentifiedImageError

GROUP = "thumbnails"
worker = Worker(group=GROUP, concurrency=os.cpu_count())


@worker.task
def thumbnail(task):
    path = pathlib.Path(task.text)
    made = path.with_name(f"{path.stem}.thumb.png")
    try:
        with Image.open(path) as picture:
            picture.thumbnail((128, 128))
            picture.save(made)
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise Fail(str(error)) from None  # Trying again would not help. What else may go wrong is tried again.
    return str(made)


def make(paths):
    failed = 0
    with Client() as client:
        tasks = [client.submit(str(path.resolve()), to=GROUP) for path in map(pathlib.Path, paths)]
        for task in tasks:
            result = client.wait(task.id).result
            failed += result.outcome != "DONE"
            print(result.text, flush=True)
    return failed


if sys.argv[1:] == ["work"]:
    worker.run()
elif sys.argv[1:2] == ["make"]:
    sys.exit(1 if make(sys.argv[2:]) else 0)
else:
    sys.exit(__doc__)

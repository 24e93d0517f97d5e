"""A server of the article's shape, to measure beside Contact: a thread for each stream, tasks in memory, one in a message.

    article_server.py [BYTES]

It is kinder to itself than the article's: tasks are always there, so it never sleeps; it prints nothing for a task; and it
has threads for more than ten streams. Each task has BYTES bytes (100). Prints `port N`.
"""

import sys
from concurrent import futures

import grpc

from contact import contact_pb2
from contact import contact_pb2_grpc

SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 100
THREADS = 64


class Contact(contact_pb2_grpc.ContactServicer):
    def __init__(self):
        self.tasks = [contact_pb2.ServerMsg(task=f"任务:{n}".ljust(SIZE - len("任务".encode()) + 2, ".")) for n in range(1000)]

    def sendStatus(self, request_iterator, context):
        for note in request_iterator:
            yield contact_pb2.Result(ret=f"服务端接收到消息:{note.msg}")

    def getTask(self, request, context):
        while True:
            for n in self.tasks:
                yield n

    def tellResult(self, request_iterator, context):
        for response in request_iterator:
            pass
        return contact_pb2.Empty()


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=THREADS))
    contact_pb2_grpc.add_ContactServicer_to_server(Contact(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve()

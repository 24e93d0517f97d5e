"""beanstalkd: a tube. Its protocol is lines, and it knows no batches; many commands are sent before their answers are read."""

import greenstalk

from harness import SIZE, TEXT, UNDER_WAY, Failed, Peer, connect, free_port, output, program

# Commands that are sent at once.
PIPELINE = 100
FIRST, OTHER = b"reserve-with-timeout 1\r\n", b"reserve-with-timeout 0\r\n"


class Beanstalkd(Peer):
    name = "beanstalkd"
    settings = ("default: in memory", "-b, -f 0: fsync each write")
    how = "`put`, `reserve`, `delete`, 100 in a pipeline"

    def version(self):
        return output(program("beanstalkd", "apt install beanstalkd"), "-v").split()[-1]

    def start(self, folder, setting):
        self.port = free_port()
        options = ["-b", folder, "-f", "0"] if setting == self.settings[1] else []
        self.spawn(program("beanstalkd", ""), "-l", "127.0.0.1", "-p", str(self.port), *options)

    def ready(self):
        connect(self.port).close()

    def submit(self, more):
        connection = connect(self.port)
        answers = connection.makefile("rb", 1 << 18)
        batch = (b"put 1024 0 600 %d\r\n%s\r\n" % (SIZE, TEXT)) * PIPELINE
        under_way = 0
        while True:
            while under_way < UNDER_WAY and more():
                connection.sendall(batch)
                under_way += 1
            if not under_way:
                return
            for _ in range(PIPELINE):
                if not (answer := answers.readline()).startswith(b"INSERTED"):
                    raise Failed(f"beanstalkd said {answer!r}")
            under_way -= 1
            yield PIPELINE

    def work(self, number):
        connection = connect(self.port)
        answers = connection.makefile("rb", 1 << 18)
        yield 0
        size = 1
        while True:
            connection.sendall(FIRST + OTHER * (size - 1))
            ids = []
            for _ in range(size):
                answer = answers.readline()
                if answer.startswith(b"RESERVED"):
                    ids.append(answer.split()[1])
                    answers.read(SIZE + 2)
                elif not answer.startswith(b"TIMED_OUT"):
                    raise Failed(f"beanstalkd said {answer!r}")
            connection.sendall(b"".join(b"delete %s\r\n" % one for one in ids))
            if any(answers.readline() != b"DELETED\r\n" for _ in ids):
                raise Failed("beanstalkd did not delete a task")
            # Where tasks are few, most of a long pipeline would come back empty.
            size = min(2 * len(ids) + 1, PIPELINE)
            yield len(ids)

    def caller(self):
        client = greenstalk.Client(("127.0.0.1", self.port), encoding=None)
        return lambda: client.put(TEXT)

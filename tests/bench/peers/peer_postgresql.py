"""PostgreSQL: a table, whose rows are locked with SKIP LOCKED and deleted when they are done."""

import glob
import shutil
import subprocess

import psycopg

from harness import BATCH, TEXT, Peer, as_user, free_port, output, program

BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))[-1:]


class PostgreSQL(Peer):
    name = "PostgreSQL"
    settings = ("default: fsync at each commit",)
    how = "`INSERT` of 1,000 rows; `SELECT … FOR UPDATE SKIP LOCKED LIMIT 1000`; `DELETE`, commit"

    def version(self):
        return output(program("postgres", "apt install postgresql", *BIN), "--version").split()[2]

    def start(self, folder, setting):
        self.port = free_port()
        data = folder / "data"
        data.mkdir()
        user = as_user("postgres")
        if user:
            shutil.chown(data, "postgres")
        initdb = [program("initdb", "", *BIN), "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=data, **user)
        command = [program("postgres", "", *BIN), "-D", data, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        # Its own bound is 100, and callers may be more.
        command += ["-c", "unix_socket_directories=", "-c", "max_connections=300"]
        self.spawn(*command, stderr=subprocess.DEVNULL, cwd=data, **user)

    def ready(self):
        try:
            with self.connection() as connection:
                connection.execute("create table tasks (id bigserial primary key, task text not null)")
        except psycopg.OperationalError as why:
            raise OSError(why) from why

    def connection(self):
        where = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"
        return psycopg.connect(where, autocommit=True, prepare_threshold=1)

    def submit(self, more):
        connection = self.connection()
        batch = [[TEXT.decode()] * BATCH]
        while more():
            connection.execute("insert into tasks (task) select unnest(%s::text[])", batch)
            yield BATCH

    def work(self, number):
        connection = self.connection()
        take = "select id, task from tasks order by id limit %s for update skip locked"
        yield 0
        while True:
            with connection.transaction():
                ids = [row[0] for row in connection.execute(take, [BATCH])]
                if ids:
                    connection.execute("delete from tasks where id = any(%s)", [ids])
            if not ids:
                # It has no way to wait for a row. As often as the others look whether they are to stop.
                connection.execute("select pg_sleep(0.01)")
            yield len(ids)

    def caller(self):
        connection = self.connection()
        task = [TEXT.decode()]
        return lambda: connection.execute("insert into tasks (task) values (%s)", task)

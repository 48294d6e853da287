"""Readers behind SQLAlchemy's pool, which pings a connection before it lends it (pool_pre_ping).

    pool.py HOST PORT USER PASSWORD CLIENTS THINK_MS DWELL_MS TLS

Each client borrows a connection, reads twice in one transaction, commits, and gives it back, until standard
input ends. Every transaction and every error is a JSON line; times are seconds of the monotonic clock.
"""

import json
import logging
import sys
import threading
import time

import pymysql
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

host, port, user, password, clients, think_ms, dwell_ms, tls = sys.argv[1:]
over = threading.Event()
output = threading.Lock()


def say(**line):
    with output:
        print(json.dumps(line), flush=True)


def kind(error):
    """The vocabulary of the lab's clients."""
    if isinstance(error, PoolTimeout):
        return "timeout"
    # COMMIT goes by SQLAlchemy, which would wrap the driver's own error.
    error = getattr(error, "orig", error)
    if not isinstance(error, pymysql.err.Error):
        return "other"
    arguments = error.args
    code = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    if code == 2003:
        return "refused" if "refused" in str(error) else "timeout"
    # PyMySQL has no number for a connection that it closed itself after an error.
    if code in (0, 2006, 2013) or isinstance(error, pymysql.err.InterfaceError):
        return "timeout" if "timed out" in str(error) else "lost"
    return {"server": code}


def transaction(engine, number, place):
    place.update(phase="connect", began=None)
    with engine.connect() as connection:
        # Without autocommit the first statement begins the transaction: there is no BEGIN to send.
        place["phase"] = "begin"
        connection.execute(text("SELECT amount FROM app.balance WHERE account = %d" % (number % 16)))
        place.update(phase="inside", began=time.monotonic())
        time.sleep(int(dwell_ms) / 1000)
        connection.execute(text("SELECT COUNT(*) FROM app.balance"))
        place["phase"] = "commit"
        connection.connection.commit()


def work(engine, number):
    place = {}
    while not over.is_set():
        start = time.monotonic()
        try:
            transaction(engine, number, place)
        except Exception as error:  # whatever it is, it is what an application would see
            say(event="error", client=number, t=time.monotonic(), kind=kind(error), text=str(error)[:200], **place)
            time.sleep(0.02)
            continue
        end = time.monotonic()
        say(event="ok", client=number, t=end, took=end - start)
        time.sleep(int(think_ms) / 1000)


def main():
    # It tells of each connection that it could not roll back.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL + 1)
    arguments = {"connect_timeout": 10, "read_timeout": 20, "write_timeout": 20}
    if tls == "tls":
        arguments["ssl"] = {"check_hostname": False, "verify_mode": "none"}
    engine = sqlalchemy.create_engine(
        "mysql+pymysql://%s:%s@%s:%s/app" % (user, password, host, port),
        pool_size=int(clients),
        max_overflow=0,
        pool_pre_ping=True,
        connect_args=arguments,
    )
    say(event="start", t=time.monotonic())
    threads = [threading.Thread(target=work, args=(engine, number)) for number in range(int(clients))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


main()

"""client.py MILLISECONDS URL...: asks each URL anew every so often and writes down how it went.

A program of its own, run in the client's network. Each request is a connection of its own
and has 250 ms; one that hangs delays no other. One line a request, when it is over:

    START END URL-NUMBER ok SERVER
    START END URL-NUMBER failed REASON

with times of CLOCK_MONOTONIC in seconds, which all programs of the lab share.
"""

import collections
import errno
import os
import selectors
import socket
import sys
import time
import urllib.parse

LIMIT = 0.25
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


class Request:
    def __init__(self, number, address):
        self.number, self.answer, self.sent = number, b"", False
        self.start = time.monotonic()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.refused = self.socket.connect_ex(address)

    def go_on(self):
        """Do what can be done now; returns the outcome once there is one."""
        try:
            if not self.sent:
                self.socket.send(REQUEST)
                self.sent = True
                return None
            piece = self.socket.recv(4096)
        except BlockingIOError:
            return None
        except OSError as error:
            return reason(error.errno)
        if piece:
            self.answer += piece
            return None
        head, _, body = self.answer.partition(b"\r\n\r\n")
        good = b" 200 " in head.split(b"\r\n")[0] and body
        return f"ok {body.decode().strip()}" if good else "failed no-answer"

    def report(self, outcome):
        line = f"{self.start:.4f} {time.monotonic():.4f} {self.number} {outcome}\n"
        os.write(1, line.encode())  # at once and whole, for who reads it meanwhile
        self.socket.close()


def reason(number):
    return "failed " + errno.errorcode.get(number, str(number))


def main(interval, urls):
    addresses = [(url.hostname, url.port or 80) for url in map(urllib.parse.urlsplit, urls)]
    waiting = selectors.DefaultSelector()
    running = collections.OrderedDict()  # oldest first, so the first to reach its limit stands first
    due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            due = max(due + interval, now - 1)  # if the machine stood still, don't make up for it all
            for number, address in enumerate(addresses):
                begin(Request(number, address), running, waiting)
        while running and now - next(iter(running)).start > LIMIT:
            end(next(iter(running)), "failed timeout", running, waiting)
        for key, _ in waiting.select(max(0, due - time.monotonic())):
            go_on(key.data, running, waiting)


def begin(request, running, waiting):
    if request.refused not in (0, errno.EINPROGRESS):
        request.report(reason(request.refused))
        return
    running[request] = True
    waiting.register(request.socket, selectors.EVENT_WRITE, request)


def go_on(request, running, waiting):
    first = not request.sent
    outcome = request.go_on()
    if outcome:
        end(request, outcome, running, waiting)
    elif first and request.sent:
        waiting.modify(request.socket, selectors.EVENT_READ, request)


def end(request, outcome, running, waiting):
    del running[request]
    waiting.unregister(request.socket)
    request.report(outcome)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) / 1000, sys.argv[2:])
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)

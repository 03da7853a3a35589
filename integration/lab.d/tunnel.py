"""tunnel.py LISTEN TARGET: hands each connection on, unchanged, until SIGUSR1 resets all of them.

A program of its own, run where LISTEN is. Writes "ready", a line for each connection that it
takes ("open"), and for each SIGUSR1 how many it reset ("cut 2"). SIGSTOP and SIGCONT do the rest:
a peer that is frozen and wakes.
"""

import contextlib
import os
import selectors
import signal
import socket
import struct
import sys

PIECE = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends a reset


class Tunnel:
    def __init__(self, listen, target):
        self.target = target
        self.ends = selectors.DefaultSelector()
        self.other = {}  # each end of a connection: the other one
        self.listener = socket.create_server(listen)
        self.ends.register(self.listener, selectors.EVENT_READ)
        # A signal does no more than wake the loop.
        self.wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        self.waker = waker
        self.ends.register(self.wake, selectors.EVENT_READ)

    def run(self):
        say("ready")
        while True:
            for key, _ in self.ends.select():
                if key.fileobj is self.listener:
                    self.take()
                elif key.fileobj is self.wake:
                    self.cut()
                elif key.fileobj in self.other:  # not if closed a moment ago
                    self.hand_on(key.fileobj)

    def take(self):
        near, _ = self.listener.accept()
        say("open")
        try:
            far = socket.create_connection(self.target)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.close()
            return
        for end, other in ((near, far), (far, near)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.other[end] = other
            self.ends.register(end, selectors.EVENT_READ)

    def hand_on(self, end):
        try:
            piece = end.recv(PIECE)
            # Waits for a slow receiver: the lists are small, and all share one fate here.
            self.other[end].sendall(piece)
        except OSError:
            piece = b""
        if not piece:
            self.close(end)

    def cut(self):
        self.wake.recv(PIECE)
        pairs = len(self.other) // 2
        while self.other:
            self.close(next(iter(self.other)))
        say(f"cut {pairs}")

    def close(self, end):
        for one in (end, self.other[end]):
            del self.other[one]
            self.ends.unregister(one)
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()


def say(text):
    os.write(1, f"{text}\n".encode())


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


if __name__ == "__main__":
    Tunnel(address(sys.argv[1]), address(sys.argv[2])).run()

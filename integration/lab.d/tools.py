"""What all parts of the lab need: run a program, wait for something, read what the tools print."""

import os
import subprocess
import time

RUN = "/run/lab"  # the lab's own tmpfs: configurations, sockets, logs


class Failed(Exception):
    """A step of the lab did not see what it expected."""


class Waited:
    """What a wait ended with: the predicate's value, and how long it took in seconds."""

    def __init__(self, value, seconds):
        self.value, self.seconds = value, seconds

    def __str__(self):
        return duration(self.seconds)


def wait_for(what, predicate, deadline, show=None, pause=0.005):
    """Ask `predicate` until it says yes; after `deadline` seconds fail with what `show` then sees."""
    start = time.monotonic()
    while True:
        value = predicate()
        seconds = time.monotonic() - start
        if value:
            return Waited(value, seconds)
        if seconds > deadline:
            seen = f"; there was:\n{show()}" if show else ""
            raise Failed(f"expected {what} within {duration(deadline)}{seen}")
        time.sleep(pause)


def stays(what, predicate, seconds, show=None, pause=0.005):
    """The other way round: `predicate` must say yes each time for so long. For what must not happen."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if not predicate():
            seen = f"; then there was:\n{show()}" if show else ""
            after = duration(time.monotonic() - start)
            raise Failed(f"expected {what} for {duration(seconds)}, it was so for {after}{seen}")
        time.sleep(pause)


def run(*command, ok=(0,)):
    """Run a program to its end and return what it printed; its errors too if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in ok:
        said = (done.stdout + done.stderr).strip()
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}: {said}")
    return done.stdout


def duration(seconds):
    """1.2 ms, 35 ms, 2.05 s: three digits are more than a lab can promise."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def write(path, text):
    """Replace a file in one go, by rename, as configuration management does."""
    prepare(path, text)()
    return path


def prepare(path, text):
    """The first half of `write`; what is returned is the second, the rename."""
    with open(path + ".new", "w") as file:
        file.write(text)
    return lambda: os.rename(path + ".new", path)

"""The client as the scenario sees it: what became of its requests between two moments."""

import collections
import os
import sys
import time

from network import CLIENT, VIP4, VIP6
from tools import RUN, duration, wait_for

FAMILIES = ["v4", "v6"]
URLS = [f"http://{VIP4}/", f"http://[{VIP6}]/"]
EVERY = 10  # milliseconds, for each family
RECORD = f"{RUN}/client.log"

Answer = collections.namedtuple("Answer", "start end family good what")


class Traffic:
    def __init__(self):
        program = os.path.join(os.path.dirname(__file__), "client.py")
        self.client = CLIENT.start(sys.executable, program, str(EVERY), *URLS, output=RECORD)
        self.record = open(RECORD)
        self.answers = []

    def stop(self):
        self.client.terminate()
        self.client.wait()

    def window(self, start, end=None):
        """What became of the requests that ended between `start` and `end` (now)."""
        end = end or time.monotonic()
        wait_for("the client to go on with its requests", lambda: self.read() and self.answers[-1].end > end, 10)
        return Window([answer for answer in self.answers if start <= answer.end <= end], start, end)

    def read(self):
        for line in self.record:
            start, end, number, result, what = line.split()
            self.answers.append(Answer(float(start), float(end), FAMILIES[int(number)], result == "ok", what))
        return self.answers


class Window:
    def __init__(self, answers, start, end):
        self.answers, self.start, self.end = answers, start, end

    def of(self, family):
        return [answer for answer in self.answers if answer.family == family]

    def spread(self, family):
        """{server: answers}"""
        return collections.Counter(answer.what for answer in self.of(family) if answer.good)

    def failures(self, family):
        return collections.Counter(answer.what for answer in self.of(family) if not answer.good)

    def gap(self, family):
        """The longest time without an answer, in seconds; the window's ends count as answers."""
        ends = [answer.end for answer in self.of(family) if answer.good]
        moments = [self.start, *sorted(ends), self.end]
        return max(later - earlier for earlier, later in zip(moments, moments[1:]))

    def longest_gap(self):
        return max(self.gap(family) for family in FAMILIES)

    def __str__(self):
        return "\n".join(map(self.line, FAMILIES, URLS))

    def line(self, family, url):
        asked = len(self.of(family))
        answered = ", ".join(f"{server} {count}" for server, count in sorted(self.spread(family).items()))
        failed = ", ".join(f"{what} {count}" for what, count in self.failures(family).items())
        return (
            f"{url:27} {asked} requests in {duration(self.end - self.start)}: answered by {answered or 'nobody'}; "
            f"failed: {failed or 'none'}; longest gap {duration(self.gap(family))}"
        )

"""The lab's voice: what is done, what the tools print, and at the end which steps went as they should."""

import sys
import time
import traceback

from tools import Failed


class Report:
    def __init__(self):
        self.steps = []  # (name, notes, failure or None)
        self.notes = []
        self.start = time.monotonic()

    def step(self, name, function):
        """One step; says whether it went well. A failure is written down and ends only the step."""
        print(f"\n=== {name} ===", flush=True)
        self.notes = []
        failure = None
        try:
            function()
        except Failed as error:
            failure = str(error)
        except Exception as error:  # a mistake of the lab's own; the other steps still tell something
            failure = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=sys.stdout)
        if failure:
            print(f"FAILED: {failure}", flush=True)
        self.steps.append((name, self.notes, failure))
        return failure is None

    def note(self, text):
        """A figure that the table of steps shall show."""
        print(f"-> {text}", flush=True)
        self.notes.append(text)

    def show(self, machine, command, output):
        """What a tool printed, as if typed at that machine."""
        print(f"{machine}# {command}\n{output.rstrip()}\n", flush=True)

    def close(self, logs):
        """The table of steps, and the ends of the logs if one failed. Returns the exit code."""
        failed = sum(failure is not None for _, _, failure in self.steps)
        if failed:
            for log in logs:
                print(f"\n--- the end of {log} ---\n{tail(log)}")
        print(f"\n=== summary, after {time.monotonic() - self.start:.0f} s ===")
        width = max(len(name) for name, _, _ in self.steps)
        for name, notes, failure in self.steps:
            lines = notes + (failure.splitlines() if failure else [])
            print(f"{'FAILED' if failure else 'ok':6}  {name:{width}}  {lines[0] if lines else ''}".rstrip())
            for line in lines[1:]:
                print(f"{'':6}  {'':{width}}  {line}")
        print(f"\n{len(self.steps) - failed} of {len(self.steps)} steps ok", flush=True)
        return 1 if failed else 0


def check(what, good, seen):
    if not good:
        raise Failed(f"expected {what}; saw {seen}")


def tail(log, lines=40):
    try:
        with open(log, errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except OSError as error:
        return str(error)

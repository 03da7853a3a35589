#!/usr/bin/python3
"""A host that stands still, and whether its BGP session does: see integration/stall."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from tools import Failed, duration, run, wait_for, write

BALANCER, ROUTER = "plimsoll-stall-lb", "plimsoll-stall-rt"
VIP = "192.0.2.11"
MEMORY = 192 * 1024 * 1024  # for the daemon and who takes its memory away
PACE = 0.25  # between two looks at the router

BIRD = """
log stderr all;
router id 10.9.0.2;
protocol device {{ }}
protocol bgp lb {{
  local 10.9.0.2 as 65001; neighbor 10.9.0.1 as 64600;
  hold time 3; connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export none; }};
}}
"""

PLIMSOLL = """
[daemon]
state-directory = "{disk}/state"
[api]
listen = ["127.0.0.1:9090"]
control = "{folder}/control.sock"
[bgp]
local-as = 64600
router-id = "10.9.0.1"
next-hop-ipv4 = "10.9.0.1"
hold-time = "3s"
[[bgp.peer]]
address = "10.9.0.2"
peer-as = 65001
[service.web]
address = "{vip}"
port = 8080
protocol = "tcp"
scheduler = "wrr"
[[service.web.server]]
host = "127.0.0.1"
[[service.web.monitor]]
type = "idle-connection"
max-delay = "1s"
[service.noise]
address = "{vip}"
port = 8081
protocol = "tcp"
scheduler = "wrr"
servers = "file://{folder}/noise.json"
"""

# Takes what the group may have, but for a little, and then has the kernel look for page after page.
HOG = """
import mmap, sys
limit, junk = int(sys.argv[1]), open(sys.argv[2], "rb")
open("/proc/self/oom_score_adj", "w").write("1000")
hoard = mmap.mmap(-1, limit)
for page in range(0, limit, mmap.PAGESIZE):
    hoard[page] = 1
while True:
    junk.seek(0)
    while junk.read(1 << 20):
        pass
"""


def main(seconds):
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stall-", dir="/var/tmp"))
        network(stack)
        disk = block_device(stack, folder)
        bird = start(stack, "BIRD", ROUTER, bird_command(folder))
        server = start(stack, "the server", BALANCER, [sys.executable, "-c", SERVER])
        log = full_pipe(stack)
        write(f"{folder}/plimsoll.toml", PLIMSOLL.format(disk=disk, folder=folder, vip=VIP))
        noise(folder, 0)
        command = [os.environ["PLIMSOLL"], "run", "--ipvs", "memory", "--config", f"{folder}/plimsoll.toml"]
        group = memory_group(stack)
        daemon = start(stack, "plimsoll", BALANCER, command, stderr=log, group=group)
        ask = lambda *words: run("birdc", "-s", f"{folder}/bird.ctl", *words)
        wait_for("the address at the router", lambda: VIP in ask("show", "route"), 30, lambda: ask("show", "protocols"))
        view = lambda: ask("show", "protocols", "lb").splitlines()[-1]
        before = view()
        said(f"BIRD, before:           {before}")

        run("fsfreeze", "-f", disk)
        stack.callback(run, "fsfreeze", "-u", disk)
        for _ in range(2 * os.cpu_count()):
            start(stack, "a busy loop", BALANCER, [sys.executable, "-c", "while True: pass"])
        hog = start(stack, "a hog", BALANCER, hog_command(folder), group=group)
        said(f"stalled for {seconds} s: {disk} frozen, {2 * os.cpu_count()} busy loops on {os.cpu_count()} cores, "
             f"log not read, {MEMORY >> 20} MiB for the daemon and a hog")
        looks, begun = 0, time.monotonic()
        while time.monotonic() - begun < seconds:
            looks += 1
            noise(folder, looks)
            if not same_session(view(), before):
                raise Failed(f"after {duration(time.monotonic() - begun)} BIRD says: {view()}\n{bird_log(folder)}")
            for who, process in (("plimsoll", daemon), ("BIRD", bird), ("the hog", hog)):
                if process.poll() is not None:
                    raise Failed(f"{who} has ended with {process.returncode}")
            time.sleep(PACE)
        said(f"BIRD, after {looks} looks:  {view()}")

        server.kill()
        demoted = lambda: "BGP.med: 1000" in ask("show", "route", "all", "for", f"{VIP}/32")
        told = wait_for("the failed address demoted at the router", demoted, 10, lambda: ask("show", "route", "all"))
        said(f"the only server killed: the router was told after {told}")
        if not same_session(view(), before):
            raise Failed(f"BIRD says: {view()}")
        said("the session held")


def same_session(now, before):
    """BIRD reckons the time since when from how long ago, anew each time: it may differ by a millisecond."""
    since = lambda line: datetime.datetime.strptime(line.split()[4], "%H:%M:%S.%f")
    if now.split()[3::2] != ["up", "Established"]:
        return False
    return abs(since(now) - since(before)) < datetime.timedelta(milliseconds=100)


# Takes connections and holds them.
SERVER = """
import socket
listener = socket.create_server(("127.0.0.1", 8080))
held = []
while True:
    held.append(listener.accept())
"""


def network(stack):
    for namespace in (BALANCER, ROUTER):
        run("ip", "netns", "add", namespace)
        stack.callback(run, "ip", "netns", "del", namespace)
    run("ip", "-n", BALANCER, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", ROUTER)
    for namespace, address in ((BALANCER, "10.9.0.1/24"), (ROUTER, "10.9.0.2/24")):
        run("ip", "-n", namespace, "address", "add", address, "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", namespace, "link", "set", "lo", "up")


def block_device(stack, folder):
    """A disk of its own, which can be frozen: then whoever writes to it stands still."""
    image, disk = f"{folder}/disk.img", f"{folder}/disk"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", image)
    os.mkdir(disk)
    run("mount", "-o", "loop", image, disk)
    stack.callback(run, "umount", disk)
    return disk


def full_pipe(stack):
    """The end to write to; nobody reads at the other, and it has no room left."""
    read, end = os.pipe()
    os.set_blocking(end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(end, b"\n")
    os.set_blocking(end, True)
    stack.callback(os.close, read)
    stack.callback(os.close, end)
    return end


def memory_group(stack):
    """A control group with little memory, of version 1 or 2: its file of processes."""
    v1 = os.path.isdir("/sys/fs/cgroup/memory")
    group = "/sys/fs/cgroup/memory/plimsoll-stall" if v1 else "/sys/fs/cgroup/plimsoll-stall"
    if not v1:
        write_to("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
    os.mkdir(group)
    stack.callback(lambda: wait_for("the control group to be empty", lambda: gone(group), 10))
    write_to(f"{group}/memory.limit_in_bytes" if v1 else f"{group}/memory.max", str(MEMORY))
    return f"{group}/cgroup.procs"


def gone(group):
    with contextlib.suppress(OSError):
        os.rmdir(group)
        return True
    return False


def write_to(path, text):
    with open(path, "w") as file:
        file.write(text)


def start(stack, name, namespace, command, stderr=subprocess.DEVNULL, group=None):
    join = (lambda: write_to(group, str(os.getpid()))) if group else None
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], preexec_fn=join,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
    stack.callback(end, process)
    return process


def end(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def bird_command(folder):
    write(f"{folder}/bird.conf", BIRD.format())
    return ["sh", "-c", f"exec bird -f -c {folder}/bird.conf -s {folder}/bird.ctl -P {folder}/bird.pid 2>{folder}/bird.log"]


def bird_log(folder):
    with open(f"{folder}/bird.log") as file:
        return file.read()[-2000:]


def hog_command(folder):
    junk = f"{folder}/junk"
    with open(junk, "wb") as file:
        for _ in range(2 * MEMORY >> 20):
            file.write(os.urandom(1 << 20))
    return [sys.executable, "-c", HOG, str(MEMORY - (96 << 20)), junk]


def noise(folder, number):
    """A list that is another one each time: something to apply, to log and to save."""
    weight = 10 + number % 2
    servers = {f"10.9.0.{n}": {"weight": weight, "enabled": True} for n in range(10, 30)}
    write(f"{folder}/noise.json", json.dumps(servers))


def said(text):
    print(f"stall: {text}", flush=True)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except Failed as failed:
        sys.exit(f"stall: {failed}")

"""The router: BIRD, which learns the VIPs from the balancers and writes the best route to the kernel."""

import os

from network import BALANCER_AS, BALANCERS, ROUTER, ROUTER_AS, VIP4, VIP6
from tools import RUN, run, wait_for, write

SOCKET = f"{RUN}/bird.ctl"
LOG = f"{RUN}/router.log"
PREFIXES = [VIP4 + "/32", VIP6 + "/128"]

# The retry and error times are seconds where BIRD would wait minutes, so that a
# balancer that comes back is heard at once.
CONFIGURATION = """
log stderr all;
router id {router};
protocol device {{ }}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
template bgp balancer {{
  local {router} as {router_as};
  hold time 3; keepalive time 1;
  connect delay time 1; connect retry time 1; error wait time 1,2;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"""
NEIGHBOUR = "protocol bgp {name} from balancer {{ neighbor {address} as {balancer_as}; }}\n"


def start():
    text = CONFIGURATION.format(router=ROUTER.v4, router_as=ROUTER_AS)
    for balancer in BALANCERS:
        text += NEIGHBOUR.format(name=balancer.name, address=balancer.v4, balancer_as=BALANCER_AS)
    write(f"{RUN}/bird.conf", text)
    bird = ROUTER.start("bird", "-f", "-c", f"{RUN}/bird.conf", "-s", SOCKET, output=LOG)
    wait_for("BIRD's control socket", lambda: os.path.exists(SOCKET), 10)
    return bird


def birdc(*words):
    return run("birdc", "-s", SOCKET, *words)


def routes():
    return birdc("show", "route")


def best():
    """{prefix: the balancers with its best route}: one each, or the prefix is not there."""
    return parse(birdc("show", "route", "primary"))


def announced():
    """{prefix: all balancers that announce it}"""
    return parse(routes())


def demoted():
    """{prefix: the balancers whose route has the community GRACEFUL_SHUTDOWN}"""
    found, prefix, name = {}, None, None
    for line in birdc("show", "route", "all").splitlines():
        if " unicast [" in line:
            prefix = prefix if line.startswith(" ") else line.split()[0]
            name = line.split(" unicast [")[1].split()[0]
        elif "BGP.community:" in line and "(65535,0)" in line:
            found.setdefault(prefix, set()).add(name)
    return found


def parse(text):
    found, prefix = {}, None
    for line in text.splitlines():
        if " unicast [" in line:
            prefix = prefix if line.startswith(" ") else line.split()[0]
            found.setdefault(prefix, set()).add(line.split(" unicast [")[1].split()[0])
    return found


def forwards_to(prefix):
    """What the router's kernel does with a packet for the VIP: the machine it goes to, or None."""
    line = run("ip", "-n", "router", "-6" if ":" in prefix else "-4", "route", "show", prefix)
    for balancer in BALANCERS:
        if f"via {balancer.v4} " in line or f"via {balancer.v6} " in line:
            return balancer.name
    return None


def leads_to(name):
    """All best routes lead to this balancer, for BIRD and for the router's kernel."""
    return best() == dict.fromkeys(PREFIXES, {name}) and all(forwards_to(prefix) == name for prefix in PREFIXES)

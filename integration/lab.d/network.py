"""The lab's network: who is there, with which addresses, joined how. Nothing runs on it yet.

    client ──── router ────┬──── balancer1      client net  198.51.100.0/24  2001:db8:c::/64
                  (BIRD)   ├──── balancer2      server net  10.64.0.0/24     2001:db8::/64
                           ├──── web1
                           ├──── web2           VIP         192.0.2.11       2001:db8:ed1a::11
                           ├──── web3           (a /32 and a /128, known to the router by BGP only)
                           └──── etcd1

Each machine is a network namespace; the server net is a bridge in the namespace
that the lab itself runs in. IPVS forwards by direct routing: a balancer passes the
client's packet on unchanged to a web server's Ethernet address, and the web server,
which has the VIP too, answers the client past the balancer.

Anything may import this and call `build()`; it wants a network and mount namespace
of its own (see `enter`), so that it neither finds nor leaves anything on the host.
"""

import contextlib
import ctypes
import os
import subprocess

from tools import run

VIP4, VIP6 = "192.0.2.11", "2001:db8:ed1a::11"
PORT = 80

ROUTER_AS, BALANCER_AS = 14907, 64600

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """One network namespace. `v4` and `v6` are its addresses on the server net (the client's: on its own)."""

    def __init__(self, name, v4, v6):
        self.name, self.v4, self.v6 = name, v4, v6

    @contextlib.contextmanager
    def inside(self):
        """What is opened or started in this block belongs to the machine's network, for good."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            setns(there)
            yield
        finally:
            setns(here)
            os.close(here)
            os.close(there)

    def run(self, *command, ok=(0,)):
        with self.inside():
            return run(*command, ok=ok)

    def start(self, *command, output):
        """Start a program that goes on, its output to a file, as the leader of its own process group."""
        with self.inside(), open(output, "ab") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def open_proc(self, path):
        """A file of /proc/net as this machine sees it; to be read again and again with os.pread."""
        with self.inside():
            return os.open(f"/proc/thread-self/net/{path}", os.O_RDONLY)

    def sysctl(self, **settings):
        """Set net.* keys; a dot is written as two underscores."""
        with self.inside():
            for key, value in settings.items():
                with open("/proc/sys/net/" + key.replace("__", "/"), "w") as file:
                    file.write(str(value))


def setns(namespace):
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


CLIENT = Machine("client", "198.51.100.10", "2001:db8:c::10")
ROUTER = Machine("router", "10.64.0.1", "2001:db8::1")
BALANCERS = [
    Machine("balancer1", "10.64.0.11", "2001:db8::11"),
    Machine("balancer2", "10.64.0.12", "2001:db8::12"),
]
WEBS = [
    Machine("web1", "10.64.0.21", "2001:db8::21"),
    Machine("web2", "10.64.0.22", "2001:db8::22"),
    Machine("web3", "10.64.0.23", "2001:db8::23"),
]
ETCD = Machine("etcd1", "10.64.0.31", "2001:db8::31")
MACHINES = [CLIENT, ROUTER, *BALANCERS, *WEBS, ETCD]


def build():
    run("ip", "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
    run("ip", "link", "set", "lan", "up")
    for machine in MACHINES:
        add(machine)
    for machine in [ROUTER, *BALANCERS, *WEBS, ETCD]:
        plug_in(machine)
    join_client()
    for balancer in BALANCERS:
        be_balancer(balancer)
    for web in WEBS:
        be_server(web)
    write_hosts()


def add(machine):
    run("ip", "netns", "add", machine.name)
    machine.sysctl(
        # Duplicate address detection would keep each IPv6 address unusable for a second.
        ipv6__conf__all__accept_dad=0,
        ipv6__conf__default__accept_dad=0,
        ipv6__conf__default__accept_ra=0,
        # With direct routing answers come from where no route leads back to their source.
        ipv4__conf__all__rp_filter=0,
        ipv4__conf__default__rp_filter=0,
    )
    run("ip", "-n", machine.name, "link", "set", "lo", "up")


def plug_in(machine):
    """Join a machine to the server net. Its end of the cable is `eth0`, the bridge's end has its name."""
    run("ip", "link", "add", machine.name, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
    run("ip", "link", "set", machine.name, "master", "lan", "up")
    address(machine, "eth0", machine.v4 + "/24", machine.v6 + "/64")
    if machine is not ROUTER:
        default_route(machine, ROUTER.v4, ROUTER.v6)


def join_client():
    run("ip", "link", "add", "eth0", "netns", "client", "type", "veth", "peer", "name", "eth1", "netns", "router")
    address(CLIENT, "eth0", CLIENT.v4 + "/24", CLIENT.v6 + "/64")
    address(ROUTER, "eth1", "198.51.100.1/24", "2001:db8:c::1/64")
    default_route(CLIENT, "198.51.100.1", "2001:db8:c::1")
    ROUTER.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__send_redirects=0)
    # Below are ports for who needs to know his (see download.py).
    CLIENT.sysctl(ipv4__ip_local_port_range="30000 65535")


def address(machine, link, *addresses):
    run("ip", "-n", machine.name, "link", "set", link, "up")
    for one in addresses:
        run("ip", "-n", machine.name, "address", "add", one, "dev", link)


def default_route(machine, v4, v6):
    run("ip", "-n", machine.name, "-4", "route", "add", "default", "via", v4)
    run("ip", "-n", machine.name, "-6", "route", "add", "default", "via", v6)


def be_balancer(machine):
    """The daemon puts the VIPs on `lo` by itself; what is the operator's to set is set here."""
    silent_about_vip(machine)
    machine.sysctl(
        # What comes in for a VIP goes out where it came in: not a reason to tell the router a shorter way.
        ipv4__conf__all__send_redirects=0,
        ipv4__conf__default__send_redirects=0,
        ipv4__conf__eth0__send_redirects=0,
        # A client that uses a port again gets a server as if for the first time ...
        ipv4__vs__conn_reuse_mode=2,
        # ... and one whose server was removed is told at once, rather than left to wait.
        ipv4__vs__expire_nodest_conn=1,
    )


def be_server(machine):
    silent_about_vip(machine)
    run("ip", "-n", machine.name, "address", "add", VIP4 + "/32", "dev", "lo")
    run("ip", "-n", machine.name, "address", "add", VIP6 + "/128", "dev", "lo")


def silent_about_vip(machine):
    """Many have the VIP, none may answer for it on the wire. IPv6 needs no setting for this."""
    machine.sysctl(ipv4__conf__all__arp_ignore=1, ipv4__conf__all__arp_announce=2)


def write_hosts(more=()):
    """The names of the machines, for the daemon, in an /etc/hosts that only the lab sees (see `enter`).

    `more`: names without a machine, as (name, IPv4 address, IPv6 address)."""
    with open("/etc/hosts", "w") as hosts:
        hosts.write("127.0.0.1 localhost\n::1 localhost\n")
        for name, v4, v6 in [*((machine.name, machine.v4, machine.v6) for machine in MACHINES), *more]:
            hosts.write(f"{v4} {name}\n{v6} {name}\n")


def cut(machine):
    """Pull the machine's cable: neither side is told by anyone."""
    run("ip", "link", "set", machine.name, "down")


def mend(machine):
    run("ip", "link", "set", machine.name, "up")

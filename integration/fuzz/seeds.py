#!/usr/bin/env python3
"""Writes seeds/, a folder a target: what the fuzzer starts from. Run by hand when one is added.

What fuzzing has found is there, too, each under a name that ends with a hash, and is left alone."""
import pathlib
import struct

FOLDER = pathlib.Path(__file__).parent / "seeds"
INTERNAL, OLD, LONG, CUSTOMER = 1, 2, 4, 8


def message(kind, body=b""):
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def capability(code, value=b""):
    return bytes([code, len(value)]) + value


def opening(*capabilities, asn=65001, extended=False):
    body = struct.pack("!BHH4B", 4, asn, 90, 10, 0, 0, 1)
    if extended:
        parameters = b"".join(struct.pack("!BH", 2, len(one)) + one for one in capabilities)
        return message(1, body + b"\xff\xff" + struct.pack("!H", len(parameters)) + parameters)
    parameters = b"".join(bytes([2, len(one)]) + one for one in capabilities)
    return message(1, body + bytes([len(parameters)]) + parameters)


def update(withdrawn=b"", attributes=b"", nlri=b""):
    fields = struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(attributes)) + attributes
    return message(2, fields + nlri)


def attribute(flags, kind, value):
    if len(value) > 255:
        return struct.pack("!BBH", flags | 0x10, kind, len(value)) + value
    return bytes([flags, kind, len(value)]) + value


def path(*asns, size="I", kind=2):
    return bytes([kind, len(asns)]) + struct.pack(f"!{len(asns)}{size}", *asns)


origin = attribute(0x40, 1, b"\0")
as_path = attribute(0x40, 2, path(65001, 4200000001) + path(64600, 64601, kind=1))
path_of_one = attribute(0x40, 2, path(65001))
old_path = attribute(0x40, 2, path(7, 23456, size="H")) + attribute(0x80, 4, b"\0\0\0\7")
next_hop = attribute(0x40, 3, b"\x0a\0\0\1")
tags = (attribute(0xC0, 8, b"\xff\xff\0\0" + b"\xfc\x58\0\x64") + attribute(0xC0, 16, b"\0\2\xfc\x58\0\0\0\x64")
        + attribute(0xC0, 32, struct.pack("!3I", 64600, 1, 2)) + attribute(0xC0, 35, b"\0\0\xfd\xe9"))
inside = attribute(0x40, 5, b"\0\0\0\x64") + attribute(0x80, 9, b"\x0a\0\0\1") + attribute(0x80, 10, b"\x0a\0\0\2")
aggregated = attribute(0x40, 6, b"") + attribute(0xC0, 7, struct.pack("!I4B", 65001, 10, 0, 0, 1))
old_aggregated = (attribute(0xC0, 7, struct.pack("!H4B", 23456, 10, 0, 0, 1))
                  + attribute(0xC0, 18, struct.pack("!I4B", 65536, 10, 0, 0, 1)))
v4 = b"\x18\xc0\0\2" + b"\x20\xc6\x33\x64\1" + b"\0"
v6 = b"\x40\x20\1\x0d\xb8" + b"\0" * 4 + b"\x80\x20\1\x0d\xb8" + b"\0" * 11 + b"\1"
global_hop, local_hop = b"\x20\1\x0d\xb8" + b"\0" * 11 + b"\x0b", b"\xfe\x80" + b"\0" * 13 + b"\1"


def reach(afi, hop, nlri):
    return attribute(0x80, 14, struct.pack("!HBB", afi, 1, len(hop)) + hop + b"\0" + nlri)


families = capability(1, b"\0\1\0\1") + capability(1, b"\0\2\0\1")
# A byte of flags (see targets/decoder.rs) and then messages of all kinds, as routers send them.
decoder = {
    "open-plain": (0, opening()),
    "open-all": (0, opening(
        families + capability(2) + capability(5, b"\0\1\0\1\0\2") + capability(6) + capability(9, b"\0")
        + capability(64, b"\0\x78\0\1\1\x80") + capability(65, b"\xfa\x56\xea\1") + capability(70) + capability(73, b"\1r\0"),
        asn=23456)),
    "open-apart": (0, opening(capability(1, b"\0\2\0\1"), capability(9, b"\3"), capability(9, b"\3"))),
    "open-extended": (0, opening(capability(200, b"x" * 200), capability(201, b"y" * 100), extended=True)),
    "open-roles": (0, opening(capability(9, b"\3"), capability(9, b"\4"))),
    "keepalives": (0, message(4) * 3),
    "shutdown": (0, message(3, b"\6\2\5hallo")),
    "hard-reset": (0, message(3, b"\6\x09\6\4\3\xc3\xa9!")),
    "notification": (0, message(3, b"\3\5\x40\1\2\0\0")),
    "refreshes": (0, b"".join(message(5, bytes([0, afi, kind, 1])) for afi in (1, 2) for kind in (0, 1, 2, 3))),
    "refresh-wrong": (0, message(5, b"\0\1\1\1\0")),
    "ends-of-rib": (0, update() + update(attributes=attribute(0x80, 15, b"\0\2\1"))),
    "update-ipv4": (0, update(attributes=origin + as_path + next_hop + tags, nlri=v4)),
    "update-customer": (CUSTOMER, update(attributes=origin + as_path + next_hop + aggregated, nlri=v4)),
    "update-internal": (INTERNAL, update(attributes=origin + as_path + next_hop + inside, nlri=v4)),
    "update-old": (OLD, update(attributes=origin + old_path + next_hop + attribute(0xC0, 17, path(65536)), nlri=v4)),
    "update-old-aggregated": (OLD, update(
        attributes=origin + old_path + next_hop + old_aggregated + attribute(0xC0, 17, path(65536)), nlri=v4)),
    "update-ipv6": (0, update(attributes=reach(2, global_hop, v6) + origin + as_path + tags)),
    "update-ipv6-both-hops": (0, update(attributes=reach(2, global_hop + local_hop, v6) + origin + as_path)),
    "update-rfc8950": (0, update(attributes=reach(1, local_hop, v4) + origin + as_path)),
    "update-rfc8950-no-host": (0, update(attributes=reach(1, b"\0\2\0\0", v4) + origin + as_path)),
    "update-mixed": (0, update(b"\x20\x0a\0\0\1", reach(2, global_hop, v6) + origin + as_path + next_hop, v4)),
    "update-withdraws": (0, update(v4) + update(attributes=attribute(0x80, 15, b"\0\2\1" + v6))),
    "update-long": (LONG, update(attributes=origin + as_path + next_hop + attribute(
        0xC0, 8, b"".join(struct.pack("!I", n) for n in range(70))), nlri=b"\x18\x0a\0\1" * 1100)),
    "update-vpn": (0, update(attributes=attribute(0x80, 14, b"\0\x19\x46\4\x0a\0\0\1\0\2\1\1") + origin + as_path)),
    "update-malformed": (0, update(attributes=attribute(0x40, 1, b"\3") + as_path + next_hop, nlri=v4)),
    "update-unknown": (0, update(attributes=origin + as_path + next_hop + attribute(0xC0, 99, b"?") * 2, nlri=v4)),
    "session": (0, opening(families + capability(2) + capability(65, b"\0\0\xfd\xe9")) + message(4) + update(
        attributes=origin + as_path + next_hop, nlri=v4) + update() + message(3, b"\6\2")),
}
decoder = {name: bytes([flags]) + messages for name, (flags, messages) in decoder.items()}

# Two bytes for each end's configuration and then events, two bytes each: see src/bgp/peering/drive.rs.
OUT, IN = 0, 1
NEITHER, BOTH = b"\x28\0" b"\x28\0", b"\x28\1" b"\x28\1"
start, refused, connected, accept = b"\0\0", b"\4\1", b"\4\2", b"\3\0"


def stop(subcode):
    return bytes([1, subcode])


def restart(subcode):
    return bytes([2, subcode])


def lost(side):
    return bytes([6, side])


def opened(side):
    return bytes([7, side])


def alive(side):
    return bytes([9, side])


def told(side, subcode):
    """The subcode is odd at the side that is."""
    return bytes([11, subcode])


def sleep(how):
    """For how * how * 5 ms."""
    return bytes([12, how])


def out_of_turn(side, number):
    """Events of no message: 0 UPDATE sent, 1 SendHoldTimer, and what is wrong: 2 a header, 5 an OPEN, 8 an UPDATE."""
    return bytes([13, side + 2 * number])


def frame(side, frame):
    """A whole message of at most 127 bytes beyond its header."""
    return bytes([14, side + 2 * (len(frame) - 19), frame[18]]) + frame[19:]


def up(side, begin=start):
    return begin + (connected if side == OUT else accept) + opened(side) + alive(side)


small = update(attributes=origin + path_of_one + next_hop, nlri=v4)
hold = sleep(45)
session = {
    "out": NEITHER + up(OUT) + sleep(30) + alive(OUT) + hold,
    "in": NEITHER + up(IN) + sleep(30) + alive(IN) + hold,
    "in-while-passive": b"\x08\0" b"\x28\0" + up(IN) + lost(IN) + up(IN, b""),
    "out-with-all-options": b"\x39\1" b"\x2a\1" + up(OUT) + alive(OUT) + stop(2),
    "no-session-roles": b"\x29\0" b"\x29\0" + up(OUT) + sleep(40) + connected + opened(OUT),
    "no-session-families": b"\x20\0" b"\x24\0" + up(OUT) + up(IN, b""),
    "no-session-role-strict": b"\x3a\0" b"\x28\0" + up(IN),
    "collision-ours-goes": NEITHER + start + connected + accept + opened(IN) + opened(OUT) + alive(IN) + alive(OUT),
    "collision-theirs-goes": b"\x28\2" b"\x28\0" + start + connected + accept + opened(IN) + opened(OUT) + alive(OUT),
    "collision-in-openconfirm": NEITHER + start + connected + opened(OUT) + accept + opened(IN) + alive(IN),
    "collision-with-established": NEITHER + up(OUT) + accept + opened(IN) + alive(IN) + lost(OUT) + up(IN, b""),
    "collision-of-theirs": NEITHER + start + accept + opened(IN) + accept + opened(IN) + alive(IN) + accept,
    "collision-told": NEITHER + start + connected + accept + opened(IN) + told(IN, 7) + opened(OUT) + alive(OUT),
    "collision-with-the-mute": b"\x28\2" b"\x28\0" + start + connected + sleep(35) + accept + opened(IN) + alive(IN),
    "delayed-open-in-time": b"\xa8\x20" b"\x28\0" + up(OUT) + alive(OUT),
    "delayed-open-expires": b"\xa8\x20" b"\x28\0" + start + connected + sleep(20) + opened(OUT) + alive(OUT),
    "delayed-open-is-lost": b"\xa8\x20" b"\x28\0" + start + connected + lost(OUT) + sleep(20) + connected
                            + opened(OUT) + alive(OUT),
    "delayed-open-collides": b"\xa8\x20" b"\xa8\x20" + start + connected + accept + opened(IN) + alive(IN),
    "delayed-open-keepalive-first": b"\xa8\x20" b"\x28\0" + start + accept + alive(IN) + connected + alive(OUT),
    "refreshes": NEITHER + up(OUT) + b"".join(
        frame(OUT, message(5, bytes([0, afi, kind, 1]))) for afi in (1, 2, 3) for kind in (0, 1, 2, 3)),
    "refresh-malformed": BOTH + up(IN) + frame(IN, message(5, b"\0\1\0")),
    "refresh-before-open": NEITHER + start + connected + frame(OUT, message(5, b"\0\1\0\1")),
    "updates": NEITHER + up(OUT) + frame(OUT, small) + frame(OUT, update()) + frame(OUT, update(v4)),
    "update-ipv6": NEITHER + up(IN) + frame(IN, update(attributes=reach(2, global_hop, v6[:9]) + origin + path_of_one)),
    "update-treated-as-withdraw": NEITHER + up(IN) + frame(IN, update(attributes=origin + next_hop, nlri=v4)),
    "update-that-ends-it": NEITHER + up(OUT) + frame(OUT, update(attributes=origin, nlri=b"\x21\1\2\3\4\5")),
    "update-in-openconfirm": NEITHER + start + connected + opened(OUT) + frame(OUT, small),
    "open-malformed": NEITHER + start + connected + frame(OUT, message(1, opening()[19:-1])),
    "open-twice": NEITHER + up(OUT) + opened(OUT),
    "keepalive-twice-before-open": NEITHER + start + accept + alive(IN) + alive(IN),
    "hold-timer-in-openconfirm": NEITHER + start + connected + opened(OUT) + sleep(50),
    "hold-timer-in-opensent": NEITHER + start + connected + sleep(255),
    "hold-timer": NEITHER + up(OUT) + sleep(50) + sleep(40) + up(OUT, b""),
    "send-hold-timer": NEITHER + up(OUT) + out_of_turn(OUT, 0) + out_of_turn(OUT, 1) + sleep(40),
    "bad-headers": NEITHER + up(IN) + out_of_turn(IN, 2) + accept + out_of_turn(IN, 2) + accept + opened(IN)
                   + out_of_turn(IN, 2),
    "bad-messages": NEITHER + up(IN) + out_of_turn(IN, 8) + accept + out_of_turn(IN, 5) + accept + opened(IN)
                    + out_of_turn(IN, 5),
    "notifications": NEITHER + up(OUT) + told(OUT, 2) + sleep(100) + up(IN, b"") + told(IN, 1) + up(IN, b"")
                     + told(IN, 5),
    "refused-backs-off": NEITHER + start + refused + sleep(30) + refused + sleep(40) + refused + sleep(60) + connected,
    "stopped-and-started": NEITHER + up(OUT) + stop(2) + accept + up(IN) + stop(3) + up(OUT),
    "cleared": NEITHER + up(OUT) + restart(4) + connected + opened(OUT) + alive(OUT) + restart(6) + up(IN, b""),
    "lost-in-every-state": NEITHER + start + connected + lost(OUT) + accept + opened(IN) + lost(IN) + up(IN, b"")
                           + lost(IN),
}

for target, seeds in (("decoder", decoder), ("session", session)):
    (FOLDER / target).mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (FOLDER / target / name).write_bytes(seed)

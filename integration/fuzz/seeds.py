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

# Two bytes of configuration and then steps: see live/script.rs.
PASSIVE, LONG_MESSAGES, DELAY, MAXIMUM, INTERVAL, IBGP, ROLE, LISTENS = (1 << bit for bit in range(8))
V4_ONLY, V6_ONLY, TWO_BYTES, NO_REFRESH, PLAIN_REFRESH, LONGER, LARGER, SHORT_HOLD = 1, 2, 4, 8, 16, 32, 64, 128
CLEAR, DISABLE, ENABLE, HOLD_TIME, PEER_AS, ONE_FAMILY, NEXT_HOP, RESTORE, REMOVE = range(9)
CLOSE, RESET, HALF_CLOSE = range(3)
OPEN, KEEPALIVE, UPDATE, REFRESH, NOTIFICATION = range(5)
connect, deaf, hears, pause = b"\0\0", b"\2\1", b"\2\0", b"\3\0"


def say(kind, number=0, wire=0):
    return bytes([4 + kind, wire + 8 * number])


def whole(message, wire=0):
    return bytes([9, wire + 8 * message[18], len(message) - 19]) + message[19:]


def raw(data, wire=0):
    return bytes([10, wire, len(data)]) + data


def wrong(kind, at, by, number=0, wire=0):
    return bytes([11, wire + 8 * (kind + 5 * number), at, by])


def part(kind, length, number=0, wire=0):
    return bytes([12, wire + 8 * (kind + 5 * number), length])


def close(how, wire=0):
    return bytes([13, wire + 8 * how])


def announced(index, med):
    return bytes([14, index + 16 * med])


def withdrawn(index):
    return bytes([14, index + 8])


def order(which):
    return bytes([15, which])


def established(wire=0):
    return connect + say(OPEN, wire=wire) + say(KEEPALIVE, wire=wire) + pause


def taken(wire=0):
    return pause + say(OPEN, wire=wire) + say(KEEPALIVE, wire=wire) + pause


# The numbers of an UPDATE: IPv6, more prefixes, a withdrawal, an End-of-RIB.
IPV6, FOUR, MANY, WITHDRAW, END = 1, 2, 4, 6, 12
live = {
    "in": (0, 0, established() + pause + say(KEEPALIVE)),
    "out": (LISTENS, 0, taken()),
    "out-when-cleared": (0, 0, hears + order(CLEAR) + taken()),
    "in-while-passive": (PASSIVE, 0, established()),
    "internal": (IBGP, 0, established() + say(UPDATE)),
    "internal-in-two-bytes": (IBGP, TWO_BYTES, established()),
    "two-bytes": (0, TWO_BYTES, established() + say(UPDATE)),
    "long-messages": (LONG_MESSAGES, LONGER, established() + say(UPDATE, MANY)),
    "role": (ROLE, 0, established() + say(UPDATE)),
    "one-family-each": (0, V4_ONLY, established() + say(UPDATE, IPV6) + order(ONE_FAMILY)),
    "ipv6": (0, V6_ONLY, established() + say(UPDATE, IPV6) + say(UPDATE, IPV6 + WITHDRAW)),
    "collision-theirs-stays": (LISTENS, LARGER, connect + pause + say(OPEN) + say(OPEN, wire=1) + say(KEEPALIVE)
                               + say(KEEPALIVE, wire=1) + pause),
    "collision-ours-stays": (LISTENS, 0, connect + pause + say(OPEN) + say(OPEN, wire=1) + say(KEEPALIVE)
                             + say(KEEPALIVE, wire=1) + pause),
    "collision-with-established": (LISTENS, 0, taken() + established(1)),
    "silent-beside-established": (LISTENS, 0, taken() + connect + pause + connect + pause),
    "second-of-theirs": (0, 0, connect + say(OPEN) + connect + say(OPEN, wire=1) + say(KEEPALIVE, wire=1) + pause),
    "many-connections": (0, 0, connect * 12 + pause + b"".join(say(OPEN, wire=wire) for wire in range(8)) + pause),
    "many-one-by-one": (0, 0, (connect + pause) * 12),
    "many-that-say-nothing": (0, 0, connect * 12 + b"".join(close(RESET, wire) for wire in range(8)) + connect * 4),
    "delayed-open-in-time": (DELAY, 0, established()),
    "delayed-open-expires": (DELAY, 0, connect + pause + pause + say(OPEN) + say(KEEPALIVE) + pause),
    "delayed-open-keepalive-first": (DELAY, 0, connect + say(KEEPALIVE) + pause),
    "refreshes": (0, 0, established() + b"".join(say(REFRESH, number) for number in range(6)) + pause),
    "refresh-plain": (0, PLAIN_REFRESH, established() + say(REFRESH) + say(REFRESH, 3) + pause),
    "refresh-not-taken": (0, NO_REFRESH, established() + say(UPDATE, MANY) + announced(1, 5)),
    "updates": (0, 0, established() + say(UPDATE) + say(UPDATE, FOUR) + say(UPDATE, IPV6 + MANY) + say(UPDATE, END)
                + say(UPDATE, WITHDRAW) + say(UPDATE, WITHDRAW + IPV6 + MANY)),
    "update-malformed": (0, 0, established() + whole(update(attributes=origin + next_hop, nlri=v4)) + pause
                         + whole(update(attributes=attribute(0x40, 1, b"\3") + path_of_one + next_hop, nlri=v4)) + pause
                         + whole(update(attributes=origin, nlri=b"\x21\1\2\3\4\5")) + pause),
    "update-of-a-family-unknown": (0, 0, established() + whole(update(
        attributes=attribute(0x80, 14, b"\0\x19\x46\4\x0a\0\0\1\0\2\1\1") + origin + path_of_one)) + pause),
    "update-before-open": (0, 0, connect + say(UPDATE) + pause),
    "update-in-openconfirm": (0, 0, connect + say(OPEN) + say(UPDATE) + pause),
    "too-many-prefixes": (MAXIMUM, 0, established() + say(UPDATE, MANY) + pause + connect + pause + order(CLEAR)),
    "wrong-marker": (0, 0, established() + wrong(KEEPALIVE, 3, 1) + pause),
    "wrong-length": (0, 0, established() + wrong(UPDATE, 17, 0x80) + pause),
    "wrong-type": (0, 0, connect + wrong(OPEN, 18, 0xf0) + pause),
    "wrong-version": (0, 0, connect + wrong(OPEN, 19, 1) + pause),
    "wrong-as": (0, 0, connect + wrong(OPEN, 21, 1) + pause + connect + wrong(OPEN, 20, 2, wire=1) + pause),
    "wrong-hold-time": (0, 0, connect + wrong(OPEN, 23, 90 ^ 2) + pause),
    "raw": (0, 0, connect + raw(b"GET / HTTP/1.1\r\nHost: router\r\n\r\n") + pause),
    "raw-session": (0, 0, connect + raw(opening(families + capability(65, b"\0\0\xfd\xe9")) + message(4)) + pause
                    + raw(message(5, b"\0\1\0\1") + message(4) * 3 + message(3, b"\6\2\5hallo")) + pause),
    "halves": (0, 0, connect + part(OPEN, 20) + pause + close(HALF_CLOSE) + pause + established(1)
               + part(UPDATE, 30, wire=1) + pause + close(CLOSE, 1)),
    "notifications": (0, 0, b"".join(
        established(wire) + say(NOTIFICATION, wire + 1, wire) + pause for wire in range(4))),
    "ends-in-every-state": (0, 0, connect + close(CLOSE) + connect + say(OPEN, wire=1) + close(RESET, 1)
                            + established(2) + close(HALF_CLOSE, 2) + pause + established(3) + close(RESET, 3)),
    "closed-unread": (0, 0, connect + say(OPEN) + say(KEEPALIVE) + close(CLOSE) + established(1) + close(CLOSE, 1)),
    "announced-and-withdrawn": (0, 0, established() + announced(1, 3) + announced(5, 4) + pause + withdrawn(0)
                                + withdrawn(4) + announced(1, 0) + pause + announced(0, 1)),
    "announced-at-intervals": (INTERVAL, 0, established() + announced(0, 1) + announced(0, 2) + withdrawn(0)
                               + announced(0, 3) + pause + announced(0, 4) + say(REFRESH)),
    "nothing-announced": (0, 0, withdrawn(0) + withdrawn(4) + established()),
    "cleared": (LISTENS, 0, established(0) + order(CLEAR) + taken(1) + order(CLEAR) + taken(2)),
    "disabled-and-enabled": (0, 0, established() + order(DISABLE) + pause + connect + pause + order(ENABLE)
                             + established(2)),
    "reloaded": (0, 0, established() + order(HOLD_TIME) + pause + established(1) + order(PEER_AS) + pause
                 + established(2) + order(RESTORE) + established(3) + order(ONE_FAMILY) + pause),
    "next-hop-changed": (0, 0, established() + order(NEXT_HOP) + pause + order(RESTORE) + pause),
    "removed-and-back": (LISTENS, 0, established() + order(REMOVE) + pause + order(RESTORE) + established(1)
                         + order(REMOVE) + order(RESTORE)),
    "removed-before-its-open": (0, 0, connect + order(REMOVE) + pause + connect + order(RESTORE) + connect),
    "short-hold-time": (0, SHORT_HOLD, established() + pause),
}
live = {name: bytes([speaker, router]) + steps for name, (speaker, router, steps) in live.items()}

for target, seeds in (("decoder", decoder), ("session", session), ("live", live)):
    (FOLDER / target).mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (FOLDER / target / name).write_bytes(seed)

#!/usr/bin/env python3
"""Checks an exported audit log without any of Keyward's code: Python's standard library is all it needs.

    verify_audit.py audit.jsonl [--checkpoint audit.checkpoint] [--trust audit.trust] [--witness other/audit.trust]

Exit status: 0 the log is whole and signed by a trusted key, 1 something is wrong, 2 nothing is wrong but a checkpoint
or trust is missing, so records may be, too, or the last record is cut off as a crash leaves it, 3 unreadable.

audit.jsonl       one record a line, in the canonical JSON of RFC 8785; "seq" counts from 0; "prev" is the SHA-256 of
                  the line before (without its newline), 64 zeros for the first
audit.checkpoint  what the log's key signed: the number of records, the root of their Merkle tree (RFC 6962, over the
                  lines), the SHA-256 of the last line; a C2SP signed note with an ECDSA P-256 signature
audit.trust       the log's keys, one signed entry for each, every key vouched for by the one before. Have the first
                  key, or an older copy of this file, from somewhere else than the log. That of a witness has the
                  keys one of which must have cosigned the checkpoint: another log's, by which nobody signs for this
"""

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys

LINE_BYTES_MAX = 1024 * 1024
NOTE_BYTES_MAX = 64 * 1024
ORIGIN = "keyward/log/"
COSIGNATURE = "keyward/cosignature/v1"


class Unreadable(Exception):
    """The input is not what it should be at all."""


class Wrong(Exception):
    """A check failed."""


class Arguments(argparse.ArgumentParser):
    def error(self, message):
        raise Unreadable(f"{message}\n{self.format_usage()}")


def sha256(data):
    return hashlib.sha256(data).digest()


# --- ECDSA over P-256 (FIPS 186-5, section 6.4.2), slow and plain; points in Jacobian coordinates -------------------

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    1,
)
INFINITY = (1, 1, 0)


def double(point):
    x, y, z = point
    if z == 0 or y == 0:
        return INFINITY
    s = 4 * x * y * y % P
    m = 3 * (x - z * z) * (x + z * z) % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * y**4) % P, 2 * y * z % P


def add(first, second):
    (x1, y1, z1), (x2, y2, z2) = first, second
    if z1 == 0 or z2 == 0:
        return second if z1 == 0 else first
    u1, u2 = x1 * z2 * z2 % P, x2 * z1 * z1 % P
    s1, s2 = y1 * z2**3 % P, y2 * z1**3 % P
    if u1 == u2:
        return double(first) if s1 == s2 else INFINITY
    h, r = u2 - u1, s2 - s1
    x3 = (r * r - h**3 - 2 * u1 * h * h) % P
    return x3, (r * (u1 * h * h - x3) - s1 * h**3) % P, h * z1 * z2 % P


def times(factor, point):
    result = INFINITY
    for bit in bin(factor)[2:]:
        result = double(result)
        if bit == "1":
            result = add(result, point)
    return result


def ecdsa_made(point, signature, text):
    """Whether the key POINT made SIGNATURE (DER of two integers) over TEXT."""

    def integer(data):
        length = data[1]
        value = data[2 : 2 + length]
        if data[0] != 2 or len(value) != length or value[0] & 0x80 or (length > 1 and value[0] == 0 and value[1] < 0x80):
            raise ValueError
        return int.from_bytes(value, "big"), data[2 + length :]

    try:
        if signature[0] != 0x30 or signature[1] != len(signature) - 2:
            raise ValueError
        r, rest = integer(signature[2:])
        s, rest = integer(rest)
    except (ValueError, IndexError):
        return False
    if rest or not 0 < r < N or not 0 < s < N:
        return False
    inverse = pow(s, -1, N)
    digest = int.from_bytes(sha256(text), "big")
    x, _, z = add(times(digest * inverse % N, G), times(r * inverse % N, point))
    return z != 0 and x * pow(z, -2, P) % P % N == r


# --- Signed notes and keys (C2SP signed-note) ----------------------------------------------------------------------

SPKI_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")


def base64_bytes(text):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Wrong("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Wrong("not base64 in its one form")
    return data


class Key:
    """A verifier key: name+id+base64 of the type and the key."""

    def __init__(self, text):
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise Wrong("not a verifier key")
        self.name, key_id, key = parts[0], parts[1], base64_bytes(parts[2])
        kind, spki, numbers = key[:1], key[1:], key[1 + len(SPKI_P256) :]
        x, y = int.from_bytes(numbers[:32], "big"), int.from_bytes(numbers[32:], "big")
        if kind != b"\x02" or not spki.startswith(SPKI_P256) or len(numbers) != 64:
            raise Wrong("not a P-256 key")
        if x >= P or y >= P or (y * y - x**3 + 3 * x - B) % P:
            raise Wrong("a key that is no point of the curve")
        self.point, self.id = (x, y, 1), sha256(spki)[:4]
        self.cosigner_id = sha256(self.name.encode() + b"\n\xff" + COSIGNATURE.encode() + spki)[:4]
        if self.id.hex() != key_id:
            raise Wrong("a key id that is not that of the key")


class Note:
    def __init__(self, text):
        if len(text.encode()) > NOTE_BYTES_MAX or re.search(r"[\x00-\x09\x0b-\x1f]", text):
            raise Wrong("not a signed note")
        body, divider, lines = text.rpartition("\n\n")
        if not divider or not lines.endswith("\n"):
            raise Wrong("not a signed note")
        self.text, self.signatures = body + "\n", []
        for line in lines[:-1].split("\n"):
            match = re.fullmatch("\u2014 ([^\\s+]+) (\\S+)", line)
            if not match:
                raise Wrong("not a signature line")
            signature = base64_bytes(match[2])
            self.signatures.append((match[1], signature[:4], signature[4:]))

    def signers(self, keys):
        """Those of KEYS that signed. A signature that names one of them and does not hold spoils the note."""
        found = []
        for name, key_id, signature in self.signatures:
            for key in keys:
                if (key.name, key.id) == (name, key_id):
                    if not ecdsa_made(key.point, signature, self.text.encode()):
                        raise Wrong(f"the signature of {name!r} does not hold: text or signature was changed")
                    found.append(key)
        return found

    def cosigners(self, keys):
        """Those of KEYS that cosigned, each with its time: over a text of its own, which holds that of the note."""
        found = []
        for name, key_id, signature in self.signatures:
            for key in keys:
                if (key.name, key.cosigner_id) == (name, key_id):
                    time = int.from_bytes(signature[:8], "big")
                    text = f"{COSIGNATURE}\ntime {time}\nby {name}\n{self.text}"
                    if not ecdsa_made(key.point, signature[8:], text.encode()):
                        raise Wrong(f"the cosignature of {name!r} does not hold: it or the checkpoint was changed")
                    found.append((key, time))
        return found


# --- The three files -----------------------------------------------------------------------------------------------


def number(text):
    if not re.fullmatch(r"0|[1-9][0-9]*", text, re.ASCII):
        raise Wrong(f"not a number: {text!r}")
    return int(text)


def hash_bytes(text):
    if not re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
        raise Wrong(f"not a SHA-256 in hexadecimal: {text!r}")
    return bytes.fromhex(text)


class Checkpoint:
    def __init__(self, text):
        self.note = Note(text)
        lines = self.note.text[:-1].split("\n")
        if len(lines) < 4 or not lines[0].startswith(ORIGIN) or not lines[3].startswith("chain "):
            raise Wrong("not a checkpoint")
        self.origin, self.log, self.size = lines[0], lines[0][len(ORIGIN) :], number(lines[1])
        self.root, self.chain = base64_bytes(lines[2]), hash_bytes(lines[3][len("chain ") :])
        self.others = lines[4:]
        self.sizes = {log: number(size) for _, log, size, _ in (other.split(" ") for other in self.others)}


def read_trust(text):
    """The log that a trust file is for, and its keys as (size from which on it signs, key), every entry verified."""
    header = "keyward/audit-trust/v1\n"
    entries = re.split(f"(?m)^(?={re.escape(header)})", text)
    if entries[0] or len(entries) < 2:
        raise Wrong("not a trust file")
    log, keys, before = None, [], bytes(32)
    for entry in entries[1:]:
        note = Note(entry)
        lines = note.text[len(header) : -1].split("\n")
        if len(lines) != 4 or not note.text.startswith(header):
            raise Wrong("not an entry of a trust file")
        origin, start, key = lines[0], number(lines[1]), Key(lines[2])
        if key.name != origin or origin != (log or origin):
            raise Wrong("an entry for another log, or for a key of another log")
        if hash_bytes(lines[3]) != before or (keys and start <= keys[-1][0]):
            raise Wrong("an entry that does not continue the one before")
        needed = [key] + [last for _, last in keys[-1:]]
        signers = note.signers(needed)
        if any(key not in signers for key in needed):
            raise Wrong("a key that is not vouched for by itself and by the key before it")
        log, before = origin, sha256(note.text.encode())
        keys.append((start, key))
    return log, keys


def check_signature(checkpoint, trust):
    log, keys = trust
    if checkpoint.origin != log:
        raise Wrong(f"the checkpoint is of {checkpoint.origin!r}, the trusted keys are of {log!r}")
    ends = [start for start, _ in keys[1:]] + [checkpoint.size]
    at_size = [key for (start, key), end in zip(keys, ends) if start <= checkpoint.size <= end]
    if not checkpoint.note.signers(at_size):
        raise Wrong("the checkpoint is not signed by the log's key of that time")


class Tree:
    """The Merkle tree of RFC 6962, kept as the roots of its complete subtrees, largest first."""

    def __init__(self):
        self.size, self.subtrees = 0, []

    def append(self, data):
        node, size = sha256(b"\x00" + data), self.size
        while size & 1:
            node, size = sha256(b"\x01" + self.subtrees.pop() + node), size >> 1
        self.subtrees.append(node)
        self.size += 1

    def root(self):
        if not self.subtrees:
            return sha256(b"")
        root, *larger = reversed(self.subtrees)
        for left in larger:
            root = sha256(b"\x01" + left + root)
        return root


def record_of(line):
    """The record in a line, which must be its canonical form: RFC 8785, and records hold no fractions."""

    def members(pairs):
        if len(dict(pairs)) != len(pairs):
            raise Wrong("a name stands twice in one object")
        return dict(pairs)

    def refuse(text):
        raise Wrong(f"a number that no record has: {text}")

    try:
        record = json.loads(line, object_pairs_hook=members, parse_float=refuse, parse_constant=refuse)
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Wrong(f"not a record: {error}") from None
    if not isinstance(record, dict) or set(record) != {"v", "log", "seq", "prev", "time", "event"}:
        raise Wrong("not a record")
    if canonical != line:
        raise Wrong("not in canonical form: it was written by something else")
    types = {"v": int, "log": str, "seq": int, "prev": str, "time": str, "event": dict}
    if any(type(record[name]) is not kind for name, kind in types.items()) or record["v"] != 1:
        raise Wrong("a record of an unknown format")
    if type(record["event"].get("type")) is not str or type(record["event"].get("intent", 0)) is not int:
        raise Wrong("an event of an unknown format")
    return record


class Log:
    """What the lines so far amount to."""

    def __init__(self):
        self.tree, self.chain, self.time, self.log = Tree(), bytes(32), "", None
        self.open_intents, self.kinds, self.torn = set(), {}, False
        self.others = {}  # other logs that the records tell of, and the last place told of in each

    def append(self, line):
        record = record_of(line)
        self.log = self.log or record["log"]
        if record["log"] != self.log:
            raise Wrong(f"it belongs to log {record['log']!r}, not {self.log!r}")
        if record["seq"] != self.tree.size:
            raise Wrong(f"it has number {record['seq']} where {self.tree.size} is due: records are missing, moved or added")
        if record["prev"] != self.chain.hex():
            raise Wrong("it does not carry the hash of the line before: one of the two was changed")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["time"], re.ASCII) or record["time"] < self.time:
            raise Wrong("its time is before that of the record it follows, or none")
        event = record["event"]
        kind = event["type"]
        if kind == "intent":
            self.open_intents.add(record["seq"])
        elif kind == "outcome":
            if event.get("intent") not in self.open_intents:
                raise Wrong(f"it tells the outcome of {event.get('intent')}, which is no open intent")
            self.open_intents.remove(event["intent"])
        elif kind == "other-log":
            if type(event.get("log")) is not str or type(event.get("seq")) is not int:
                raise Wrong("it tells of no record of another log")
            self.others[event["log"]] = max(event["seq"], self.others.get(event["log"], 0))
        elif kind == "re-anchored":
            self.others = {}
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.time, self.chain = record["time"], sha256(line)
        self.tree.append(line)


def read_log(path):
    log = Log()
    try:
        with open(path, "rb") as file:
            while line := file.readline(LINE_BYTES_MAX + 1):
                if len(line) > LINE_BYTES_MAX:
                    raise Wrong("it is too long for a record")
                if line.endswith(b"\n"):
                    log.append(line[:-1])
                else:
                    log.torn = True
    except OSError as error:
        raise Unreadable(str(error)) from None
    except Wrong as wrong:
        raise Wrong(f"line {log.tree.size + 1}: {wrong}") from None
    return log


def check_covered(log, checkpoint):
    if log.log is not None and log.log != checkpoint.log:
        raise Wrong(f"the checkpoint is of log {checkpoint.log!r}, the records are of log {log.log!r}")
    if log.torn and log.tree.size + 1 == checkpoint.size:
        return
    if log.tree.size < checkpoint.size:
        raise Wrong(f"the log ends after {log.tree.size} records, {checkpoint.size} were signed: the end was cut off")
    if log.tree.size > checkpoint.size or log.torn:
        raise Wrong(f"{checkpoint.size} records were signed, the file has {log.tree.size}")
    if (log.chain, log.tree.root()) != (checkpoint.chain, checkpoint.root):
        raise Wrong("these are not the records that were signed, though each follows from the one before")
    for other, seq in log.others.items():
        if checkpoint.sizes.get(other, 0) <= seq:
            raise Wrong(f"the records tell of record {seq} of log {other!r}, which is missing from the checkpoint")


def read(path, kind):
    """What KIND makes of the text of a file; None without a file."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return kind(file.read().decode())
    except (OSError, UnicodeError) as error:
        raise Unreadable(f"{path}: {error}") from None
    except Wrong as wrong:
        raise Wrong(f"{path}: {wrong}") from None


def say(words):
    """Prints one line: what a terminal would obey or hide, and line feeds, as their codes."""
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in words))


def main():
    parser = Arguments(description="Verify an exported audit log.")
    parser.add_argument("log", help="audit.jsonl")
    parser.add_argument("--checkpoint", help="what the log's key signed")
    parser.add_argument("--trust", help="the keys that the log has had")
    parser.add_argument("--witness", help="the keys of another log, by one of which this one's end was cosigned")
    try:
        arguments = parser.parse_args()
        trust = read(arguments.trust, read_trust)
        witness = read(arguments.witness, read_trust)
        checkpoint = read(arguments.checkpoint, Checkpoint)
        log = read_log(arguments.log)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(log.kinds.items()))
        say(f"records     ok: {log.tree.size}, each follows from the one before ({kinds or 'none'})")
        for intent in sorted(log.open_intents):
            say(f"            record {intent} announces an act whose outcome is not in the file")
        if checkpoint:
            check_covered(log, checkpoint)
        if checkpoint and not log.torn:
            say(f"checkpoint  ok: of all {checkpoint.size} records of {checkpoint.origin}")
            for other in checkpoint.others:
                say(f"            it has seen: {other}")
        if checkpoint and trust:
            check_signature(checkpoint, trust)
            say(f"signature   ok: by the log's own key, one of {len(trust[1])} in the trust file")
        if checkpoint and witness:
            cosigned = checkpoint.note.cosigners([key for _, key in witness[1]])
            if not cosigned:
                raise Wrong(f"the checkpoint is not cosigned by {witness[0]}")
            for key, time in cosigned:
                say(f"cosigned    ok: by {key.name}, {time} seconds after 1970 by its clock")
    except Unreadable as error:
        say(f"unreadable: {error}")
        return 3
    except Wrong as wrong:
        say(f"WRONG: {wrong}")
        return 1
    if log.torn:
        say("verdict: the last record is cut off, as a crash leaves it; nothing is wrong with those before it")
        return 2
    if checkpoint and trust:
        say("verdict: good")
        return 0
    say("verdict: nothing is wrong, but without a checkpoint and trusted keys the end may be missing or all be made up")
    return 2


if __name__ == "__main__":
    sys.exit(main())

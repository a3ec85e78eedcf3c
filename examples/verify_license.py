#!/usr/bin/env python3
"""Checks XrML licenses and certificates without any of Keyward's code: Python's standard library is all it needs.

    verify_license.py FILE [--pin PIN.pem]

FILE holds one document or a chain: several back to back, each signed by the principal of the next. PIN.pem is the
public key that is trusted, which must come from somewhere else than FILE; it must be the issuer of the last document.

Exit status: 0 all good and pinned, 1 something is wrong, 2 good but nothing says whether to trust it, 3 unreadable.

What is checked for each document:
  form       well-formed; no comment, CDATA, processing instruction, DTD; one BODY, then one SIGNATURE
  digest     SHA-1 or SHA-256 over the received characters from <BODY to </BODY>, in UTF-16LE
  signature  RSASSA-PKCS1-v1_5 under the key in ISSUER, the whole padded block compared
  link       ISSUER is the principal of the next document, which has the right to issue, and had it at that time;
             for the last document: ISSUER has the pinned key
Not checked: whether it is valid today, whether it is revoked, and which kinds of certificate may issue which.
"""

import argparse
import base64
import binascii
import hashlib
import re
import sys
import xml.parsers.expat

FILE_BYTES_MAX = 64 * 1024 * 1024

# Name in the document: function, DER of DigestInfo up to the digest itself (RFC 8017, section 9.2, note 1).
DIGESTS = {
    "SHA1": (hashlib.sha1, bytes.fromhex("3021300906052b0e03021a05000414")),
    "SHA256": (hashlib.sha256, bytes.fromhex("3031300d060960864801650304020105000420")),
}


class Unreadable(Exception):
    """The input is not what it should be at all."""


class Wrong(Exception):
    """A check failed."""


class Arguments(argparse.ArgumentParser):
    def error(self, message):
        raise Unreadable(f"{message}\n{self.format_usage()}")


# --- XML -----------------------------------------------------------------------------------------------------------


class Element:
    def __init__(self, name, attributes):
        self.name, self.attributes, self.children, self.text = name, attributes, [], ""

    def all(self, name):
        return [child for child in self.children if child.name == name]

    def one(self, path):
        """The element at PATH, every step of which must exist exactly once."""
        element = self
        for name in path.split("/"):
            found = element.all(name)
            if len(found) != 1:
                raise Wrong(f"{element.name} has {len(found)} {name}, where one is needed")
            element = found[0]
        return element


class Document:
    """A parsed document, and the exact characters of its BODY."""

    def __init__(self, root, body_text):
        names = [child.name for child in root.children]
        if root.name != "XrML" or names != ["BODY", "SIGNATURE"]:
            raise Wrong(f"not XrML with one BODY and one SIGNATURE, but {root.name} with {', '.join(names) or 'nothing'}")
        self.body, self.signature = root.children
        self.body_text = body_text

    def title(self):
        described = [o for d in self.body.all("DESCRIPTOR") for o in d.all("OBJECT")]
        kind = [o.attributes.get("type", "") for o in described] + [self.body.attributes.get("type", "")]
        ids = [i.text for o in described for i in o.all("ID")]
        title = " ".join([next((k for k in kind if k), "document")] + ids[:1])
        return "".join(c if c.isprintable() else "?" for c in title)

    def issued_time(self):
        return moment(self.body.one("ISSUEDTIME").text)

    def issuer(self):
        return identity(self.body.one("ISSUER"))

    def principal(self):
        return identity(self.body.one("ISSUEDPRINCIPALS/PRINCIPAL"))

    def issue_range(self):
        """From when and until when the principal may issue (until: no longer)."""
        rights = self.body.one("WORK/RIGHTSGROUP/RIGHTSLIST").all("RIGHT")
        issue = [right for right in rights if right.attributes.get("name") == "ISSUE"]
        if len(issue) != 1:
            raise Wrong("it has no right to issue")
        time = issue[0].one("CONDITIONLIST/TIME/RANGETIME")
        return moment(time.one("FROM").text), moment(time.one("UNTIL").text)


def parse(data):
    """Parses the document that DATA, in UTF-8, begins with. Returns it and its length in bytes."""
    parser = xml.parsers.expat.ParserCreate("utf-8")
    stack, roots, bodies = [], [], []

    class Done(Exception):
        pass

    def refuse(what):
        def handler(*_):
            raise Wrong(f"{what} is not allowed in a license")

        return handler

    def start(name, attributes):
        element = Element(name, attributes)
        (stack[-1].children if stack else roots).append(element)
        stack.append(element)
        if name == "BODY":
            bodies.append([len(stack), parser.CurrentByteIndex, None])

    def end(name):
        at = parser.CurrentByteIndex
        if name == "BODY":
            bodies[-1][2] = at
        stack.pop()
        if not stack:
            raise Done(data.index(b">", at) + 1)

    def text(characters):
        if stack:
            stack[-1].text += characters

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.CommentHandler = refuse("a comment")
    parser.StartCdataSectionHandler = refuse("a CDATA section")
    parser.ProcessingInstructionHandler = refuse("a processing instruction")
    parser.StartDoctypeDeclHandler = refuse("a DTD")
    try:
        parser.Parse(data, True)
        raise Unreadable("no document")
    except Done as done:
        length = done.args[0]
    except xml.parsers.expat.ExpatError as error:
        raise Unreadable(f"not well-formed XML: {error}") from None

    # The parser's view and a plain look at the text must agree on what was signed.
    if len(bodies) != 1 or bodies[0][0] != 2:
        raise Wrong(f"{len(bodies)} elements are named BODY; one is needed, right below the root")
    _, first, last = bodies[0]
    closing = b"</BODY>"
    if data[last : last + len(closing)] != closing or data.index(b"<BODY") != first or data.index(closing) != last:
        raise Wrong("where BODY begins or ends depends on how one looks")
    return Document(roots[0], data[first : last + len(closing)].decode()), length


def moment(text):
    """A time as XrML writes it, UTC; such texts compare as times."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d", text, re.ASCII):
        raise Wrong(f"not a time: {text!r}")
    return text


# --- Keys and signatures -------------------------------------------------------------------------------------------


def sized_value(element):
    """The bytes of <VALUE encoding="base64" size="bits">."""
    value = element.one("VALUE")
    try:
        data = base64.b64decode(value.text, validate=True)
    except (binascii.Error, ValueError):
        raise Wrong(f"VALUE in {element.name} is not base64") from None
    if value.attributes.get("encoding") != "base64" or value.attributes.get("size") != str(len(data) * 8):
        raise Wrong(f"VALUE in {element.name} is not base64 of the stated size")
    return data


def identity(element):
    """Who an ISSUER or PRINCIPAL is: the id of the object, and the RSA key as (modulus, bytes of it)."""
    key = element.one("PUBLICKEY")
    named = [(p.attributes.get("name", "").replace(" ", "-"), p) for p in key.all("PARAMETER")]
    if not key.one("ALGORITHM").text.startswith("RSA") or sorted(n for n, _ in named) != ["modulus", "public-exponent"]:
        raise Wrong(f"{element.name} has no RSA key")
    parameters = dict(named)
    if parameters["public-exponent"].one("VALUE").text != "65537":
        raise Wrong(f"the key of {element.name} has an exponent other than 65537")
    modulus = sized_value(parameters["modulus"])
    # The modulus alone is written from its least byte on.
    return element.one("OBJECT/ID").text.upper(), (int.from_bytes(modulus, "little"), len(modulus))


def check_digest(document):
    """Returns the digest's name and the DigestInfo that must have been signed."""
    element = document.signature.one("DIGEST")
    name = element.one("ALGORITHM").text
    if name not in DIGESTS:
        raise Wrong(f"unknown digest {name!r}")
    if element.one("PARAMETER/VALUE").text != "surface-coding":
        raise Wrong("the digest is not over the surface coding")
    function, info = DIGESTS[name]
    digest = function(document.body_text.encode("utf-16-le")).digest()
    if sized_value(element) != digest:
        raise Wrong("the text of BODY is not the one that the signature states: it was changed")
    return name, info + digest


def check_signature(document, digest_info, key):
    if document.signature.one("ALGORITHM").text != "RSA PKCS#1-V1.5":
        raise Wrong("unknown signature algorithm")
    modulus, size = key
    signature = sized_value(document.signature)
    value = int.from_bytes(signature, "big")
    if len(signature) != size or value >= modulus:
        raise Wrong("the signature does not have the size of the key")
    block = b"\x00\x01" + b"\xff" * (size - 3 - len(digest_info)) + b"\x00" + digest_info
    if pow(value, 65537, modulus).to_bytes(size, "big") != block:
        raise Wrong("the issuer's key did not make this signature")


def read_pin(path):
    """The RSA key in a PEM file: SubjectPublicKeyInfo, read by hand (X.690; RFC 8017, appendix A.1)."""
    text = read(path).decode("ascii", "replace")
    pem = re.fullmatch(r"\s*-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*", text)
    if not pem:
        raise Unreadable(f"{path}: not one PEM block named PUBLIC KEY")

    def element(tag, data, whole=True):
        """The content of the element that DATA begins with, and what follows it."""
        if len(data) < 2 or data[0] != tag:
            raise ValueError
        length, at = data[1], 2
        if length >= 0x80:
            at = 2 + (length & 0x7F)
            length = int.from_bytes(data[2:at], "big")
        if len(data) < at + length or (whole and len(data) != at + length):
            raise ValueError
        return data[at : at + length], data[at + length :]

    try:
        spki, _ = element(0x30, base64.b64decode("".join(pem[1].split()), validate=True))
        algorithm, bits = element(0x30, spki, whole=False)
        if algorithm != bytes.fromhex("06092a864886f70d0101010500"):
            raise ValueError
        bits, _ = element(0x03, bits)
        numbers, _ = element(0x30, bits[1:])
        modulus, exponent = element(0x02, numbers, whole=False)
        exponent, _ = element(0x02, exponent)
    except (ValueError, binascii.Error):
        raise Unreadable(f"{path}: not an RSA public key") from None
    modulus = modulus.lstrip(b"\x00")
    if exponent != b"\x01\x00\x01":
        raise Unreadable(f"{path}: the exponent is not 65537")
    return int.from_bytes(modulus, "big"), len(modulus)


# --- The check as a whole ------------------------------------------------------------------------------------------


def read(path):
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Unreadable(str(error)) from None
    if len(data) > FILE_BYTES_MAX:
        raise Unreadable(f"{path}: more than {FILE_BYTES_MAX} bytes")
    return data


def characters(data):
    """DATA as UTF-8, from UTF-8 or, with a byte order mark, UTF-16."""
    try:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        return data.decode("utf-16" if wide else "utf-8-sig").encode()
    except UnicodeError as error:
        raise Unreadable(f"neither UTF-8 nor UTF-16 with a byte order mark: {error}") from None


def check_link(document, following):
    issuer_id, issuer_key = document.issuer()
    principal_id, principal_key = following.principal()
    if issuer_key != principal_key:
        raise Wrong("the issuer's key is not that of the next document's principal")
    if issuer_id != principal_id:
        raise Wrong(f"the issuer is {issuer_id!r}, the next document's principal {principal_id!r}")
    start, until = following.issue_range()
    if not start <= document.issued_time() < until:
        raise Wrong(f"issued {document.issued_time()}, when the next document's principal might not: {start} to {until}")
    return f"the issuer is the next document's principal, who might issue from {start} until {until}"


def check_pin(document, pin):
    if pin is None:
        return "none: no next document, and no pin was given"
    if document.issuer()[1] != pin:
        raise Wrong("the issuer's key is not the pinned key")
    return "the issuer's key is the pinned key"


def report(documents, pin):
    """Prints what was found, and returns whether all is good."""
    good = True
    for number, document in enumerate(documents, 1):
        following = documents[number] if number < len(documents) else None

        def digest():
            found["digest"] = check_digest(document)
            return f"{found['digest'][0]} of {len(document.body_text)} characters of BODY"

        def signature():
            if "digest" not in found:
                raise Wrong("not looked at: the digest is wrong")
            key = document.issuer()[1]
            check_signature(document, found["digest"][1], key)
            return f"RSA-{key[1] * 8}, PKCS#1 v1.5, by the key in ISSUER"

        def link():
            return check_link(document, following) if following else check_pin(document, pin)

        found = {}
        print(f"{number}. {document.title()}")
        for name, check in (("digest", digest), ("signature", signature), ("link", link)):
            try:
                result = check()
                print(f"   {name:<10} {'' if result.startswith('none') else 'ok: '}{result}")
            except Wrong as wrong:
                good = False
                print(f"   {name:<10} WRONG: {wrong}")
    return good


def main():
    parser = Arguments(description="Verify an XrML license or chain.")
    parser.add_argument("file", help="one document, or several back to back, leaf first")
    parser.add_argument("--pin", metavar="PIN.pem", help="the trusted public key, from somewhere else than FILE")
    try:
        arguments = parser.parse_args()
        pin = read_pin(arguments.pin) if arguments.pin else None
        rest = characters(read(arguments.file)).lstrip()
        documents = []
        while rest or not documents:
            document, length = parse(rest)
            documents.append(document)
            rest = rest[length:].lstrip()
        good = report(documents, pin)
    except Unreadable as error:
        print(f"unreadable: {error}")
        return 3
    except Wrong as wrong:
        print(f"{len(documents) + 1}. WRONG: {wrong}")
        good = False
    if not good:
        print("verdict: WRONG")
        return 1
    print("verdict: good" + (", and pinned" if pin else "; whether to trust it is not known: give --pin"))
    return 0 if pin else 2


if __name__ == "__main__":
    sys.exit(main())

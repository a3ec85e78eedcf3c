"""Verifies signed XrML documents with nothing but Python's standard library and no XML parser.

Usage: verify.py FILE...   Each file is one document. Prints a line for each; exit 0 if all hold, 1 otherwise.
The key is that of the document's own ISSUER: this checks the signature, not whom to trust.
"""
import base64
import hashlib
import re
import sys

# DER of DigestInfo without the digest (RFC 8017, 9.2 note 1)
DIGEST_INFO = {
    "SHA1": ("sha1", bytes.fromhex("3021300906052b0e03021a05000414")),
    "SHA256": ("sha256", bytes.fromhex("3031300d060960864801650304020105000420")),
}
NUMBER = r'<VALUE encoding="base64" size="(\d+)">([A-Za-z0-9+/=]+)</VALUE>'


def number(found):
    raw = base64.b64decode(found.group(2), validate=True)
    assert len(raw) * 8 == int(found.group(1)), "size"
    return raw


def verify(text):
    body = text[text.index("<BODY"):text.index("</BODY>") + len("</BODY>")]
    issuer = re.search(r"<ISSUER>.*?</ISSUER>", body, re.S).group(0)
    modulus = number(re.search(r'name="modulus">' + NUMBER, issuer))
    n = int.from_bytes(modulus, "little")
    signature = text[text.index("<SIGNATURE>", text.index("</BODY>")):]
    digest_text = re.search(r"<DIGEST>.*?</DIGEST>", signature, re.S).group(0)
    name, prefix = DIGEST_INFO[re.search(r"<ALGORITHM>(\w+)</ALGORITHM>", digest_text).group(1)]
    digest = hashlib.new(name, body.encode("utf-16-le")).digest()
    if digest != number(re.search(NUMBER, digest_text)):
        return "digest differs"
    value = number(re.search(NUMBER, signature.replace(digest_text, "")))
    if len(value) != len(modulus):
        return "length differs"
    block = pow(int.from_bytes(value, "big"), 65537, n).to_bytes(len(modulus), "big")
    padding = b"\xff" * (len(modulus) - 3 - len(prefix) - len(digest))
    return "ok" if block == b"\x00\x01" + padding + b"\x00" + prefix + digest else "signature differs"


def main():
    results = [(path, verify(open(path, encoding="utf-8", newline="").read())) for path in sys.argv[1:]]
    for path, result in results:
        print(result, path)
    return 0 if results and all(result == "ok" for _, result in results) else 1


sys.exit(main())

#!/usr/bin/env python3
"""What a licensing node does before it asks for a signature: it drafts the BODY of a use license.

usage: draft_license.py CLUSTER.json KEY.json USER DAYS [ISSUER-GUID]

CLUSTER.json and KEY.json are what `keyward cluster get` and `keyward key get` print with --output json.
Prints a BODY element that lets USER view one document for DAYS days. The sealed content key in it is a stand-in of
the right size: random bytes. A fifth argument puts another server's GUID into ISSUER, to see it refused.
Python standard library only.
"""

import base64
import datetime
import json
import os
import sys
import uuid
from xml.sax.saxutils import escape


def guid():
    return "{%s}" % uuid.uuid4()


def minute(moment):
    return moment.strftime("%Y-%m-%dT%H:%M")


def public_key(modulus_le_base64, bits):
    return (
        "<PUBLICKEY><ALGORITHM>RSA</ALGORITHM>"
        '<PARAMETER name="public-exponent"><VALUE encoding="integer32">65537</VALUE></PARAMETER>'
        f'<PARAMETER name="modulus"><VALUE encoding="base64" size="{bits}">{modulus_le_base64}</VALUE></PARAMETER>'
        "</PUBLICKEY>"
    )


def main(cluster_file, key_file, user, days, issuer_guid=None):
    with open(cluster_file, encoding="utf-8") as file:
        cluster = json.load(file)
    with open(key_file, encoding="utf-8") as file:
        key = json.load(file)
    now = datetime.datetime.now(datetime.timezone.utc)
    until = now + datetime.timedelta(days=int(days))

    # The server as its certificate has it: GUID, name, and the public half of the key in the token, little-endian.
    sku, version = cluster["product"].rsplit(" ", 1)
    issuer = (
        f'<ISSUER><OBJECT type="MS-DRM-Server"><ID type="MS-GUID">{issuer_guid or cluster["guid"]}</ID>'
        f'<NAME>{escape(cluster["server_name"])}</NAME><ADDRESS type="URL">{cluster["url"]}</ADDRESS></OBJECT>'
        + public_key(key["public_key"]["modulus_le_base64"], key["public_key"]["bits"])
        + f'<SECURITYLEVEL name="Server-Version" value="{version}" />'
        f'<SECURITYLEVEL name="Server-SKU" value="{sku}" /></ISSUER>'
    )
    # The user: a stand-in account key, top bit set so that it has its full size.
    user_modulus = bytearray(os.urandom(256))
    user_modulus[-1] |= 0x80
    user_modulus[0] |= 0x01
    licensee = (
        '<ISSUEDPRINCIPALS><PRINCIPAL internal-id="1"><OBJECT type="Group-Identity">'
        f'<ID type="Windows">S-1-5-21-1-2-3-1118</ID><NAME>{escape(user)}</NAME></OBJECT>'
        + public_key(base64.b64encode(user_modulus).decode(), 2048)
        + "</PRINCIPAL></ISSUEDPRINCIPALS>"
    )
    sealed = base64.b64encode(os.urandom(336)).decode()
    view = (
        '<VIEW><CONDITIONLIST><ACCESS><PRINCIPAL internal-id="1"><ENABLINGBITS type="sealed-key-v2">'
        f'<VALUE encoding="base64" size="2688">{sealed}</VALUE></ENABLINGBITS></PRINCIPAL></ACCESS>'
        f"<TIME><RANGETIME><FROM>{minute(now)}</FROM><UNTIL>{minute(until)}</UNTIL></RANGETIME></TIME>"
        "</CONDITIONLIST></VIEW>"
    )
    work = (
        f'<WORK><OBJECT><ID type="MS-GUID">{guid()}</ID></OBJECT>'
        f'<METADATA><OWNER><OBJECT><ID type="Windows" /><NAME>{escape(user)}</NAME></OBJECT></OWNER></METADATA>'
        f'<RIGHTSGROUP name="Main-Rights"><RIGHTSLIST>{view}</RIGHTSLIST></RIGHTSGROUP></WORK>'
    )
    descriptor = f'<DESCRIPTOR><OBJECT type="Content-License"><ID type="MS-GUID">{guid()}</ID></OBJECT></DESCRIPTOR>'
    print(
        f'<BODY type="LICENSE" version="3.0"><ISSUEDTIME>{minute(now)}</ISSUEDTIME>'
        f"{descriptor}{issuer}{licensee}{work}</BODY>"
    )


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    main(*sys.argv[1:])

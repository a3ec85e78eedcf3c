#!/usr/bin/env bash
# Checks an exported log with sha256sum, base64 and openssl alone: chain, Merkle root, signature. For logs of some hundred
# records; verify_audit.py and `keyward audit verify` do the same for large ones.
#     audit_by_hand.sh DIRECTORY TRUST      the directory of an export; audit.trust as it was given out
set -euo pipefail
directory=$1 trust=$2
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
wrong() { echo "WRONG: $*"; exit 1; }
hash() { sha256sum | cut -d ' ' -f 1; }
bytes() { tr a-f A-F | basenc --base16 --decode; }          # from hexadecimal

# A note is a text, an empty line, and signature lines. The keys sign the text with its last line feed.
checkpoint=$directory/audit.checkpoint
sed '/^$/,$d' "$checkpoint" > "$work/text"
{ read -r origin; read -r size; read -r root; read -r chain; } < "$work/text"

echo "1. the chain: each record carries the SHA-256 of the one before"
due=0000000000000000000000000000000000000000000000000000000000000000 seq=0
: > "$work/leaves"
while IFS= read -r line; do
    # Records are canonical: these names stand in this order, behind the event.
    [[ $line =~ \"log\":\"([^\"]*)\",\"prev\":\"([0-9a-f]{64})\",\"seq\":([0-9]+),\"time\":\"[^\"]*\",\"v\":1\}$ ]] \
        || wrong "line $((seq + 1)) is no record"
    [ "keyward/log/${BASH_REMATCH[1]}" = "$origin" ] || wrong "record $seq is of another log"
    [ "${BASH_REMATCH[3]}" = "$seq" ] || wrong "record $seq is missing"
    [ "${BASH_REMATCH[2]}" = "$due" ] || wrong "record $seq does not carry the hash of the one before"
    due=$(printf '%s' "$line" | hash)
    printf '\0%s' "$line" | hash >> "$work/leaves"
    seq=$((seq + 1))
done < "$directory/audit.jsonl"
[ "$seq" = "$size" ] || wrong "$size records were signed, $seq are there"
[ "$chain" = "chain $due" ] || wrong "the last record is not the one that was signed"
echo "   $seq records"

echo "2. the tree (RFC 6962): leaves are SHA-256(00 record), nodes SHA-256(01 left right), a node without a sibling rises"
cp "$work/leaves" "$work/level"
while [ "$(wc -l < "$work/level")" -gt 1 ]; do
    while read -r left; do
        if read -r right; then { printf '\1'; printf '%s%s' "$left" "$right" | bytes; } | hash; else echo "$left"; fi
    done < "$work/level" > "$work/above"
    mv "$work/above" "$work/level"
done
[ "$(bytes < <(tr -d '\n' < "$work/level") | base64)" = "$root" ] || wrong "the records have another root than was signed"
echo "   root $root"

echo "3. the signature: ECDSA P-256 over SHA-256 of the note's text, by the last key in the trust file"
key=$(grep -F "$origin+" "$trust" | tail -n 1 | cut -d + -f 3-)
[ -n "$key" ] || wrong "the trust file has no key of this log"
# Behind one byte for the kind of key, a SubjectPublicKeyInfo.
base64 --decode <<< "$key" | tail -c +2 | openssl pkey -pubin -inform DER -out "$work/key.pem"
# Behind four bytes that say which key, the signature.
sed -n "s|^— $origin ||p" "$checkpoint" | head -n 1 | base64 --decode | tail -c +5 > "$work/signature"
openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/text" > /dev/null \
    || wrong "this key did not sign the checkpoint"
echo "good: $size records of $origin"

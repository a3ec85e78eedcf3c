#!/usr/bin/env bash
# Keyward in one go: a license signed by a key that lives in a token, refused where it must be, and proved afterwards.
# Every command below is what people type. Needs the `keyward` command: KEYWARD=path/to/keyward, or one on the PATH.
set -euo pipefail
keyward=$(command -v "${KEYWARD:-keyward}") || { echo "demo: no keyward here; run \`make demo\`, or set KEYWARD"; exit 1; }
# Each command is a process of its own and speaks to the running service, or to nobody.
PATH="$(dirname "$(realpath "$keyward")"):$PATH"
cd "$(dirname "$0")/.."

work=target/demo
data=$work/data
out=$work/out
rm -rf "$work"
mkdir -p "$out"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
note() { printf '   %s\n' "$*"; }
# Shows a command and runs it. What is shown goes to the screen even where the command's output goes to a file.
exec 3>&1
show() { printf '\033[36m$ %s\033[0m\n' "$*" >&3; }
run() { show "$@"; "$@"; }

# Runs a command that must be refused with this reason.
refused() {
    local reason=$1 text code=0
    shift
    show "$@"
    text=$("$@" 2>&1) || code=$?
    printf '%s\n' "$text"
    [ "$code" -ne 0 ] || { echo "demo: this should have been refused"; exit 1; }
    grep -q "\[$reason\]" <<<"$text" || { echo "demo: refused, but not for $reason"; exit 1; }
}

say "1. A place for keys and records"
note "A data directory with a software token (SoftHSM) in the part of the HSM, a database, and random PINs."
run keyward init "$data" --listen 127.0.0.1:0 --join-listen 127.0.0.1:0

say "2. The service starts"
note "It opens the token with a PIN that no person has seen, and listens: TLS on both sides for licensing"
note "servers, a socket for the operator of this machine."
show keyward serve "$data" '&'
keyward serve "$data" > "$work/serve.out" 2> "$work/serve.log" &
service=$!
stop() { kill -TERM "$service" 2>/dev/null && wait "$service" || true; }
trap stop EXIT
for _ in $(seq 100); do
    grep -qx ready "$work/serve.out" && break
    kill -0 "$service" 2>/dev/null || { cat "$work/serve.log"; exit 1; }
    sleep 0.1
done
cat "$work/serve.out"

say "3. An authority, somewhere else"
note "It has a token of its own with four keys: root, CA, enrollment CA, enrollment service. Only the public half of"
note "the root leaves, as a file that people carry to whoever must verify: the pin."
run keyward authority init "$work/authority" --organisation Example --hierarchy pre-production --pin "$out/pin.pem"

say "4. A cluster and its key"
note "The key pair is made inside the service's token. What the token says of it is read back and kept as evidence:"
note "made here (CKA_LOCAL), always sensitive, never extractable. The private half cannot leave."
request=$out/enrollment-request.xml
response=$out/enrollment-response.xml
run keyward cluster create demo --url https://rms.example.test/_wmcs --offline --request "$request" --data "$data"
run keyward key get clusters/demo/keys/slc-1 --data "$data" --output json > "$work/key.json"

say "5. Enrollment by files"
note "The request is carried to the authority. Whoever made it reads out twelve words; the authority compares them"
note "with the file it holds, so that nobody exchanges the request on the way. Before the voice, it only looks:"
run keyward authority process "$work/authority" "$request" --out "$response"
words=$(keyward enroll export demo --out "$work/again.xml" --data "$data" --output json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["words"])')
cmp "$request" "$work/again.xml"
note "(Exported again, the request is the same to the byte; its words are read out from there.)"
run keyward authority process "$work/authority" "$request" --words "$words" --out "$response"
note "The response is carried back. The cluster takes it in only under the pin, for its own key, GUID, name and URL:"
run keyward enroll import demo "$response" --pin "$out/pin.pem" --data "$data"
run keyward cluster get demo --data "$data" --output json > "$work/cluster.json"

say "6. A licensing server joins"
note "The operator makes a join token: good for one server, one time, one hour. The server makes its own key and"
note "joins with it; its certificate is signed by a key in the token, like everything else."
run keyward node invite node-1 --cluster demo --out "$work/node-1.join.toml" --data "$data"
run keyward node join "$work/node-1.join.toml" --out "$work/node-1"

say "7. It gets its license signed"
note "The server drafts a license; Keyward reads it before the token is asked: the kind of document, who issues it,"
note "under which key, from when to when."
run python3 examples/draft_license.py "$work/cluster.json" "$work/key.json" alice@example.test 30 > "$work/body.xml"
run keyward license sign "$work/body.xml" --as "$work/node-1" --out "$out/use-license.xml"
run keyward show "$out/use-license.xml"

say "8. What the same server must not get"
note "A text that is not a license:"
echo 'Dear sirs, the undersigned owes the bearer one million.' > "$work/letter.txt"
refused DOCUMENT_MALFORMED keyward license sign "$work/letter.txt" --as "$work/node-1"
note "A license that names another server as its issuer:"
python3 examples/draft_license.py "$work/cluster.json" "$work/key.json" alice@example.test 30 \
    '{11111111-2222-3333-4444-555555555555}' > "$work/foreign.xml"
refused ISSUER_FOREIGN keyward license sign "$work/foreign.xml" --as "$work/node-1"
note "A signature by the key of another cluster:"
keyward cluster create other --url https://other.example.test/_wmcs --offline --request "$work/other.xml" \
    --data "$data" > "$work/other.txt"
refused PERMISSION_DENIED keyward license sign "$work/body.xml" --as "$work/node-1" --cluster other

note "And the new cluster itself, which no authority has certified, signs nothing for its own server either:"
keyward node invite node-2 --cluster other --out "$work/node-2.join.toml" --data "$data" > "$work/node-2.txt"
keyward node join "$work/node-2.join.toml" --out "$work/node-2" >> "$work/node-2.txt"
refused CLUSTER_NOT_ENROLLED keyward license sign "$work/body.xml" --as "$work/node-2"

say "9. Others check the license"
note "Keyward itself, with no service and no token, and a Python program that shares no code with it. Both are given"
note "the license with its four certificates, and the pinned root."
run keyward verify "$out/use-license.xml" --pin "$out/pin.pem"
run python3 examples/verify_license.py "$out/use-license.xml" --pin "$out/pin.pem"

say "10. The log proves who did what"
note "Every signature stands in the log twice: what was to be done, before the token was asked, and what became of"
note "it, before the answer left. Refusals and every step of the enrollment stand there too. The export ends with a"
note "checkpoint that the audit key in the token signed; the key to verify it was given out when the service was made."
cp "$data/audit.trust" "$work/audit.trust"
run keyward audit export --out "$out/log" --data "$data"
mv "$out/log"/* "$out" && rmdir "$out/log"
run keyward audit verify "$out/audit.jsonl" --trust "$work/audit.trust"
run python3 examples/verify_audit.py "$out/audit.jsonl" --checkpoint "$out/audit.checkpoint" --trust "$work/audit.trust"
for reason in DOCUMENT_MALFORMED ISSUER_FOREIGN PERMISSION_DENIED CLUSTER_NOT_ENROLLED; do
    grep -q "\"reason\":\"$reason\"" "$out/audit.jsonl" || { echo "demo: $reason is not in the log"; exit 1; }
done
note "The four refusals are in it. Now a copy in which one byte was changed, and one without its last line:"
broken() {
    local code=0
    run keyward audit verify "$1" --checkpoint "$out/audit.checkpoint" --trust "$work/audit.trust" || code=$?
    [ "$code" -eq 1 ] || { echo "demo: the change was not noticed"; exit 1; }
}
sed '0,/node-1/s//node-2/' "$out/audit.jsonl" > "$work/changed.jsonl"
broken "$work/changed.jsonl"
sed '$d' "$out/audit.jsonl" > "$work/cut.jsonl"
broken "$work/cut.jsonl"

say "11. The service stops"
note "It finishes what is under way, closes the token and the log."
stop
trap - EXIT
tail -n 1 "$work/serve.log"

say "What is left to look at"
note "$out/use-license.xml           the license, and the four certificates up to the root"
note "$out/pin.pem                   the root's public key, which a verifier must have beforehand"
note "$out/enrollment-request.xml    what was carried to the authority"
note "$out/enrollment-response.xml   what was carried back"
note "$out/audit.jsonl               the log, one record a line; audit.checkpoint and audit.trust prove it"
echo "demo: ok"

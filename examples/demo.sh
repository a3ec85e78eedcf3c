#!/usr/bin/env bash
# Keyward in one go: a license signed by a key that lives in a token, refused where it must be, and proved afterwards.
# Every command below is what people type. Needs the `keyward` command: KEYWARD=path/to/keyward, or one on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
# Each command is a process of its own and speaks to the running service, or to nobody.
PATH="$(dirname "$(realpath "$(command -v "${KEYWARD:-keyward}")")"):$PATH"

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
run keyward init "$data" --listen 127.0.0.1:0

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

say "3. A cluster and its key"
note "The key pair is made inside the token. What the token says of it is read back and kept as evidence:"
note "made here (CKA_LOCAL), always sensitive, never extractable. The private half cannot leave."
run keyward cluster create demo --url https://rms.example.test/_wmcs --data "$data"
run keyward cluster get demo --data "$data" --output json > "$work/cluster.json"
run keyward key get clusters/demo/keys/slc-1 --pem "$out/pin.pem" --data "$data" --output json > "$work/key.json"

say "4. A licensing server gets its license signed"
note "The operator gives the server 'node-1' a certificate. The server drafts a license; Keyward reads it before"
note "the token is asked: the kind of document, who issues it, under which key, from when to when."
run keyward node create node-1 --cluster demo --out "$work/node-1" --data "$data"
run python3 examples/draft_license.py "$work/cluster.json" "$work/key.json" alice@example.test 30 > "$work/body.xml"
run keyward license sign "$work/body.xml" --as "$work/node-1" --out "$out/use-license.xml"

say "5. What the same server must not get"
note "A text that is not a license:"
echo 'Dear sirs, the undersigned owes the bearer one million.' > "$work/letter.txt"
refused DOCUMENT_MALFORMED keyward license sign "$work/letter.txt" --as "$work/node-1"
note "A license that names another server as its issuer:"
python3 examples/draft_license.py "$work/cluster.json" "$work/key.json" alice@example.test 30 \
    '{11111111-2222-3333-4444-555555555555}' > "$work/foreign.xml"
refused ISSUER_FOREIGN keyward license sign "$work/foreign.xml" --as "$work/node-1"
note "A signature by the key of another cluster:"
keyward cluster create other --url https://other.example.test/_wmcs --data "$data" > "$work/other.txt"
refused PERMISSION_DENIED keyward license sign "$work/body.xml" --as "$work/node-1" --cluster other

say "6. Somebody else's code checks the license"
note "A Python program that shares no code with Keyward, given only the license and the cluster's public key:"
run python3 examples/verify_license.py "$out/use-license.xml" --pin "$out/pin.pem"

say "7. The log proves who did what"
note "Every signature stands in the log twice: what was to be done, before the token was asked, and what became of"
note "it, before the answer left. Each refusal stands there too. Each record carries the hash of the one before."
run keyward audit export --out "$out" --data "$data"
run keyward audit verify "$out/audit.jsonl" --head "$out/audit.head"
for reason in DOCUMENT_MALFORMED ISSUER_FOREIGN PERMISSION_DENIED; do
    grep -q "\"reason\":\"$reason\"" "$out/audit.jsonl" || { echo "demo: $reason is not in the log"; exit 1; }
done
note "The three refusals are in it. Now a copy in which one byte was changed:"
sed '0,/node-1/s//node-2/' "$out/audit.jsonl" > "$work/changed.jsonl"
code=0
run keyward audit verify "$work/changed.jsonl" --head "$out/audit.head" || code=$?
[ "$code" -eq 1 ] || { echo "demo: the change was not noticed"; exit 1; }

say "8. The service stops"
note "It finishes what is under way, closes the token and the log."
stop
trap - EXIT
tail -n 3 "$work/serve.log"

say "What is left to look at"
note "$out/use-license.xml   the license"
note "$out/pin.pem           the public key that a verifier must know beforehand"
note "$out/audit.jsonl       the log, one record a line; audit.head says where it ends"
echo "demo: ok"

#!/usr/bin/env bash
# Three kinds of token, started here and tried out: SoftHSM, Kryoptic, and a TPM 2.0 in software.
# For each, the probe makes keys, signs, opens sealed keys, checks every result outside the token, and holds what it
# found against the profile. Needs the `keyward` command: KEYWARD=path/to/keyward, or one on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$(dirname "$(realpath "$(command -v "${KEYWARD:-keyward}")")"):$PATH"

out=target/tokens
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
stop() {
    [ -z "${tpm:-}" ] || kill "$tpm" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
probe() {
    local name=$1 profile=$2
    keyward token probe --profile "$profile" --directory "$work/$name" --output json > "$out/$name.json"
    python3 - "$out/$name.json" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
for row in report["matrix"]:
    mark = "ok " if row["device"] else "no "
    answer = f"  ({row['answer']})" if row["answer"] else ""
    print(f"   {mark} {row['capability']:34}{row['microseconds']:>9} us{answer}")
for point in report["curve"]:
    print(f"   {point['per_second']:8.0f} signatures/s with {point['threads']} session(s)")
assert report["as_profile"], "the device differs from its profile"
PY
}

say "SoftHSM"
probe softhsm softhsm

say "Kryoptic: built from its crate, the first time in a minute"
cargo build --release --quiet --manifest-path tests/kit/kryoptic/Cargo.toml --target-dir target/kit
sed "s#^paths = \[#&\n    \"$PWD/target/kit/release/libkryoptic_pkcs11.so\",#" hsm-profiles/kryoptic.toml > "$work/kryoptic.toml"
probe kryoptic "$work/kryoptic.toml"

say "swtpm: a TPM 2.0"
mkdir -p "$work/swtpm/state"
free_pair() {
    python3 - <<'PY'
import socket
while True:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        try:
            two.bind(("127.0.0.1", port + 1))
        except OSError:
            continue
        print(port)
        break
PY
}
port=$(free_pair)
swtpm socket --tpm2 --tpmstate "dir=$work/swtpm/state" --flags not-need-init,startup-clear \
    --server "type=tcp,port=$port,bindaddr=127.0.0.1" --ctrl "type=tcp,port=$((port + 1)),bindaddr=127.0.0.1" &
tpm=$!
sleep 1
echo "swtpm:host=127.0.0.1,port=$port" > "$work/swtpm/tcti"
probe swtpm swtpm

say "tokens: ok"

#!/usr/bin/env bash
# Three kinds of token, started here and tried out: SoftHSM, Kryoptic, and a TPM 2.0 in software.
# For each, the probe makes keys, signs, opens sealed keys, checks every result outside the token, and holds what it
# found against the profile. Needs the `keyward` command: KEYWARD=path/to/keyward, or one on the PATH.
set -euo pipefail
keyward=$(command -v "${KEYWARD:-keyward}") || { echo "tokens: no keyward here; build it, or set KEYWARD"; exit 1; }
PATH="$(dirname "$(realpath "$keyward")"):$PATH"
cd "$(dirname "$0")/.."

out=target/tokens
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
stop() {
    [ -z "${tpm:-}" ] || { kill "$tpm" && wait "$tpm"; } 2>/dev/null || true
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
    answer = f"  ({row['answer']['function']} answered {row['answer']['code']})" if row["answer"] else ""
    print(f"   {mark} {row['capability']:34}{row['microseconds']:>9} us{answer}")
for point in report["curve"]:
    print(f"   {point['per_second']:8.0f} signatures/s with {point['threads']} session(s)")
assert report["as_profile"], "the device differs from its profile"
PY
}

say "SoftHSM"
probe softhsm softhsm

say "Kryoptic: built from its crate, the first time in a minute"
kit=${CARGO_TARGET_DIR:-$PWD/target}/kit
cargo build --release --locked --quiet --manifest-path tests/kit/kryoptic/Cargo.toml --target-dir "$kit"
sed "s#^paths = \[#&\n    \"$kit/release/libkryoptic_pkcs11.so\",#" hsm-profiles/kryoptic.toml > "$work/kryoptic.toml"
probe kryoptic "$work/kryoptic.toml"

say "swtpm: a TPM 2.0"
command -v swtpm > /dev/null || { echo "tokens: install the package swtpm"; exit 1; }
mkdir -p "$work/swtpm/state"
# It says nothing when it listens.
swtpm socket --tpm2 --tpmstate "dir=$work/swtpm/state" --flags not-need-init,startup-clear \
    --server "type=unixio,path=$work/tpm" --ctrl "type=unixio,path=$work/tpm.ctrl" 2>/dev/null &
tpm=$!
listens() { grep -q " 00010000 .* $1\$" /proc/net/unix; }
until listens "$work/tpm" && listens "$work/tpm.ctrl"; do
    kill -0 "$tpm" 2>/dev/null || { echo "tokens: swtpm does not start"; exit 1; }
    sleep 0.05
done
echo "swtpm:path=$work/tpm" > "$work/swtpm/tcti"
probe swtpm swtpm

say "tokens: ok"

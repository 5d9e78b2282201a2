#!/usr/bin/env bash
# schemathesis.sh [EXAMPLES]: random requests made from the API's own description, valid and not, to every
# operation as an owner: the API may refuse, it may not fail (no 5xx). A coordinator of its own, on loopback.
set -euo pipefail
examples="${1:-40}"
[[ "$examples" =~ ^[1-9][0-9]*$ ]] || { echo "usage: schemathesis.sh [EXAMPLES]" >&2; exit 2; }
target="${CARGO_TARGET_DIR:-$HOME/.cache/meshd/target}"
tools="$target/tools/schemathesis"
if [ ! -x "$tools/bin/schemathesis" ]; then
  echo "schemathesis is missing: installing it into $tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
fi

work="$(mktemp -d)"
coordinator=
end() {
  [ -z "$coordinator" ] || kill "$coordinator" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
"$target/debug/examples/seed" "$work/state" 12
ask() { "$target/debug/meshd-coordinator" --socket "$work/api.sock" "$@"; }
MESHD_LOG=warn "$target/debug/meshd-coordinator" --socket "$work/api.sock" serve --json --state-dir "$work/state" \
  --listen "127.0.0.1:$port" --public "127.0.0.1:$port" --no-relay --prefix 100.71.0.0/16 >"$work/ready" 2>"$work/log" &
coordinator=$!
for _ in $(seq 120); do
  ask status >/dev/null 2>&1 && break
  kill -0 "$coordinator" || { cat "$work/log" >&2; exit 1; }
  sleep 0.5
done
token="$(ask api-token create schemathesis --role owner --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["secret"])')"
curl -sSk -H "Authorization: Bearer $token" "https://127.0.0.1:$port/api/v1/openapi.json" >"$work/openapi.json"

cd "$work"
code=0
"$tools/bin/schemathesis" run "$work/openapi.json" --url "https://127.0.0.1:$port" --tls-verify false \
  --header "Authorization: Bearer $token" --checks not_a_server_error --phases examples,coverage,fuzzing \
  --max-examples "$examples" --continue-on-failure --request-timeout 20 --warnings off --seed 20261121 \
  --exclude-path-regex '/(api-tokens/\{[a-z]+\}|events)$' || code=$?
# What it sent may have changed everything, but the coordinator still stands and its log chain is whole.
kill -0 "$coordinator" || { echo "the coordinator has ended"; cat "$work/log" >&2; exit 1; }
ask audit verify
exit "$code"

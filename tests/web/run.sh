#!/usr/bin/env bash
# The tests of the web admin in a real browser. Needs node, npm and chromium (.ci/setup installs them).
set -euo pipefail
cd "$(dirname "$0")"
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --ignore-scripts
fi
if [ "${1:-}" = --rows ]; then exec node rows.mjs "$2"; fi
if [ "${1:-}" = --first ]; then
  # Two machines and a coordinator in a network of their own, with a LAN that one of them is in.
  exec unshare --net bash -c 'ip link set lo up && ip link add lan0 type veth peer name lan1 && ip addr add 192.168.1.11/24 dev lan0 && ip link set lan0 up && ip link set lan1 up && exec node first.mjs'
fi
exec node run.mjs "$@"

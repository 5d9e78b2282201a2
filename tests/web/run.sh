#!/usr/bin/env bash
# The tests of the web admin in a real browser. Needs node, npm and chromium (.ci/setup installs them).
set -euo pipefail
cd "$(dirname "$0")"
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --ignore-scripts
fi
if [ "${1:-}" = --rows ]; then exec node rows.mjs "$2"; fi
exec node run.mjs "$@"

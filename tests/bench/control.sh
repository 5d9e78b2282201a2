#!/usr/bin/env bash
# The control plane with simulated nodes; sizes as arguments, otherwise 100, 1,000 and 3,000.
set -eu
exec "${CARGO_TARGET_DIR:-target}/debug/meshd-bench-control" "$@"

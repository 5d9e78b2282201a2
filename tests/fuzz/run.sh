#!/usr/bin/env bash
# Runs the fuzz targets: run.sh [SECONDS [TARGET…]]   (60 seconds each, all targets)
#
# Builds on the stable toolchain (RUSTC_BOOTSTRAP=1 for the coverage flags). No sanitizer: what is tested
# holds no unsafe code, and runs twice as often without one. New inputs go to a scratch corpus beside the build output, so that the committed
# corpora stay small. A finding is kept in tests/fuzz/artifacts/<target>/ and makes the script fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds="${1:-60}"
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "usage: run.sh [SECONDS [TARGET…]]: SECONDS is a whole number above 0" >&2; exit 2; }
shift $(($# > 0 ? 1 : 0))
all=(policy control_frame token stun packet segments probe relay_frame gateway_wire socks5 http_proxy dns_query dns_reply)
targets=("${@:-${all[@]}}")
for target in "${targets[@]}"; do
  [[ -f "fuzz_targets/$target.rs" ]] || { echo "no target \`$target\`: there are ${all[*]}" >&2; exit 2; }
done

export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz"
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is missing: installing it"
  env -u CARGO_TARGET_DIR cargo install --quiet cargo-fuzz --locked
fi

export RUSTC_BOOTSTRAP=1
host="$(rustc -vV | sed -n 's/^host: //p')"
log="$CARGO_TARGET_DIR/build.log"
mkdir -p "$CARGO_TARGET_DIR"
started=$SECONDS
if ! cargo fuzz build --fuzz-dir . --sanitizer none --features fuzzing >"$log" 2>&1; then
  tail -40 "$log" >&2
  echo "the fuzz targets do not build" >&2
  exit 1
fi
echo "built in $((SECONDS - started)) s"

# One target, to the end; its line goes to a file, so that the lines come in the order of the list.
fuzz() {
  local target=$1 log="$CARGO_TARGET_DIR/$1.log" scratch="$CARGO_TARGET_DIR/corpus/$1" status=0 dictionary=() runs cover seeds
  mkdir -p "$scratch" "artifacts/$target"
  [[ -f "$target.dict" ]] && dictionary=("-dict=$target.dict")
  # The time is bounded twice: by libFuzzer, and from outside should a single input never return.
  timeout --kill-after=10 $((seconds + 60)) "$CARGO_TARGET_DIR/$host/release/$target" \
    "$scratch" "corpus/$target" -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" "${dictionary[@]}" \
    -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 >"$log" 2>&1 || status=$?
  runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  cover="$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)"
  seeds="$(find "corpus/$target" -type f | wc -l)"
  if [[ $status -eq 0 && "${runs:-0}" -gt 0 ]]; then
    echo "$target: no finding in $seconds s, $runs runs, $cover edges, $seeds inputs committed"
  else
    echo "$target: FINDING (exit status $status), see $log and artifacts/$target/"
    grep -aE "panicked at|ERROR|assertion|SUMMARY" "$log" | head -5 || true
    return 1
  fi
}

# As many at once as there are cores: each target uses one.
failed=0
said="$(mktemp -d)"
trap 'rm -rf "$said"' EXIT
cores="$(nproc)"
for ((at = 0; at < ${#targets[@]}; at += cores)); do
  some=("${targets[@]:at:cores}")
  jobs=()
  for target in "${some[@]}"; do
    fuzz "$target" >"$said/$target" 2>&1 &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  for target in "${some[@]}"; do cat "$said/$target"; done
done
exit "$failed"

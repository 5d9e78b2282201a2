#!/usr/bin/env bash
# Seeded faults: each is put into a copy of the engine, and the simulation has to notice it. A fault that
# nothing notices is a test that is missing. `make sim-mutants`; arguments name the faults to try.
set -u
cd "$(dirname "$0")/../.." || exit 2
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 tar -cf - --ignore-failed-read 2>/dev/null | tar -xf - -C "$copy"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/meshd/target}/mutants"
export CARGO_INCREMENTAL=0

# name | file below engine/src | sed expression
faults=(
  "no-doubt|path/watch.rs|s/if waited >= doubt \&\& matches/if waited > doubt * 1000 \&\& matches/"
  "no-death|path/watch.rs|s/if waited >= DEAD_AFTER.max(rtt \* 6)/if waited >= DEAD_AFTER * 1000/"
  "pong-on-the-wrong-path|engine/probing.rs|s/self.send_probe(id, from, probe.txid, Content::Pong/let from = self.peers.get(id).and_then(|s| s.paths.over_relay()).unwrap_or(from); self.send_probe(id, from, probe.txid, Content::Pong/"
  "hint-lost|engine/probing.rs|s/let list = self.listed(&hint.endpoints);/let list = self.listed(\&hint.endpoints[..0]);/"
  "filter-not-checked-again|engine/map.rs|s/entitled \&\& ours \&\& verdict(&snapshot.filter, flow).is_allowed()/entitled || ours || true/"
  "no-tombstone|engine/map.rs|s/if !same {/if !same \&\& id.0 == u64::MAX {/"
  "key-never-expires|engine/map.rs|s/self.wall_at(now).is_some_and(|wall| at <= wall)/self.wall_at(now).is_some_and(|_| at.0 == 0)/"
  "relay-down-ignored|engine/wan.rs|s/if self.relays.up.remove(&relay) {/if false {/"
  "link-change-ignored|engine/wan.rs|s/let change = state.paths.link_changed(now);/let change = None;/"
  "own-addresses-not-told|engine/wan.rs|s/self.tell_candidates_now(id, now);/let _ = id;/"
  "lost-session-not-noticed|engine/probing.rs|s/if probe.has_session \&\& !self.is_ready(id, now)/if probe.has_session \&\& id.0 == u64::MAX/"
  "chatter|path/watch.rs|s/_ => None,\$/_ => Some(PING_BUSY),/"
  "birthday-forgotten|engine/meeting.rs|s/Content::Meet { round }, now)/Content::Ping, now)/"
  "dead-router-kept|engine/owners.rs|s/state.slot.set_alive(false);/state.slot.set_alive(true);/"
  "drain-not-heard|data/slot.rs|s/self.fitness() == Fitness::Fit/true/"
  "backup-not-used|engine/probing.rs|s/let spare = spare.filter(|_| doubtful);/let spare = spare.filter(|_| doubtful \&\& usable.is_none());/"
)

caught=0 missed=0
for fault in "${faults[@]}"; do
  IFS='|' read -r name file _ <<<"$fault"
  expression=${fault#*|*|}
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  target="$copy/engine/src/$file"
  cp "engine/src/$file" "$target"
  sed -i "$expression" "$target"
  if cmp -s "engine/src/$file" "$target"; then
    echo "$name: the engine has changed, this fault no longer fits: mend tests/sim/mutants.sh"
    missed=$((missed + 1))
    continue
  fi
  if ! (cd "$copy" && cargo build -q --locked -p meshd-sim --tests) >"$copy/build.log" 2>&1; then
    echo "$name: does not compile: $(grep -m1 '^error' "$copy/build.log")"
    missed=$((missed + 1))
  elif (cd "$copy" && timeout 300 cargo test -q --locked -p meshd-sim) >"$copy/run.log" 2>&1; then
    echo "$name: NOT noticed"
    missed=$((missed + 1))
  else
    echo "$name: noticed by $(grep -m1 -oE '^    [a-z_]+$' "$copy/run.log" | tr -d ' ')"
    caught=$((caught + 1))
  fi
  cp "engine/src/$file" "$target"
done
echo "$caught faults noticed, $missed not"
[ "$missed" = 0 ]

#!/usr/bin/env bash
# Train twice, once left alone and once interrupted under runctl, and compare the final weights bit for bit.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d "${TMPDIR:-/tmp}/runctl-demo.XXXXXX")
export RUNCTL_STATE_DIR=$work/state
runctl=$PWD/.venv/bin/runctl
python=$PWD/.venv/bin/python
train=$PWD/examples/digits/train.py

finish() {
  code=$?
  # Nothing may be left running, however the demo ended.
  "$runctl" controller stop >/dev/null 2>&1 || true
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo '== 1 of 3: the same training, left alone (without its waits: they change no weight)'
"$python" "$train" --out "$work/alone" --step-time 0 --log-every 100000 | tail -n 3

echo
echo '== 2 of 3: interrupted under runctl: a notice, the machine taken away, a new one'
"$runctl" rehearse --after 10s --notice 10s --finish --checkpoints "$work/checkpoints" -- "$python" "$train"

echo
echo '== 3 of 3: the final weights of both'
# A store keeps the names that the training gave its files.
final=$(find "$work/checkpoints" -name final.npz -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
if [ -z "$final" ]; then
  echo "make demo: the interrupted run kept no final.npz among its checkpoints." >&2
  exit 1
fi
"$python" deploy/dev/compare_weights.py "$work/alone/final.npz" "$final"

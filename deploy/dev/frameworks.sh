#!/usr/bin/env bash
# Make .venv-frameworks hold what deploy/dev/frameworks.txt names; nothing to do when it does already.
# By pip and not by uv: whoever keeps a small build of torch (for the CPU only) on a disk or an index of their own
# has told pip of it. Where nobody has, pip takes the default build, which is some GB.
set -euo pipefail
cd "$(dirname "$0")/../.."

wanted=deploy/dev/frameworks.txt
venv=.venv-frameworks
if cmp -s "$wanted" "$venv/complete"; then
  exit 0
fi
echo "make test-frameworks: installing $(grep -c '^[a-z]' "$wanted") packages into $venv (1.5 GB, once)"
rm -rf "$venv"
.venv/bin/python -m venv --without-pip "$venv"
if ! .venv/bin/python -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check -r "$wanted"; then
  echo "make test-frameworks: pip could not install what $wanted names; its own message stands above." >&2
  exit 1
fi
cp "$wanted" "$venv/complete"

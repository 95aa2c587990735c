#!/usr/bin/env bash
# `make fuzz SECONDS=60`: each target for so long, with coverage as the guide, in an environment of its own: the
# fuzzer's package has wheels for a few Pythons only, and nothing else needs it.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=$1
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
uv=.venv/bin/uv
if [[ ! -x .venv-fuzz/bin/python ]]; then
  "$uv" venv --quiet --no-project --python .venv/bin/python .venv-fuzz
fi
"$uv" pip install --quiet --python .venv-fuzz/bin/python 'atheris>=3,<4' -e shared -e agent -e controller

for name in decode hear; do
  work=.cache/fuzz/$name
  printf '\n=== %s, %s s\n' "$name" "$seconds"
  .venv-fuzz/bin/python -P tests/fuzz/drive.py fuzz "$name" "$seconds" "$work" 2>&1 |
    grep -vE '^#|INFO: |NEW_FUNC' | tail -25
  .venv/bin/python -P tests/fuzz/drive.py replay "$name" "$work"
done

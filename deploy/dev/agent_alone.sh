#!/usr/bin/env bash
# Install the agent from wheels, as a machine does, into an environment of its own, and import it there:
# what the controller needs must not be there, and what the agent needs must.
set -euo pipefail
cd "$(dirname "$0")/../.."

export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
uv=.venv/bin/uv
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

# The oldest Python that the agent promises, where this machine has it.
python=$("$uv" python find --no-project 3.10 2>/dev/null) || python=.venv/bin/python
"$uv" venv --quiet --clear --no-project --python "$python" .venv-agent
"$uv" build --quiet --wheel --out-dir "$wheels" --package runctl-shared
"$uv" build --quiet --wheel --out-dir "$wheels" --package runctl-agent
"$uv" pip install --quiet --python .venv-agent/bin/python --find-links "$wheels" runctl-agent

# In a folder of its own (-I too): the repository's root on sys.path would hide what the wheel lacks.
.venv-agent/bin/python -I - <<'PY'
import importlib.util
import pathlib
import sys

import runctl_agent
import runctl_agent.main
import runctl_shared

assert callable(runctl_agent.main.main)
for package in (runctl_agent, runctl_shared):
    folder = pathlib.Path(package.__file__).parent
    assert "site-packages" in folder.parts, f"{package.__name__} was not taken from its wheel: {folder}"
    assert (folder / "py.typed").exists(), f"{package.__name__} ships no py.typed"
CONTROLLERS = ("boto3", "click", "pydantic", "pydantic_settings", "rich", "runctl_controller", "sqlalchemy")
present = [name for name in CONTROLLERS if importlib.util.find_spec(name)]
assert not present, f"the agent's environment holds what only the controller needs: {present}"
print("agent alone: imports on Python", ".".join(map(str, sys.version_info[:3])))
PY

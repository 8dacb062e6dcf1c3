#!/usr/bin/env bash
# Makes the virtual environment that tests/litellm.rs runs its LiteLLM proxy
# in. The version is pinned: another one may speak another dialect.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
venv="${CARGO_TARGET_DIR:-$root/target}/litellm"
version=1.100.0

if [ -x "$venv/bin/python" ] \
  && "$venv/bin/python" -c "import importlib.metadata as m; assert m.version('litellm') == '$version'" 2>/dev/null
then
  echo "litellm $version is in $venv"
  exit 0
fi
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$version"
echo "litellm $version is in $venv"

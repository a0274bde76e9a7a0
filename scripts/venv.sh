# Sourced by the scripts next to it: a virtual environment with this checkout installed. An active
# one is used if bnn_tvm is in it; else .venv in the checkout is made. PYTHON names the interpreter
# for that (default python3; 3.10 to 3.13). Installs again when pyproject.toml has changed.
if [ -z "${VIRTUAL_ENV:-}" ] || ! command -v bnn-tvm >/dev/null; then
  python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || {
    echo "bnn_tvm needs Python 3.10 to 3.13; set PYTHON to one (found: $("$python" --version))" >&2
    exit 2
  }
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
  if ! cmp -s pyproject.toml .venv/installed.toml; then
    echo "installing into .venv ..."
    pip install --quiet --disable-pip-version-check -e ".[test]"
    cp pyproject.toml .venv/installed.toml
  fi
fi

#!/bin/sh
# Prints a Python that can make the project's virtual environment, or says what to install. $PYTHON, when set, is the only candidate.
set -u

fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'
lacks=''

for candidate in ${PYTHON:-python3 python3.12 python3.11 python}; do
    # A version manager's shim can be on the PATH and still not run.
    "$candidate" -c "$fits" 2>/dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        "$candidate" -c 'import sys; print(sys.executable)'
        exit 0
    fi
    lacks="${lacks:-$candidate}"
done

if [ -n "$lacks" ]; then
    version=$("$lacks" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$lacks is Python $version but has no 'venv' with pip; on Debian and Ubuntu: apt install python$version-venv" >&2
else
    echo "no Python 3.11 or 3.12 found (looked for: ${PYTHON:-python3 python3.12 python3.11 python});" \
        "on Debian 12: apt install python3 python3-venv; elsewhere name one: make PYTHON=/path/to/python3.12 ..." >&2
fi
exit 1

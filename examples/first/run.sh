#!/usr/bin/env bash
# Runs the README's first deployment and checks byte for byte, with times and
# modes, that the world is as it was. (The folder that merely holds shop.conf is
# no resource of the plan: it keeps the time at which a file was replaced in it.)
set -euo pipefail
export BACKSTAY_STATE=$PWD/state
picture() { (cd world && find . -mindepth 1 -printf '%p %y %m %T@ %s %l\n' | sort && find . -type f -exec sha256sum {} + | sort); }
before=$(picture)
backstay drill -f backstay.yaml --set WORLD="$PWD/world" -o drill.txt # on models: the world stays as it is
[[ $(picture) == "$before" ]] || { echo "the drill touched the world" >&2; exit 1; }
code=0
backstay deploy -f backstay.yaml --set WORLD="$PWD/world" || code=$?
[[ $code -eq 2 ]] || { echo "exit code $code, want 2 (rolled back)" >&2; exit 1; }
[[ $(picture) == "$before" ]] || { echo "the world is not as it was" >&2; diff <(echo "$before") <(picture) >&2; exit 1; }
backstay audit verify

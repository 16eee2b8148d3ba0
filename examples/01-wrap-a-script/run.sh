#!/usr/bin/env bash
set -euo pipefail
export BACKSTAY_STATE=$PWD/state
picture() { (cd "$1" && find . -printf '%p %y %m %T@ %s %l\n' | sort && find . -type f -exec sha256sum {} + | sort); }

echo "== bare: the script fails and leaves a mess"
cp -a app bare
./deploy.sh bare && { echo "the script was meant to fail" >&2; exit 1; }
[[ $(picture bare) != "$(picture app)" ]] || { echo "the bare script left no mess: the example shows nothing" >&2; exit 1; }

echo "== wrapped: the script fails and the world is as it was"
before=$(picture app)
code=0
backstay wrap --touch app -- ./deploy.sh app || code=$?
[[ $code -eq 2 ]] || { echo "exit code $code, want 2 (rolled back)" >&2; exit 1; }
[[ $(picture app) == "$before" ]] || { echo "not put back:" >&2; diff <(echo "$before") <(picture app) >&2; exit 1; }
backstay audit verify

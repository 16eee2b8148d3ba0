#!/usr/bin/env bash
set -euo pipefail
source ../shop/start.sh
source ../shop/proxy.sh
build_shop v1
build_shop v2
build_shop v3 -X main.failing=30

echo "== v1: the first release"
deploy v1
serves v1

load_start
echo "== v2 is good: 1 %, 10 %, 50 %, all of it"
deploy v2
serves v2

echo "== a drill of v3: what would rollback restore?"
backstay drill -f backstay.yaml --set VERSION=v3 --set SHOP="$SHOP" --set PROXY="$PROXY" -o drill.txt

echo "== v3 fails a third of its requests: back in one move at 1 %"
code=0
deploy v3 || code=$?
[[ $code -eq 2 ]] || fail "exit code $code, want 2 (rolled back)"
backstay report | grep -E 'time to (contain|undo)'
serves v2

echo "== v2 is taken back on purpose, in stages: v1 is warmed first"
backstay rollback --yes --through 20%,50%,100% --hold 200ms --release shop
serves v1
load_end
backstay proxy status --state proxy
backstay drift
backstay audit verify

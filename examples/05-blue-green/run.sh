#!/usr/bin/env bash
set -euo pipefail
source ../shop/start.sh
source ../shop/proxy.sh
build_shop v1
build_shop v2
build_shop v3 -X main.failing=100
build_shop v4 -X main.broken=/cart

CGO_ENABLED=0 go build -trimpath -o dist/cache ../shop/cache/main.go
port=$(free_port)
CACHE=http://127.0.0.1:$port
dist/cache -listen "127.0.0.1:$port" -shop "$SHOP" &
SHOP_PIDS+=($!)
deploy() { backstay deploy -f backstay.yaml --set VERSION="$1" --set SHOP="$SHOP" --set PROXY="$PROXY" --set CACHE="$CACHE"; }
cached() { [[ $(curl -fsS --max-time 5 "$CACHE/") == "shop $1" ]] || fail "the cache serves something else than $1"; }
rolled_back() {
	local code=0
	deploy "$1" || code=$?
	[[ $code -eq 2 ]] || fail "exit code $code, want 2 (rolled back)"
}

echo "== v1: the first release"
deploy v1
serves v1
cached v1

load_start
echo "== v2 is good: tested on its side, then all at once; the cache is purged"
deploy v2
serves v2
cached v2

echo "== v3 answers everything wrong: it fails its test, and no user ever saw it"
rolled_back v3
serves v2
cached v2

echo "== v4 passes its test, but the cart is broken: back in one move after the switch"
rolled_back v4
backstay report | grep -E 'time to (contain|undo)'
serves v2
cached v2
load_end
if grep -q v3 load.txt; then fail "a user saw v3"; fi
backstay proxy status --state proxy
backstay drift
backstay audit verify

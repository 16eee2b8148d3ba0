#!/usr/bin/env bash
set -euo pipefail
command -v haproxy > /dev/null || { echo "06-haproxy: haproxy is not installed: apt-get install haproxy" >&2; exit 1; }
source ../shop/start.sh
build_shop v1
build_shop v2
build_shop v3 -X main.failing=30

# A socket's path is short: HAProxy takes at most 97 bytes.
SOCKETS=$(mktemp -d /tmp/backstay-haproxy.XXXXXX)
trap 'end_shop; rm -rf "$SOCKETS"' EXIT
PORT=$(free_port)
HAPROXY=$SOCKETS/admin.sock
SHOP=http://127.0.0.1:$PORT
PORT=$PORT HAPROXY=$HAPROXY haproxy -db -f haproxy.cfg > haproxy.log 2>&1 &
SHOP_PIDS+=($!)
until_true test -S "$HAPROXY"
deploy() { backstay deploy -f backstay.yaml --set VERSION="$1" --set SHOP="$SHOP" --set HAPROXY="$HAPROXY"; }
serves() { [[ $(curl -fsS --max-time 5 "$SHOP/") == "shop $1" ]] || fail "$1 is not served"; }

echo "== v1: the first release"
deploy v1
serves v1

load_start
echo "== v2 is good: 10 %, 50 %, all of it"
deploy v2
serves v2

echo "== a drill of v3: what would rollback restore?"
backstay drill -f backstay.yaml --set VERSION=v3 --set SHOP="$SHOP" --set HAPROXY="$HAPROXY" -o drill.txt

echo "== v3 fails a third of its requests: back in one move at 10 %"
code=0
deploy v3 || code=$?
[[ $code -eq 2 ]] || fail "exit code $code, want 2 (rolled back)"
backstay report | grep -E 'time to (contain|undo)'
serves v2
load_end
backstay drift
backstay audit verify

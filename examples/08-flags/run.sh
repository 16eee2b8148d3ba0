#!/usr/bin/env bash
set -euo pipefail
export BACKSTAY_STATE=$PWD/state
pids=()
end() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for f in state/data/services/web/instances/*.json; do
		[[ -e $f ]] && kill "$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$f" | head -1)" 2>/dev/null
	done
	wait || true
}
trap end EXIT
fail() { echo "$*" >&2; exit 1; }
until_true() {
	for _ in $(seq 200); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.05
	done
	fail "never true: $*"
}
build() { CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$1 -X main.failing=$2" -o "dist/shop-$1" server/main.go; }
build v1 40
build v2 0

echo "== the flag, off; and the server that programs ask"
backstay flag set new-checkout --boolean --owner team-checkout --purpose "the new checkout" --reason "first stage"
backstay flag serve --listen 127.0.0.1:0 --json >serving.json 2>serve.log &
pids+=($!)
until_true grep -q addresses serving.json
FLAGS=http://$(grep -o '127.0.0.1:[0-9]*' serving.json | head -1)

deploy() {
	backstay deploy -f backstay.yaml --set VERSION="$1" --set FLAGS="$FLAGS"
	SHOP=http://127.0.0.1:$(sed -n 's/.*"port": *\([0-9]*\).*/\1/p' state/data/services/web/current | head -1)
}
expose() { backstay deploy -f expose.yaml --set SHOP="$SHOP"; }
users() {
	dist/shop-v2 -load "$SHOP" >load.txt 2>&1 &
	load=$!
	pids+=("$load")
}
enough() {
	local code=0
	kill -TERM "$load"
	wait "$load" || code=$?
	cat load.txt
	[[ $code -eq 0 ]] || fail "users of the old checkout noticed something"
}

echo "== v1 is deployed: nobody sees its new checkout"
deploy v1
users
[[ $(curl -fsS "$SHOP/checkout?user=ann") == "old checkout of v1" ]] || fail "ann sees the new checkout"

echo "== it is exposed, and fails for 40 % of those who get it: off again, by evidence"
code=0
expose || code=$?
[[ $code -eq 2 ]] || fail "exit code $code, want 2 (rolled back)"
backstay report | grep -A4 'Feature flags'
until_true sh -c "curl -fsS '$SHOP/checkout?user=qa-1' | grep -q 'old checkout of v1'"
enough

echo "== v1 stays deployed; v2 fixes its new checkout, and is exposed to all"
deploy v2
users
expose
until_true sh -c "curl -fsS '$SHOP/checkout?user=ann' | grep -q 'new checkout of v2'"

echo "== killed by hand in one command, and brought back by another"
backstay flag kill new-checkout --reason "a look at the switch"
until_true sh -c "curl -fsS '$SHOP/checkout?user=ann' | grep -q 'old checkout of v2'"
backstay flag restore new-checkout --reason "it works"
until_true sh -c "curl -fsS '$SHOP/checkout?user=ann' | grep -q 'new checkout of v2'"
enough
backstay flag history new-checkout
backstay drift
backstay audit verify

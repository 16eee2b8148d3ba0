#!/usr/bin/env bash
set -euo pipefail
export BACKSTAY_STATE=$PWD/state
trap 'for f in state/data/services/web/instances/*.json; do [[ -e $f ]] && kill "$(sed -n "s/.*\"pid\": *\([0-9]*\).*/\1/p" "$f" | head -1)" 2>/dev/null; done || true' EXIT

for v in v1 v2 v3; do
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$v" -o "dist/shop-$v" main.go
done

echo "== v1, then v2"
backstay deploy -f backstay.yaml --set VERSION=v1
backstay deploy -f backstay.yaml --set VERSION=v2
port=$(sed -n 's/.*"port": *\([0-9]*\).*/\1/p' state/data/services/web/current | head -1)
[[ $(curl -fsS "http://127.0.0.1:$port/") == "shop v2" ]] || { echo "v2 does not answer on port $port" >&2; exit 1; }

echo "== a drill of v3: what would rollback restore?"
drill() { backstay drill -f backstay.yaml --set VERSION=v3 -o drill.txt "$@"; }
drill --level D2 || { [[ $? -eq 5 ]] && drill; } # real steps in sandboxes; on models where they cannot be made

echo "== v3 crashes at start, under load on v2's port $port"
: > asked; : > failed
(while [[ ! -e stop ]]; do
	echo >> asked
	[[ $(curl -fsS --max-time 5 "http://127.0.0.1:$port/" 2>> errors) == "shop v2" ]] || echo >> failed
done) &
client=$!
code=0
backstay deploy -f backstay.yaml --set VERSION=v3 || code=$?
touch stop
wait "$client"
[[ $code -eq 2 ]] || { echo "exit code $code, want 2 (rolled back)" >&2; exit 1; }
echo "client: $(wc -l < asked) requests, $(wc -l < failed) failed"
[[ $(wc -l < asked) -gt 10 && ! -s failed ]] || { echo "requests failed, or too few were asked" >&2; cat errors >&2; exit 1; }
[[ $(curl -fsS "http://127.0.0.1:$port/") == "shop v2" ]] || { echo "v2 does not answer any more" >&2; exit 1; }
backstay drift
backstay audit verify

#!/usr/bin/env bash
# Measures flags: the OFREP server beside flagd's evaluator core behind the same
# HTTP and beside the frontend API of a real Unleash server with PostgreSQL (one
# machine, one run, the same 100 flags at 10 %, 16 clients), a kill until
# 50 clients have seen it, 10,000 flags with 50 rules each, one evaluation.
#
#   scripts/bench-flags.sh [TIME]     of each measurement (3s)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-3s}
work=$(mktemp -d)
pids=()
finish() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
go build -o "$work/backstay" ./cmd/backstay
cp -r internal/flag/testdata/flagd "$work/flagd"
(cd "$work/flagd" && go build -o ../peer .)

{
	echo '{"flags":{'
	for i in $(seq 0 99); do
		[[ $i -eq 0 ]] || echo ,
		echo "\"flag-$i\":{\"key\":\"flag-$i\",\"on\":true,\"salt\":\"s$i\",\"variations\":[true,false],\"offVariation\":1,\"fallthrough\":{\"rollout\":{\"variations\":[{\"variation\":0,\"weight\":10000},{\"variation\":1,\"weight\":90000}]}}}"
	done
	echo '}}'
} >"$work/flags.json"
export BACKSTAY_STATE=$work/state
"$work/backstay" flag import "$work/flags.json" --reason benchmark
"$work/backstay" flag serve --listen 127.0.0.1:0 --json >"$work/ours.json" 2>"$work/ours.log" &
pids+=($!)
"$work/peer" >"$work/peer.url" 2>"$work/peer.log" &
pids+=($!)
for _ in $(seq 200); do
	[[ -s $work/peer.url ]] && grep -q addresses "$work/ours.json" && break
	sleep 0.05
done
ours=http://$(grep -o '127.0.0.1:[0-9]*' "$work/ours.json" | head -1)
BACKSTAY_FLAG_SERVERS="backstay=$ours flagd-core=$(cat "$work/peer.url")" \
	go test -run '^$' -bench 'OFREP' -benchtime "$time" ./internal/flag
BACKSTAY_REAL=1 BACKSTAY_FLAG_SERVERS="backstay=$ours" \
	go test -run '^$' -bench 'Frontend' -benchtime "$time" ./internal/flag
go test -run '^$' -bench 'KillToSeen' -benchtime 50x ./internal/flag
go test -run '^$' -bench 'Load' -benchtime 1x ./internal/flag
go test -run '^$' -bench 'Evaluate' ./internal/flag/model

# Sourced by the examples: builds the shop and the client, starts the proxy on a
# free port with the route "shop", and ends everything at the exit.
export BACKSTAY_STATE=$PWD/state
SHOP_PIDS=()

fail() { echo "$*" >&2; exit 1; }

# free_port prints a port that nobody listens on.
free_port() { comm -23 <(seq 12000 19000 | sort) <(ss -tan 2>/dev/null | grep -o ':[0-9]*' | tr -d : | sort -u) | shuf -n 1; }

# build_shop VERSION [LDFLAGS...]: a version of the shop, with its faults.
build_shop() {
	local version=$1
	shift
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version $*" -o "dist/shop-$version" ../shop/server/main.go
}

end_shop() {
	local f pid
	for pid in "${SHOP_PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
	for f in state/data/services/*/instances/*.json; do
		[[ -e $f ]] && kill "$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$f" | head -1)" 2>/dev/null
	done
	wait || true
}
trap end_shop EXIT

# until_true COMMAND...: waits for at most ten seconds.
until_true() {
	local _
	for _ in $(seq 200); do
		"$@" > /dev/null 2>&1 && return
		sleep 0.05
	done
	fail "never true: $*"
}

# load_start [FLAGS...] and load_end: a client that asks all the time and counts.
load_start() {
	dist/load -url "$SHOP" "$@" > load.txt &
	LOAD=$!
	SHOP_PIDS+=("$LOAD")
}
load_end() {
	local code=0
	kill -TERM "$LOAD"
	wait "$LOAD" || code=$?
	cat load.txt
	[[ $code -eq 0 ]] || fail "requests failed, or too few were asked"
}

CGO_ENABLED=0 go build -trimpath -o dist/load ../shop/load/main.go

#!/usr/bin/env bash
# Runs examples/NAME/run.sh (all of them without a name), each in a fresh copy
# with the built binary first on PATH and its own state, home and temporary
# directory. Fails if one fails or is not there. `make examples` builds first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=$PWD
[[ -x bin/backstay ]] || { echo "examples: bin/backstay is not built: make build" >&2; exit 1; }

run() {
	local name=$1 work code=0
	if [[ ! -f examples/$name/run.sh ]]; then
		echo "examples: examples/$name/run.sh is not there" >&2
		return 1
	fi
	work=$(mktemp -d)
	mkdir "$work/home" "$work/tmp"
	cp -a "examples/$name" "$work/$name"
	cp -a examples/shop "$work/shop" # what several of them deploy
	echo "-- examples/$name"
	(
		cd "$work/$name"
		# Go's caches stay where they are; everything else is the example's own.
		GOMODCACHE=$(go env GOMODCACHE) GOCACHE=$(go env GOCACHE) GOFLAGS=${GOFLAGS:--buildvcs=false} \
			HOME=$work/home TMPDIR=$work/tmp XDG_STATE_HOME='' XDG_DATA_HOME='' XDG_CONFIG_HOME='' XDG_CACHE_HOME='' \
			PATH=$repository/bin:$PATH \
			timeout --kill-after=10 "${EXAMPLE_LIMIT:-300}" bash ./run.sh </dev/null
	) || code=$?
	if [[ $code -ne 0 ]]; then
		echo "examples: $name failed with exit code $code; its files are in $work" >&2
		return 1
	fi
	rm -rf "$work"
}

names=("$@")
if [[ ${#names[@]} -eq 0 ]]; then
	for f in examples/*/run.sh; do
		[[ -e $f ]] && names+=("$(basename "$(dirname "$f")")")
	done
fi
[[ ${#names[@]} -gt 0 ]] || { echo "examples: there are none" >&2; exit 1; }
bad=()
for name in "${names[@]}"; do
	run "$name" || bad+=("$name")
done
if [[ ${#bad[@]} -gt 0 ]]; then
	echo "examples: failed: ${bad[*]}" >&2
	exit 1
fi

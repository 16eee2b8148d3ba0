#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME, one after the other. A crasher is written
# to the package's testdata/fuzz by go test: commit it with the fix.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
found=0
while IFS=: read -r file target; do
	found=1
	dir=./$(dirname "$file")
	echo "-- $dir $target"
	go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" </dev/null
done < <(git ls-files --cached --others --exclude-standard -- '*_test.go' |
	xargs -r grep -oE '^func Fuzz[A-Za-z0-9_]+' -H | sed 's/:func /:/' | sort)
[[ $found -eq 1 ]] || { echo "fuzz: there are no fuzz targets" >&2; exit 1; }

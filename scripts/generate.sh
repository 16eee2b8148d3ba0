#!/usr/bin/env bash
# Writes the documents that the binary prints about itself.
#
#   scripts/generate.sh DIR       below DIR ("." is the repository)
#   scripts/generate.sh --check   compare with what is there; exit 1 on a difference
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# file | arguments of backstay that print it
documents='
docs/state-machine.md|docs state-machine
docs/reference/cli.md|docs cli
docs/reference/failures.md|docs failures
docs/reference/schema.json|docs schema
docs/reference/spec.md|docs spec
docs/reference/steps.md|docs steps
docs/reference/run.md|docs run
docs/reference/file.md|docs file
docs/reference/service.md|docs service
docs/reference/services.md|docs services
docs/reference/migrate.md|docs migrate
docs/reference/backfill.md|docs backfill
docs/reference/snapshot.md|docs snapshot
docs/reference/promote.md|docs promote
docs/reference/traffic.md|docs traffic
docs/reference/routes.md|docs routes
docs/reference/flag.md|docs flag
docs/reference/mitigations.md|docs mitigations
docs/reference/stores.md|docs stores
docs/reference/http.md|docs http
docs/reference/approve.md|docs approve
docs/reference/gate.md|docs gate
docs/reference/gates.md|docs gates
docs/reference/sources.md|docs sources
docs/reference/burn.md|docs burn
docs/reference/compare.md|docs compare
docs/reference/initialise.md|docs initialise
docs/reference/probe.md|docs probe
docs/reference/query.md|docs query
docs/reference/release.md|docs release
docs/reference/verify.md|docs verify
docs/reference/inputs.md|docs inputs
docs/reference/secrets.md|docs secrets
docs/reference/environments.md|docs environments
'

write() { # write DIR
	local file arguments
	while IFS='|' read -r file arguments; do
		[[ -n $file ]] || continue
		mkdir -p "$1/$(dirname "$file")"
		# shellcheck disable=SC2086 # a list of arguments
		go run ./cmd/backstay $arguments >"$1/$file.new" </dev/null
		mv "$1/$file.new" "$1/$file"
	done <<<"$documents"
}

if [[ ${1:?usage: generate.sh DIR or --check} != --check ]]; then
	write "$1"
	exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
write "$fresh"
stale=0
while IFS='|' read -r file _; do
	[[ -n $file ]] || continue
	diff -u "$file" "$fresh/$file" || { stale=1; echo "$file is out of date: make generate" >&2; }
done <<<"$documents"
exit "$stale"

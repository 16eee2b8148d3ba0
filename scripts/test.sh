#!/usr/bin/env bash
# The whole test run: real parts, lint, architecture, generated files, race tests,
# README's first command, examples. Later phases run although an earlier one
# failed, so that one run shows everything. It never asks anything and ends
# within LIMIT seconds. The last line is "N passed, N failed": tests and subtests
# as go test reports them, plus one for each other phase and example.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

# One way to build for all phases, that of the binary itself: on a fresh machine each
# further way compiles every dependency once more. Lint vets, so go test need not.
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:+$GOFLAGS }-trimpath -vet=off -ldflags=-w"

LIMIT=${BACKSTAY_TEST_LIMIT:-1770}
passed=0
failed=0
failures=()

left() { echo $((LIMIT - SECONDS > 1 ? LIMIT - SECONDS : 1)); }

# within runs a command, and ends it with all its children when the time is up
# or this script is told to stop. Tests of Ctrl-C need the default signals, which
# a shell takes from what it starts in the background.
within() {
	timeout --kill-after=15 "$(left)" env --default-signal=INT,QUIT "$@" &
	child=$!
	wait "$child"
}
child=
trap '[[ -z $child ]] || kill -TERM "$child" 2>/dev/null; kill $(jobs -p) 2>/dev/null; exit 130' INT TERM

ok() {
	passed=$((passed + 1))
	echo "ok: $1 (${SECONDS}s)"
}

fail() {
	failed=$((failed + 1))
	failures+=("$1")
	echo "FAILED: $1 (${SECONDS}s)" >&2
}

phase() { # phase NAME COMMAND...
	local name=$1
	shift
	echo "== $name"
	if within "$@"; then ok "$name"; else fail "$name"; fi
}

# The race tests count one by one, from go test's own records. SQLite itself, translated
# from C, is not instrumented: it has locks of its own, and most of a test's time would go
# there. (A package with generic types of sync must be: its copies of their code may be
# linked for all.) A process under the detector sleeps for a second before it ends, unless
# told otherwise, and sessions start hundreds.
race_tests() {
	local gotestsum=$1 log=bin/test.json pass bad skip
	echo "== race tests"
	rm -f "$log"
	CGO_ENABLED=1 GORACE=atexit_sleep_ms=10 BACKSTAY_REAL=$real within "$gotestsum" --format pkgname --format-hide-empty-pkg --jsonfile "$log" -- \
		-race -gcflags=modernc.org/sqlite/lib=-race=false -shuffle=on -count=1 -timeout "$(left)s" $(raced) -skip '^TestScriptsOnPostgres$'
	local code=$?
	[[ -f $log ]] || : >"$log"
	pass=$(records pass "$log")
	bad=$(records fail "$log")
	skip=$(records skip "$log")
	if [[ $code -ne 0 ]]; then
		failures+=("race tests (exit $code)")
		# A package that does not build, or a run cut short, fails no test by name.
		[[ $bad -gt 0 ]] || bad=1
	elif [[ $pass -eq 0 ]]; then
		failures+=("race tests: none ran")
		bad=1
	fi
	passed=$((passed + pass))
	failed=$((failed + bad))
	[[ -n $real ]] || echo "note: real servers are not installed; the tests that need them were skipped"
	[[ $skip -eq 0 ]] || echo "note: $skip tests skipped; gotestsum names them above with their reason"
}

# raced are the packages that run under the race detector: all but those in which nothing
# runs at once, and the hunts, which compute, write or keep users or databases busy for
# minutes. They have phases below, as have the sessions on PostgreSQL, which are the same
# ones, and those that start hundreds of sandboxes.
raced() { go list ./... | grep -vE "/internal/(archtest|$quiet|$hunts)\$"; }
quiet='analysis|flag/model|report|spec'
hunts='drill|driver/migration|sim|sim/(disk|kill|power|release|stats)'

records() { # records ACTION LOG: tests with this end; escaped quotes in output never match
	grep -cE "^\{\"Time\":\"[^\"]*\",\"Action\":\"$1\",\"Package\":\"[^\"]*\",\"Test\":" "$2" || true
}

# What mostly waits, one thing after the other, beside phases that compute: what a newcomer
# sees, the demo and the examples, and other people's programs. The logs come at the end.
shows() {
	local dir
	rm -rf bin/shows && mkdir -p bin/shows
	show "the demo" go run ./cmd/backstay demo
	for dir in examples/*/; do
		[[ ! -e $dir/run.sh ]] || show "example $(basename "$dir")" scripts/examples.sh "$(basename "$dir")"
	done
	show "flag stores on a real Unleash" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./internal/driver/flag -run '^TestUnleash$' -flag.unleash
	show "public migrations" env BACKSTAY_REAL="$real" go -C test/public test -count=1 -timeout "$(left)s" ./...
}

show() { # show NAME COMMAND...
	local name=$1
	shift
	# In a group of its own, so that the end of the time reaches its children.
	timeout --kill-after=15 "$(left)" env --default-signal=INT,QUIT "$@" >"bin/shows/$name.log" 2>&1
	echo $? >"bin/shows/$name.code"
}

shown() { # the ends of shows
	local log name
	wait "$1"
	for log in bin/shows/*.log; do
		name=$(basename "$log" .log)
		echo "== $name"
		cat "$log"
		if [[ $(cat "bin/shows/$name.code" 2>/dev/null) == 0 ]]; then ok "$name"; else fail "$name"; fi
	done
}

mkdir -p bin
phase "real parts" scripts/install-parts.sh
real=
if scripts/install-parts.sh --check; then real=1; fi
phase build make --no-print-directory build
phase lint make --no-print-directory lint
phase "generated files" make --no-print-directory verify
phase architecture go test -count=1 ./internal/archtest
gotestsum=$(make --no-print-directory --silent print-gotestsum) && race_tests "$gotestsum" || fail "build gotestsum"
phase "packages in which nothing runs at once" go test -count=1 -timeout "$(left)s" $(go list ./... | grep -E "/internal/($quiet)\$")
shows &
showing=$!
phase "every single fault" go test -count=1 -timeout "$(left)s" ./internal/sim -run '^TestDepth1$' -sim.full -sim.memory -sim.report "$PWD/bin/sim"
# The night plays every one of them on the real ledger.
phase "the simulator, and every twelfth fault on the real ledger" go test -count=1 -timeout "$(left)s" ./internal/sim -skip '^Test(Depth2|Schedules)$' -sim.stride 12
phase "drill, disks and statistics" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./internal/drill ./internal/sim/disk ./internal/sim/stats
phase "sessions on PostgreSQL" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./cmd/backstay -run '^TestScriptsOnPostgres$'
phase "sessions that drill" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./cmd/backstay -run '^TestScripts$/drill|^TestDrillDatabases$' -long
phase "every pair of faults over one plan" go test -count=1 -timeout "$(left)s" ./internal/sim -run '^TestDepth2$' -sim.pairs linear -sim.report "$PWD/bin/sim"
phase "random schedules" go test -count=1 -timeout "$(left)s" ./internal/sim -run '^TestSchedules$' -sim.schedules 100000 -sim.report "$PWD/bin/sim"
phase "mutants" make --no-print-directory mutants
phase "kills at every point" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./internal/sim/kill -kill.full
# A hundred of each, kills at every third point, and every way in which an exchange
# with a router can break are for the night.
phase "releases and rollbacks under load" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./internal/sim/release -release.full -release.rounds 4 -release.stride 40 -release.alike 10 -release.worse 3
phase "moves under load on every router" env BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./internal/driver/traffic -run '^Test(Proxy|HAProxy|Nginx)$/moves' -traffic.full
# Databases and images are laid and synced by the hundred and thousand: in memory, where
# there is such a place. What is killed there is processes, never the machine.
images=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
chmod 755 "$images" # database servers run as other users
phase "migrations, with kills of both sides" env TMPDIR="$images" BACKSTAY_REAL="$real" go test -count=1 -timeout "$(left)s" ./internal/driver/migration \
	-parallel 4 -migration.stride 7 -migration.kills 10 -migration.many -skip '^TestManyInserts$/^mariadb$'
phase "crash images of the ledger" env TMPDIR="$images" go -C test/crash test -count=1 -timeout "$(left)s" ./... -crash.full
phase "crash images of files" env TMPDIR="$images" go test -count=1 -timeout "$(left)s" ./internal/sim/power -power.full
rm -rf "$images"
phase "README's first command" scripts/readme.sh
shown "$showing"

if [[ ${#failures[@]} -gt 0 ]]; then
	printf 'failed: %s\n' "${failures[@]}"
fi
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]

package archtest

import "strings"

// module is the path of this module; the packages below are named relative to it.
const module = "github.com/backstay-dev/backstay"

// row says what one package may import besides the standard library and the
// root package.
type row struct {
	// dir is the package's folder; "" is the root. "internal/x/..." is every
	// folder below internal/x, a row of its own goes before it.
	dir string
	// may are the folders it may import. "internal/x/..." is x and all below;
	// "*" is anything.
	may []string
	// tests are the folders that its test files may import as well. Test
	// support (see support) and the package itself are always allowed to them.
	tests []string
	// alone forbids the root package and every other module but those in third.
	alone bool
	third []string
	// never are standard packages (and all below them) that its product files may
	// not import: what makes a pure package impure.
	never []string
	// is says what the package is, for ARCHITECTURE.md.
	is string
}

// kinds are the folders of step kinds. A kind may have folders below it.
func kinds() []string {
	return []string{"approve", "command", "file", "flag", "gate", "httpcall", "metric", "migration", "service", "traffic"}
}

// support are the packages that only tests (and each other) import.
func support() []string {
	return []string{
		"internal/archtest", "internal/driver/drivertest", "internal/driver/metric/sourcetest", "internal/ledger/ledgertest",
		"internal/parts", "internal/sim/...",
	}
}

// listers are the only packages that may know every step kind.
func listers() []string { return []string{"cmd/backstay", "internal/sim/..."} }

// io are the standard packages that reach outside the process.
func io(more ...string) []string {
	return append([]string{"net", "os/exec", "os/signal", "database/sql", "syscall", "math/rand"}, more...)
}

// table is who may import whom.
func table() []row {
	rows := []row{
		{dir: "", alone: true, never: io("os"), is: "the vocabulary: data and pure functions"},
		{dir: "internal/durable", alone: true, third: []string{"golang.org/x/sys"}, is: "the only place that renames, syncs and locks files"},
		{dir: "internal/spec", tests: in("driver/..."), never: io(), is: "backstay.yaml to Spec; strict, all problems at once"},
		{dir: "internal/analysis", never: io("os"), is: "sequential tests; the engine's Judge"},
		{dir: "internal/api", is: "wire types of the control plane"},
		{dir: "internal/proxy/wire", is: "what the data plane and its driver say to each other"},
		{dir: "internal/flag/model", never: io("os"), is: "flags: definitions, moves, evaluation by LaunchDarkly's library"},
		{dir: "internal/plan", may: in("spec"), never: io("os"), is: "Build(Spec, Observed) to a frozen Plan"},
		{dir: "internal/tree", may: in("durable"), is: "canonical file trees: read, compare, restore"},
		{dir: "internal/proc", may: in("durable"), is: "processes: start, identify, end as a whole group"},
		{dir: "internal/sandbox", alone: true, third: []string{"golang.org/x/sys"}, is: "a private, copy-on-write view of this host, for drills"},
		{dir: "internal/config", may: in("durable"), is: "settings of this host and user"},
		{dir: "internal/ledger", may: in("durable"), tests: in("ledger/..."), is: "append-only log, leases, epochs: the only truth"},
		{dir: "internal/ledger/sqlite", may: in("ledger", "durable"), is: "the embedded store"},
		{dir: "internal/ledger/postgres", may: in("ledger", "durable"), is: "the store that several nodes share"},
		{dir: "internal/ledger/ledgertest", may: in("ledger/...", "durable", "parts"), is: "conformance and fault suite of stores (tests)"},
		{dir: "internal/driver", is: "what step kinds share: contract, extensions, registry"},
	}
	for _, kind := range kinds() {
		may := in("driver", "driver/"+kind+"/...", "tree", "proc", "durable")
		var tests []string
		switch kind {
		case "traffic":
			may, tests = append(may, in("proxy/wire")...), in("proxy")
		case "metric":
			may, tests = append(may, in("proxy/wire", "analysis")...), in("proxy")
		case "flag":
			may, tests = append(may, in("flag/model")...), in("flag", "ledger/...")
		}
		rows = append(rows, row{dir: "internal/driver/" + kind + "/...", may: may, tests: tests, is: "a step kind: do and undo in one file"})
	}
	return append(rows, []row{
		{dir: "internal/driver/all", may: append(in("driver", "tree", "proc", "durable"), kindDirs()...), is: "the explicit list of kinds"},
		{dir: "internal/driver/drivertest", may: append(in("driver", "tree", "proc", "durable", "parts", "flag/model"), kindDirs()...), is: "conformance suite of kinds (tests)"},
		{dir: "internal/engine", may: in("plan", "ledger"), tests: in("ledger/...", "spec"), is: "the saga: transition table, pure decision, runner, recovery"},
		{dir: "internal/fault", may: in("driver"), is: "fault points that drill and simulator share"},
		{dir: "internal/flag", may: in("ledger", "flag/model", "durable"), tests: in("ledger/..."), is: "own flag store and OFREP server"},
		{dir: "internal/drill", may: in("engine", "plan", "ledger", "driver", "fault"), tests: in("ledger/..."), is: "faults over a user's plan; the matrix"},
		{dir: "internal/audit", may: in("ledger", "plan"), tests: in("ledger/..."), is: "verify the tree, checkpoints, export; reads the ledger only"},
		{dir: "internal/report", may: in("ledger", "plan"), tests: in("ledger/..."), is: "timeline, runbook, post-incident report; reads the ledger only"},
		{dir: "internal/proxy", may: in("durable", "proxy/wire", "flag", "flag/model"), is: "the data plane, a process of its own"},
		{dir: "internal/ui", may: in("api", "report"), is: "the web interface"},
		{dir: "internal/server", may: serverMay(), is: "the control plane's API"},
		{dir: "internal/cli", may: append(serverMay(), in("server", "proxy", "proxy/wire", "alert", "control", "demo", "sandbox")...), is: "verbs, exit codes, terminal"},
		{dir: "internal/demo", alone: true, is: "a shop and its users, for `backstay demo`"},
		{dir: "internal/alert", is: "alerts of monitors, by webhook"},
		{dir: "internal/control", may: in("durable"), is: "the socket by which other users steer a deployment"},
		{dir: "internal/parts", may: in("durable"), is: "real servers for tests: PostgreSQL, HAProxy, nginx (tests)"},
		{dir: "internal/archtest", alone: true, third: []string{"github.com/google/go-cmp"}, is: "this table as a test (tests)"},
		{dir: "internal/sim/...", may: []string{"*"}, is: "deterministic simulator and fault store (tests)"},
		{dir: "cmd/backstay", may: []string{"*"}, is: "wiring"},
		{dir: "examples/...", alone: true, is: "users' programs: the standard library only"},
	}...)
}

func serverMay() []string {
	return in("api", "spec", "plan", "engine", "ledger/...", "audit", "report", "drill", "flag", "flag/model", "ui", "config")
}

func kindDirs() []string {
	var dirs []string
	for _, kind := range kinds() {
		dirs = append(dirs, "internal/driver/"+kind+"/...")
	}
	return dirs
}

// in puts names below internal/.
func in(names ...string) []string {
	dirs := make([]string, len(names))
	for i, n := range names {
		dirs[i] = "internal/" + n
	}
	return dirs
}

// allowance lets one package make a call that only internal/durable makes.
type allowance struct{ dir, call, why string }

// allowances are the exceptions to "only internal/durable renames, syncs and
// locks files". call is as the problem names it.
func allowances() []allowance {
	return nil
}

// decided are the engine's pure files: the decision is a function of the
// entries, so no clock, goroutine or I/O is in them.
func decided() []string {
	return []string{"internal/engine/fold.go", "internal/engine/next.go", "internal/engine/state.go"}
}

// covers reports whether the pattern names the folder.
func covers(pattern, dir string) bool {
	if pattern == "*" || pattern == dir {
		return true
	}
	base, below := strings.CutSuffix(pattern, "/...")
	return below && (dir == base || strings.HasPrefix(dir, base+"/"))
}

func anyCovers(patterns []string, dir string) bool {
	for _, p := range patterns {
		if covers(p, dir) {
			return true
		}
	}
	return false
}

// find returns the row of a folder: its own, else one that covers it.
func find(rows []row, dir string) (row, bool) {
	for _, r := range rows {
		if r.dir == dir {
			return r, true
		}
	}
	for _, r := range rows {
		if covers(r.dir, dir) {
			return r, true
		}
	}
	return row{}, false
}

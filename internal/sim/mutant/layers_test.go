package mutant

// layer is one way to test, with what its test binary is told.
type layer struct {
	name string
	pkg  string // below the repository
	args []string
}

// layers are in the order of their cost. A mutant names those that concern it.
func layers() []layer {
	first := []string{"-test.failfast", "-sim.first"}
	sim := func(name string, args ...string) layer {
		return layer{name, "internal/sim", append(args, first...)}
	}
	return []layer{
		sim("regressions", "-test.run=^TestRegressions$", "-sim.memory"),
		sim("faults", "-test.run=^TestDepth1$", "-sim.memory", "-sim.stride=7"),
		sim("faults on the real ledger", "-test.run=^TestDepth1$", "-sim.stride=11"),
		{"ledger", "internal/ledger/sqlite", []string{"-test.failfast"}},
		{"durable", "internal/durable", []string{"-test.failfast"}},
		{"engine", "internal/engine", []string{"-test.failfast", "-test.timeout=30s"}}, // what hangs is caught
		{"audit", "internal/audit", []string{"-test.failfast"}},
		{"drivers", "internal/driver/file", []string{"-test.failfast"}},
		sim("every fault", "-test.run=^TestDepth1$", "-sim.memory", "-sim.full"),
		sim("pairs", "-test.run=^TestDepth2$", "-sim.pairs=linear"),
		sim("schedules", "-test.run=^TestSchedules$", "-sim.schedules=20000"),
		{"disk", "internal/sim/disk", []string{"-test.failfast"}},
		{"kills", "internal/sim/kill", []string{"-test.failfast"}},
		// Crash images: {"crash images", "internal/sim/crash", []string{"-test.failfast"}},
	}
}

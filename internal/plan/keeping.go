package plan

import (
	"encoding/json"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// The kinds that migrate databases, and take snapshots of them.
const (
	migrateKind  = "migrate"
	snapshotKind = "snapshot"
)

// migrateConfig are the keys of a migrate step that make a snapshot step of it.
type migrateConfig struct {
	Migrate struct {
		Database string          `json:"database"`
		Allow    []string        `json:"allow"`
		Snapshot json.RawMessage `json:"snapshot"`
	} `json:"migrate"`
}

// dumpKeys are the long form of snapshot in a migrate step.
type dumpKeys struct {
	Database string `json:"database"`
	Most     int    `json:"most"`
	Verify   *bool  `json:"verify"`
}

type snapshotConfig struct {
	Snapshot snapshotKeys `json:"snapshot"`
}

type snapshotKeys struct {
	Database string `json:"database"`
	Into     string `json:"into,omitempty"`
	Most     int    `json:"most,omitempty"`
	Verify   *bool  `json:"verify,omitempty"`
}

// keep puts a snapshot step in front of a migrate step that asks for a dump of its
// database. The migrate step keeps its name.
func (x *expansion) keep(st spec.Step) {
	var c migrateConfig
	var dump dumpKeys
	if json.Unmarshal(st.Config, &c) == nil && json.Unmarshal(c.Migrate.Snapshot, &dump) == nil && dump.Database != "" {
		before := spec.Step{
			ID: st.ID + "." + snapshotKind, Kind: snapshotKind, Stage: st.Stage, Needs: st.Needs, Line: st.Line, Column: st.Column,
			Config: backstay.Canonical(snapshotConfig{snapshotKeys{Database: c.Migrate.Database, Into: dump.Database, Most: dump.Most, Verify: dump.Verify}}),
		}
		x.steps = append(x.steps, before)
		x.keeps[before.ID] = st.ID
		st.Needs = []string{before.ID}
	}
	x.steps = append(x.steps, st)
}

// needed leaves out the snapshots for migrations of which the survey says that
// they can be taken back: nothing of the data is destroyed.
func (b *builder) needed(steps []spec.Step) []spec.Step {
	out := make([]spec.Step, 0, len(steps))
	for _, st := range steps {
		if of, keeps := b.expanded.keeps[st.ID]; keeps {
			if migrate, seen := b.seen.Steps[of]; seen && migrate.Class != backstay.Irreversible {
				continue
			}
		}
		out = append(out, st)
	}
	for i, st := range out {
		needs := slices.Clone(st.Needs)
		for n, need := range st.Needs {
			if b.expanded.keeps[need] != st.ID || slices.ContainsFunc(out, func(o spec.Step) bool { return o.ID == need }) {
				continue
			}
			at := slices.IndexFunc(steps, func(o spec.Step) bool { return o.ID == need })
			needs = slices.Replace(needs, n, n+1, steps[at].Needs...)
		}
		out[i].Needs = needs
	}
	return out
}

// warnUnkept warns of migrations that destroy something while nothing keeps it:
// neither the step itself, nor a snapshot of the same database before it.
func (b *builder) warnUnkept(steps []backstay.Step, reach []bitset) {
	configs := map[string]json.RawMessage{}
	for _, st := range b.spec.Steps {
		configs[st.ID] = st.Config
	}
	taken := func(i int, database string) bool {
		for j := range i {
			var c snapshotConfig
			if steps[j].Kind == snapshotKind && reach[i].has(j) && json.Unmarshal(configs[steps[j].ID], &c) == nil && c.Snapshot.Database == database {
				return true
			}
		}
		return false
	}
	for i := range steps {
		s := &steps[i]
		var c migrateConfig
		if s.Kind != migrateKind || s.Class != backstay.Irreversible || json.Unmarshal(configs[s.ID], &c) != nil {
			continue
		}
		if len(c.Migrate.Allow) == 0 || len(c.Migrate.Snapshot) > 0 || taken(i, c.Migrate.Database) {
			continue
		}
		s.Warnings = append(slices.Clone(s.Warnings), "nothing keeps what it destroys: say `snapshot: table` or `snapshot: {database: DIR}` in the step, or put a snapshot step before it")
	}
}

package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

// The parts of a database's state: what the tool's table says, and one part per
// object of the schema dump.
const (
	partVersions = "versions"
	partSchema   = "schema "
)

// keyOf names a database.
func keyOf(dialect string, id database.Identity) backstay.Key {
	return backstay.Key(backstay.SchemaKind + ":" + session.Name(dialect, id))
}

// Observe reads the versions and the schema.
func (*Kind) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	if len(call.Step.Keys) != 1 {
		return nil, fmt.Errorf("look at migrate step %s: it has %d keys, not 1", call.Step.ID, len(call.Step.Keys))
	}
	key := call.Step.Keys[0]
	state, err := b.state(ctx, call)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read the database: %w", context.Cause(ctx))
	}
	if err != nil {
		return backstay.Image{key: {Unreadable: err.Error()}}, nil
	}
	return backstay.Image{key: state}, nil
}

func (b body) state(ctx context.Context, call backstay.Call) (state backstay.ResourceState, err error) {
	t, err := b.reach(ctx, call, "")
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	state, err = look(ctx, t.d, t.conn, b.versions(t.d))
	if err == nil && call.Blobs != nil && len(b.Checked) > 0 {
		// Only what is kept as evidence: other looks need not read all rows.
		state.Beside = b.readRows(ctx, t.d, t.conn)
	}
	return state, err
}

// look reads the canonical state of a database.
func look(ctx context.Context, d database.Dialect, q database.Querier, tool database.VersionTable) (backstay.ResourceState, error) {
	schema, err := d.Schema(ctx, q)
	if err != nil {
		return backstay.ResourceState{}, err //nolint:wrapcheck // says what it did
	}
	tables, err := d.Tables(ctx, q)
	if err != nil {
		return backstay.ResourceState{}, err //nolint:wrapcheck // says what it did
	}
	_, there := tables[tool.Table]
	applied, err := tool.Read(ctx, q, there)
	if err != nil {
		return backstay.ResourceState{}, err //nolint:wrapcheck // says what it did
	}
	parts := map[string]json.RawMessage{partVersions: backstay.Canonical(applied)}
	for object, text := range schema {
		parts[partSchema+object] = backstay.Canonical(text)
	}
	return backstay.ResourceState{Parts: parts}, nil
}

// Probe says how far an interrupted do came, by its markers.
func (*Kind) Probe(ctx context.Context, call backstay.Call) (finding backstay.Finding, err error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Unknown, err
	}
	t, err := b.reach(ctx, call, "")
	if err != nil {
		return backstay.Unknown, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	marks, err := marked(ctx, database.NewOwn(t.d, call.Deployment, call.Step.ID, call.Token), t)
	if err != nil {
		return backstay.Unknown, err
	}
	return marks.finding(b), nil
}

// finding: all applied, none begun, or something in between.
func (m marks) finding(b body) backstay.Finding {
	done, begun := 0, 0
	for _, c := range b.Pending {
		if w, ok := m.whole[c.Version]; ok && w.State == database.Ended {
			done++
		}
		begun += len(m.up[c.Version])
	}
	_, tableMade := m.whole[""]
	switch {
	case done == len(b.Pending):
		return backstay.Applied
	case done == 0 && begun == 0 && !tableMade:
		return backstay.NotApplied
	}
	return backstay.Partial
}

// Reap ends sessions of this deployment that outlived their process.
func (*Kind) Reap(ctx context.Context, call backstay.Call) (err error) {
	b, err := decode(call.Step)
	if err != nil {
		return err
	}
	t, err := b.reach(ctx, call, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	return t.d.Reap(ctx, t.conn, t.identity, call.Deployment) //nolint:wrapcheck // says what it did
}

// marks are a step's markers by what they speak of.
type marks struct {
	whole map[string]database.Marker // by version; "" is the tool's table
	up    map[string]map[int]database.Marker
	down  map[string]map[int]database.Marker
}

// marked reads the markers; none where Backstay has no tables there yet.
func marked(ctx context.Context, own database.Own, t *target) (marks, error) {
	m := marks{whole: map[string]database.Marker{}, up: map[string]map[int]database.Marker{}, down: map[string]map[int]database.Marker{}}
	all, err := own.Markers(ctx, t.conn)
	if t.d.Missing(err) {
		return m, nil
	}
	if err != nil {
		return m, err //nolint:wrapcheck // says what it did
	}
	for _, mark := range all {
		switch {
		case mark.IsWhole() && mark.Direction == database.Up:
			m.whole[mark.Version] = mark
		case mark.Direction == database.Up:
			put(m.up, mark)
		default:
			put(m.down, mark)
		}
	}
	return m, nil
}

func put(into map[string]map[int]database.Marker, m database.Marker) {
	if into[m.Version] == nil {
		into[m.Version] = map[int]database.Marker{}
	}
	into[m.Version][m.Statement] = m
}

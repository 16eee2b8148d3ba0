package migration

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// partRows begins what stands beside a database's state of a table's rows.
const partRows = "rows "

const (
	// rowsWithin bounds one reading of all rows.
	rowsWithin = time.Minute
	// rowsPlanned is what the reading for the plan may take: where it fits, one
	// beside a migration is unlikely not to.
	rowsPlanned = rowsWithin / 2
)

// checked is a table whose rows are counted and summed over the columns that it
// had when the plan was made; names are quoted.
type checked struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

// rowsOf is what is said of a table's rows. Sum follows from the rows' contents
// alone, whatever their order; equal sums of other rows are not to be expected.
type rowsOf struct {
	Rows int64  `json:"rows"`
	Sum  string `json:"sum,omitempty"`
	// Missing are columns that are not there now; there is no sum then.
	Missing []string `json:"missing,omitempty"`
	Unread  string   `json:"unread,omitempty"` // why it could not be read
}

// notes takes the names of a statement.
func (p *preparer) notes(st sqltext.Statement) {
	for _, name := range p.names(st) {
		p.named[name] = true
	}
	for _, f := range st.Findings {
		p.opaque = p.opaque || f.Effect == sqltext.Opaque || f.Rule == "drop-schema" || f.Rule == "drop-owned"
	}
}

// names are those of a statement as the list of tables writes them, spelled.
func (p *preparer) names(st sqltext.Statement) (all []string) {
	home := p.d.Quote(p.body.Identity.Schema) + "."
	for _, name := range st.Qualified {
		if !slices.Contains(p.body.Qualified, name) {
			p.body.Qualified = append(p.body.Qualified, name)
		}
	}
	p.body.Reaches = cmp.Or(p.body.Reaches, st.Reaches)
	for _, name := range st.Names {
		all = append(all, spelled(p.body.Dialect, strings.TrimPrefix(name, home)))
	}
	return all
}

// spelled is a name in the one spelling in which it is looked for: only
// PostgreSQL tells names of other cases apart.
func spelled(dialect, name string) string {
	if dialect == "postgres" {
		return name
	}
	return strings.ToLower(name)
}

// touches reports whether the pending migrations name a table, or may touch it
// without.
func (p *preparer) touches(table string) bool {
	return table != p.body.Table && (p.opaque || p.named[spelled(p.body.Dialect, table)])
}

// checkRows freezes which rows are counted, and reads them once: what cannot be
// read in time is refused before anything begins.
func (p *preparer) checkRows(ctx context.Context, t *target) error {
	if p.cfg.Check == "" || len(p.problems) > 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.tables)) {
		if !p.touches(name) {
			continue
		}
		c := checked{Table: name}
		for _, column := range slices.Sorted(maps.Keys(p.tables[name].Columns)) {
			if !p.tables[name].Columns[column].Computed {
				c.Columns = append(c.Columns, column)
			}
		}
		p.body.Checked = append(p.body.Checked, c)
	}
	within, cancel := context.WithTimeoutCause(ctx, rowsPlanned, fmt.Errorf("not within %s", rowsPlanned))
	defer cancel()
	for _, c := range p.body.Checked {
		if _, err := c.read(within, t.d, t.conn, p.tables); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx) //nolint:wrapcheck // why it ended
			}
			p.refuse("check", "leave `check` out, or have the user read these tables", "the rows of %s cannot be read: %v", bare(c.Table), ended(within, err))
			return nil
		}
	}
	return nil
}

func (b body) checkedNames() (names []string) {
	for _, c := range b.Checked {
		names = append(names, bare(c.Table))
	}
	return names
}

// read counts and sums the rows of a table; nil where it is not there.
func (c checked) read(ctx context.Context, d database.Dialect, q database.Querier, tables database.Tables) (*rowsOf, error) {
	t, there := tables[c.Table]
	if !there {
		return nil, nil //nolint:nilnil // there are none
	}
	var out rowsOf
	some := t
	some.Columns = map[string]database.Column{} // of a table without columns the rows are counted
	for _, name := range c.Columns {
		if column, ok := t.Columns[name]; ok {
			some.Columns[name] = column
		} else {
			out.Missing = append(out.Missing, bare(name))
		}
	}
	rows, digest, err := d.Values(ctx, q, some, "")
	if out.Rows = rows; len(out.Missing) == 0 {
		sum := sha256.Sum256([]byte(digest))
		out.Sum = hex.EncodeToString(sum[:8])
	}
	return &out, err //nolint:wrapcheck // says what it did
}

// readRows reads the rows of all checked tables. A table that cannot be read says
// so: nothing is held for it.
func (b body) readRows(ctx context.Context, d database.Dialect, q database.Querier) map[string]json.RawMessage {
	ctx, cancel := context.WithTimeoutCause(ctx, rowsWithin, fmt.Errorf("not within %s", rowsWithin))
	defer cancel()
	out := map[string]json.RawMessage{}
	tables, unlisted := d.Tables(ctx, q)
	for _, c := range b.Checked {
		var rows *rowsOf
		err := unlisted
		if err == nil {
			rows, err = c.read(ctx, d, q, tables)
		}
		if err != nil {
			rows = &rowsOf{Unread: ended(ctx, err).Error()}
		}
		if rows != nil {
			out[partRows+bare(c.Table)] = backstay.Canonical(rows)
		}
	}
	return out
}

// compareRows says how the rows differ after an undo from those before the step.
func (r *run) compareRows(ctx context.Context) string {
	if len(r.body.Checked) == 0 || len(r.call.Step.Keys) != 1 {
		return ""
	}
	before := r.call.Before[r.call.Step.Keys[0]].Beside
	if len(before) == 0 {
		return ""
	}
	now := r.body.readRows(ctx, r.d, r.conn)
	var differ []string
	for _, c := range r.body.Checked {
		part := partRows + bare(c.Table)
		if string(before[part]) == string(now[part]) {
			r.say("rows of %s: as before", bare(c.Table))
			continue
		}
		words := fmt.Sprintf("%s (%s before, %s now)", bare(c.Table), rowWords(before[part]), rowWords(now[part]))
		r.say("rows of %s", words)
		differ = append(differ, words)
	}
	if len(differ) == 0 {
		return fmt.Sprintf("; the rows of %s read as before", list(r.body.checkedNames()))
	}
	return fmt.Sprintf("; rows differ from before in %s: others wrote there since, or the migrations did and their downs do not change it back", list(differ))
}

// rowWords are a table's rows in words.
func rowWords(raw json.RawMessage) string {
	var rows rowsOf
	switch {
	case raw == nil:
		return "no table"
	case json.Unmarshal(raw, &rows) != nil || rows.Unread != "":
		return "not read: " + rows.Unread
	case len(rows.Missing) > 0:
		return fmt.Sprintf("%d without %s", rows.Rows, list(rows.Missing))
	}
	return fmt.Sprintf("%s, sum %s", count(int(rows.Rows), "row"), rows.Sum)
}

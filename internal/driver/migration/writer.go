package migration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

// writer adds rows to tables that were there before, all the time.
type writer struct {
	s       *session.Session
	tables  []*written
	why     string // there are none
	stop    context.CancelFunc
	stopped chan struct{}
}

// written is one table that it writes to.
type written struct {
	backstay.DrillRows
	name   string // quoted
	before int64  // rows that were there
	insert func(n int64) string
}

const (
	// writeEvery is how long a writer rests between rows.
	writeEvery = 5 * time.Millisecond
	// writeWithin bounds one row: a migration may hold the table longer.
	writeWithin = 2 * time.Second
	// mostTables are as many tables as are written to.
	mostTables = 8
)

// startWriter finds tables that take rows, and begins.
func (b body) startWriter(ctx context.Context, secrets backstay.Secrets) (_ *writer, err error) {
	w := &writer{stopped: make(chan struct{}), stop: func() {}}
	if w.s, err = session.Open(ctx, secrets, b.Address, ""); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if err := w.find(ctx, b.Table); err != nil {
		return nil, errors.Join(err, w.s.Close())
	}
	if len(w.tables) == 0 {
		close(w.stopped)
		return w, nil
	}
	ctx, w.stop = context.WithCancel(ctx)
	go w.write(ctx)
	return w, nil
}

// find looks for tables that take a row that is made of nothing but the types of
// their columns.
func (w *writer) find(ctx context.Context, versions string) error {
	tables, err := w.s.Dialect.Tables(ctx, w.s.Conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	w.why = "there is no table yet that somebody could write to"
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if name == versions || len(w.tables) == mostTables {
			continue
		}
		w.why = "no table takes a row that is made of the types of its columns alone"
		for _, generated := range []bool{true, false} {
			t := &written{name: name, insert: inserts(tables[name], generated)}
			if _, err := w.s.Conn.ExecContext(ctx, t.insert(0)); err != nil {
				continue // another table may
			}
			if err := w.s.Conn.QueryRowContext(ctx, "SELECT count(*) FROM "+name).Scan(&t.before); err != nil {
				return fmt.Errorf("look at the database: %w", w.s.Dialect.Classify(err))
			}
			t.before--
			t.Table, t.Written = bare(name), 1
			w.tables = append(w.tables, t)
			break
		}
	}
	return nil
}

// inserts are statements that add a row; the key is left to the database where it
// is generated.
func inserts(t database.Table, generated bool) func(n int64) string {
	return func(n int64) string {
		var names, values []string
		for _, name := range slices.Sorted(maps.Keys(t.Columns)) {
			c := t.Columns[name]
			value, known := literal(c.Type, n)
			if c.Computed || c.Default != "" || !known || generated && slices.Contains(t.Key, name) {
				continue
			}
			names, values = append(names, name), append(values, value)
		}
		return "INSERT INTO " + t.Name + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(values, ", ") + ")"
	}
}

// write writes until it is stopped. A row that nobody acknowledged may be there or
// not.
func (w *writer) write(ctx context.Context) {
	defer close(w.stopped)
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for n := int64(1); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t := w.tables[n%int64(len(w.tables))]
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWithin)
		_, err := w.s.DB.ExecContext(one, t.insert(n))
		switch {
		case err == nil:
			t.Written++
		case one.Err() != nil:
			t.Unknown++
		}
		cancel()
	}
}

// end ends the writer and counts its rows.
func (w *writer) end(ctx context.Context) (all []backstay.DrillRows, err error) {
	w.stop()
	<-w.stopped
	defer func() { err = errors.Join(err, w.s.Close()) }()
	if len(w.tables) == 0 {
		return []backstay.DrillRows{{Why: w.why}}, nil
	}
	tables, err := w.s.Dialect.Tables(ctx, w.s.Conn)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	for _, t := range w.tables {
		if _, there := tables[t.name]; there {
			if err := w.s.Conn.QueryRowContext(ctx, "SELECT count(*) FROM "+t.name).Scan(&t.Found); err != nil {
				return nil, fmt.Errorf("count the writer's rows: %w", w.s.Dialect.Classify(err))
			}
			t.Found -= t.before
		}
		all = append(all, t.DrillRows)
	}
	return all, nil
}

var (
	length = regexp.MustCompile(`\((\d+)\)`)
	member = regexp.MustCompile(`^enum\(('(?:[^']|'')*')`)
)

// literal is a value of a type, another one for each n where the type has enough
// of them. Small numbers are left to migrations, which may write rows with keys.
func literal(kind string, n int64) (value string, known bool) {
	kind = strings.ToLower(kind)
	begins := func(all ...string) bool {
		return slices.ContainsFunc(all, func(p string) bool { return strings.HasPrefix(kind, p) })
	}
	text := func(s string) string {
		if m := length.FindStringSubmatch(kind); m != nil {
			if most, err := strconv.Atoi(m[1]); err == nil && len(s) > most {
				s = s[len(s)-most:] // the end tells them apart
			}
		}
		return "'" + s + "'"
	}
	switch {
	case begins("bool"):
		return "true", true
	case begins("tinyint"):
		return strconv.FormatInt(n%100, 10), true
	case begins("smallint"):
		return strconv.FormatInt(20_000+n%10_000, 10), true
	case begins("int", "bigint", "mediumint"):
		return strconv.FormatInt(1_000_000+n, 10), true
	case begins("numeric", "decimal", "real", "double", "float"):
		return strconv.FormatInt(n%10, 10), true
	case begins("timestamp", "datetime"):
		return "'2026-01-01 00:00:00'", true
	case begins("date"):
		return "'2026-01-01'", true
	case begins("time"):
		return "'00:00:00'", true
	case begins("uuid"):
		return fmt.Sprintf("'00000000-0000-4000-8000-%012d'", n), true
	case begins("json"):
		return "'{}'", true
	case begins("enum("):
		m := member.FindStringSubmatch(kind)
		return strings.Join(m[min(1, len(m)):], ""), m != nil
	case begins("char", "varchar", "text", "citext", "tinytext", "mediumtext", "longtext", "clob", "character", "nchar", "nvarchar"):
		return text(fmt.Sprintf("drill %d", n)), true
	case begins("bytea", "blob", "binary", "varbinary"):
		return text(fmt.Sprintf("%d", n)), true
	}
	return "", false
}

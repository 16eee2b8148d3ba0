package migration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/clients"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/proc"
)

// rehearsal looks at a database without the help of what drives migrations, and
// has somebody write to it meanwhile.
type rehearsal struct {
	b      body
	call   backstay.Call
	before []string
	writer *writer
}

// Rehearse takes a picture of the database and begins to write to it.
func (*Kind) Rehearse(ctx context.Context, call backstay.Call) (out backstay.Rehearsal, err error) {
	b, err := decode(call.Step)
	if err != nil {
		return out, err
	}
	r := &rehearsal{b: b, call: call}
	if out.Files, err = b.files(call.Secrets); err != nil {
		return out, err
	}
	if r.before, err = r.picture(ctx); err != nil {
		return out, err
	}
	if r.writer, err = b.startWriter(ctx, call.Secrets); err != nil {
		return out, err
	}
	out.End = r.end
	return out, nil
}

func (r *rehearsal) end(ctx context.Context) (out backstay.Rehearsed, err error) {
	if out.Wrote, err = r.writer.end(ctx); err != nil {
		return out, err
	}
	after, err := r.picture(ctx)
	if err != nil {
		return out, err
	}
	for _, line := range lacking(r.before, after) {
		out.Differs = append(out.Differs, "gone: "+line)
	}
	for _, line := range lacking(after, r.before) {
		out.Differs = append(out.Differs, "new: "+line)
	}
	if line := moved(r.before, after); line != "" && len(out.Differs) == 0 {
		out.Differs = append(out.Differs, "at another place: "+line)
	}
	return out, nil
}

// moved is the first line that stands at another place than before; empty: none does.
// Columns in another order are another table, since rows are inserted by it; keys are not.
func moved(before, after []string) string {
	is := func(line string) bool { return keyed.MatchString(line) }
	before, after = slices.DeleteFunc(slices.Clone(before), is), slices.DeleteFunc(slices.Clone(after), is)
	for i, line := range after {
		if i >= len(before) || before[i] != line {
			return line
		}
	}
	return ""
}

// keyed are the lines of MariaDB's and MySQL's tables that name no column first.
var keyed = regexp.MustCompile("^ *(?:(?:UNIQUE |FULLTEXT |SPATIAL )?KEY|CONSTRAINT) ")

// lacking are the lines of the first that the second has not as often.
func lacking(first, second []string) []string {
	times := map[string]int{}
	for _, line := range second {
		times[line]++
	}
	var out []string
	for _, line := range first {
		if times[line]--; times[line] < 0 {
			out = append(out, line)
		}
	}
	return out
}

// picture is the schema as the database's own program writes it, and the rows of
// the tool's version table.
func (r *rehearsal) picture(ctx context.Context) (lines []string, err error) {
	s, err := session.Open(ctx, r.call.Secrets, r.b.Address, "")
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if r.b.Dialect == "sqlite" {
		lines, err = column(ctx, s, "SELECT type || ' ' || name || ' on ' || tbl_name || ': ' || coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'backstay\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'backstay\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
		slices.Sort(lines) // each is an object whole
	} else {
		lines, err = r.dumped(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	tables, err := s.Dialect.Tables(ctx, s.Conn)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if _, there := tables[r.b.Table]; there {
		versions, err := column(ctx, s, "SELECT * FROM "+r.b.Table)
		if err != nil {
			return nil, err
		}
		slices.Sort(versions) // nothing says in which order they come
		for _, row := range versions {
			lines = append(lines, "row of "+r.b.Table+": "+row)
		}
	}
	return lines, nil
}

// counted is the position of automatic numbers, which no rollback takes back.
var counted = regexp.MustCompile(` AUTO_INCREMENT=\d+`)

// dumped are the lines of a schema dump.
func (r *rehearsal) dumped(ctx context.Context, s *session.Session) (lines []string, err error) {
	if program := clients.Missing(clients.Dumpers(r.b.Dialect, false)); program != "" {
		return nil, fmt.Errorf("look at the schema: %s is not there", program)
	}
	d := clients.Dump{Only: clients.Schema, Text: true}
	if d.URL, err = session.URL(r.call.Secrets, r.b.Address); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if d.Without, err = ownTables(ctx, s); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "backstay-look-")
	if err != nil {
		return nil, fmt.Errorf("look at the schema: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d.File = filepath.Join(dir, "schema.sql")
	host := clients.Host{Dir: dir, Token: proc.Token{Deployment: "drill", Step: "look"}}
	if err := host.Dump(ctx, r.b.Dialect, d); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	text, err := os.ReadFile(d.File)
	if err != nil {
		return nil, fmt.Errorf("look at the schema: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n,") // the last of a table has no comma, whichever it is
		switch {
		case line == "", strings.HasPrefix(line, "--"), strings.HasPrefix(line, `\restrict `), strings.HasPrefix(line, `\unrestrict `):
		default:
			lines = append(lines, counted.ReplaceAllString(line, ""))
		}
	}
	return lines, nil
}

// column are the rows of a query, each as one text.
func column(ctx context.Context, s *session.Session, query string) (out []string, err error) {
	rows, err := s.Conn.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("look at the database: %w", s.Dialect.Classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	names, err := rows.Columns()
	if err != nil {
		return nil, fmt.Errorf("look at the database: %w", err)
	}
	for rows.Next() {
		values, into := make([]sql.NullString, len(names)), make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, fmt.Errorf("look at the database: %w", err)
		}
		var parts []string
		for _, v := range values {
			parts = append(parts, v.String)
		}
		out = append(out, strings.Join(parts, " "))
	}
	return out, rows.Err()
}

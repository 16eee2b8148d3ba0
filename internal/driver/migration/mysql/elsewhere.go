package mysql

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// Databases lists those of the server that the user sees, but for the one that the
// session is in. A statement that names one acts there, wherever the session is.
func Databases(ctx context.Context, q database.Querier) (names []string, err error) {
	rows, err := q.QueryContext(ctx, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME <> DATABASE()")
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list databases: %w", err)
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

var qualifier = regexp.MustCompile("(`(?:[^`]|``)+`|[\\w$]+)\\s*\\.")

// qualifiers are the names before dots: of databases, tables or aliases. They are
// looked for in the whole text, in bodies, comments that servers execute, and
// strings that are statements too.
func qualifiers(text string) (all []string) {
	for _, m := range qualifier.FindAllStringSubmatch(text, -1) {
		name := strings.ReplaceAll(strings.Trim(m[1], "`"), "``", "`")
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// Elsewhere is the first of the names that is one of the databases; empty: none is.
func Elsewhere(names, databases []string) string {
	for _, name := range names {
		if slices.ContainsFunc(databases, func(d string) bool { return strings.EqualFold(d, name) }) {
			return name
		}
	}
	return ""
}

// engines keep their rows in other places.
var engines = regexp.MustCompile(`(?i)ENGINE=(FEDERATED|CONNECT|SPIDER)\b`)

// Leads says how a dump leads out of its database, once it is loaded into another:
// by the body of a trigger, routine, event or view that names a database, or by a
// table of another place; empty: it does not.
func Leads(dump string, databases []string) string {
	if engine := engines.FindString(dump); engine != "" {
		return "a table with " + engine
	}
	for _, d := range databases {
		name := regexp.QuoteMeta(d)
		if regexp.MustCompile("(?i)(?:^|[^\\w$`.])(?:`" + name + "`|" + name + ")\\s*\\.\\s*[`\\w]").MatchString(dump) {
			return "something that names the database " + d
		}
	}
	return ""
}

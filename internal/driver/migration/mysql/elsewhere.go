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

// gap is what may stand between two words: blanks, comments, and where comments that
// servers execute begin and end.
const gap = `(?:[\s\x0b]|/\*M?!\d*|\*/|(?s:/\*.*?\*/)|--(?:[ \t][^\n]*)?\n|#[^\n]*\n)`

// How a name can be written, and what stands before one of what a statement makes,
// drops or goes to.
const (
	bare   = `([\w$\x{80}-\x{10FFFF}]+)`
	back   = "(`(?:[^`]|``)+`)"
	double = `("(?:[^"]|"")+")`
	verb   = `(?i)\b(?:DATABASE|SCHEMA|USE)\b` + gap + `*(?:(?:IF|NOT|EXISTS)` + gap + `+)*`
	dot    = gap + `*\.`
)

var (
	bareDot   = regexp.MustCompile(bare + dot)
	backDot   = regexp.MustCompile(back + dot)
	doubleDot = regexp.MustCompile(double + dot)
	behind    = regexp.MustCompile(verb + "(?:" + bare + "|" + back + "|" + double + ")")
	// opener begins a comment that servers execute, some only from a version on.
	opener = regexp.MustCompile(`/\*M?!\d{0,6}`)
	// skipped is one that a server does not execute.
	skipped = regexp.MustCompile(`(?s)/\*M?!.*?\*/`)
)

// qualifiers are the names before dots (of databases, tables or aliases), and those
// behind DATABASE, SCHEMA and USE. They are looked for in the whole text, in bodies,
// comments that servers execute, and strings that are statements too.
func qualifiers(text string) (all []string) {
	for _, reading := range []string{text, opener.ReplaceAllString(text, " ")} {
		// Each by itself: what looks like a name of one kind may hold others.
		for _, n := range []*regexp.Regexp{bareDot, backDot, doubleDot, behind} {
			for _, m := range n.FindAllStringSubmatch(reading, -1) {
				if name := unquoted(strings.Join(m[1:], "")); !slices.Contains(all, name) {
					all = append(all, name)
				}
			}
		}
	}
	return all
}

func unquoted(name string) string {
	q := name[:1]
	if q != "`" && q != `"` {
		return name
	}
	return strings.ReplaceAll(name[1:len(name)-1], q+q, q)
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
	text := opener.ReplaceAllString(dump, " ")
	for _, d := range databases {
		name := "(?:" + regexp.QuoteMeta(quote(d)) + "|" + regexp.QuoteMeta(`"`+strings.ReplaceAll(d, `"`, `""`)+`"`) + "|" + regexp.QuoteMeta(d) + ")"
		before := regexp.MustCompile("(?i)(?:^|[^\\w$`.\\x{80}-\\x{10FFFF}])" + name + dot + gap + "*[`\"\\w$\\x{80}-\\x{10FFFF}]")
		after := regexp.MustCompile(verb + name + "(?:[^\\w$\\x{80}-\\x{10FFFF}]|$)")
		if before.MatchString(text) || after.MatchString(text) {
			return "something that names the database " + d
		}
	}
	return ""
}

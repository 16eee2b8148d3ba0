package sqlite

import (
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Parse cuts a script into statements. There is no grammar of SQLite here: what
// a statement does is told from its first words, which SQLite's small ALTER
// TABLE allows.
func (d Dialect) Parse(script files.Script, known *database.Known) ([]sqltext.Statement, []sqltext.Problem) {
	// SQLite runs all statements of a text, so each is told apart and judged, also where
	// a tool is told to take the text as one.
	chunks := slices.Clone(script.Chunks)
	for i := range chunks {
		chunks[i].Whole = false
	}
	pieces, problems := sqltext.Pieces(sqltext.SQLite(), chunks)
	p := parser{d: d, known: known, none: script.NoTransaction}
	for _, piece := range pieces {
		p.all = append(p.all, words{sqltext.Tokens(sqltext.SQLite(), piece.Text), piece})
	}
	p.all = sqltext.Unwrap(p.all,
		func(w words) bool { return w.is(0, "BEGIN") },
		func(w words) bool { return w.is(0, "COMMIT") || w.is(0, "END") })
	var out []sqltext.Statement
	for i, w := range p.all {
		st := sqltext.Statement{Text: w.piece.Text, Line: w.piece.Line, Mode: sqltext.Inside}
		p.classify(&st, w, p.all[i+1:])
		st.Keeps = keeps(w)
		for _, t := range w.tokens {
			if t.Kind == sqltext.Word || t.Kind == sqltext.Name {
				st.Names = append(st.Names, d.Quote(t.Bare()))
			}
		}
		for _, f := range st.Findings {
			if f.Effect == sqltext.Refused {
				problems = append(problems, sqltext.Problem{Line: st.Line, Message: f.Why, Hint: f.Advice})
			}
		}
		out = append(out, st)
	}
	return out, problems
}

// keeps reports whether a statement certainly changes no value of what stays. DROP
// TABLE may: with foreign keys on, it deletes its rows first.
func keeps(w words) bool {
	switch {
	case w.is(0, "CREATE", "TABLE"):
		return !w.has("AS")
	case w.is(0, "ALTER", "TABLE"):
		return w.has("ADD") && !w.has("DROP") && !w.has("RENAME")
	}
	for _, kind := range [][]string{{"CREATE", "INDEX"}, {"CREATE", "UNIQUE", "INDEX"}, {"CREATE", "VIEW"}, {"DROP", "INDEX"}, {"DROP", "VIEW"}} {
		if w.is(0, kind...) {
			return true
		}
	}
	return false
}

type words struct {
	tokens []sqltext.Token
	piece  sqltext.Piece
}

func (w words) is(i int, all ...string) bool {
	for j, word := range all {
		if i+j >= len(w.tokens) || !w.tokens[i+j].Is(word) {
			return false
		}
	}
	return true
}

// name reads a name, with its schema if it has one, and gives its last part.
func (w words) name(i int) string {
	for _, skip := range [][]string{{"IF", "NOT", "EXISTS"}, {"IF", "EXISTS"}} {
		if w.is(i, skip...) {
			i += len(skip)
		}
	}
	if i >= len(w.tokens) {
		return ""
	}
	if i+2 < len(w.tokens) && w.tokens[i+1].Text == "." {
		i += 2
	}
	return w.tokens[i].Bare()
}

// has reports whether a keyword stands outside of all parentheses.
func (w words) has(word string) bool {
	return slices.ContainsFunc(w.tokens, func(t sqltext.Token) bool { return t.Depth == 0 && t.Is(word) })
}

type parser struct {
	d     Dialect
	known *database.Known
	none  bool // the script runs outside of a transaction
	all   []words
}

func (p *parser) classify(st *sqltext.Statement, w words, later []words) {
	say := func(f sqltext.Finding) { st.Findings = append(st.Findings, f) }
	first := ""
	if len(w.tokens) > 0 && w.tokens[0].Kind == sqltext.Word {
		first = strings.ToUpper(w.tokens[0].Text)
	}
	switch first {
	case "BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE":
		say(sqltext.Finding{Rule: "transaction", Effect: sqltext.Refused, Why: first + " would take the transaction out of Backstay's hands", Advice: "remove it: a migration is one transaction"})
	case "ATTACH", "DETACH":
		say(sqltext.Finding{Rule: "other-database", Effect: sqltext.Refused, Why: first + " reaches for another database, which nothing here puts back", Advice: "give that database a migrate step of its own"})
	case "VACUUM":
		if w.has("INTO") {
			say(sqltext.Finding{Rule: "other-database", Effect: sqltext.Refused, Why: "VACUUM INTO writes another file, which nothing here puts back", Advice: "use a snapshot step"})
		}
		st.Mode = sqltext.Outside
		say(sqltext.Finding{Rule: "vacuum", Effect: sqltext.Rewrites, Why: "the whole file is written anew", Lock: "nobody writes meanwhile"})
	case "PRAGMA":
		p.pragma(st, w)
	case "CREATE":
		p.create(st, w)
	case "DROP":
		p.drop(st, w, later)
	case "ALTER":
		p.alter(st, w)
	case "INSERT", "REPLACE", "WITH":
		st.Writes = true
	case "UPDATE", "DELETE":
		p.change(st, w, first)
	case "SELECT", "VALUES", "ANALYZE", "REINDEX", "EXPLAIN":
	default:
		say(sqltext.Finding{Rule: "opaque", Effect: sqltext.Opaque, Why: "this is no statement that is known here"})
	}
	if st.Mode == sqltext.Outside && !p.none {
		say(sqltext.Finding{Rule: "transaction", Effect: sqltext.Refused, Why: first + " cannot run inside a transaction", Advice: "mark the migration as one without a transaction"})
	}
}

func (p *parser) pragma(st *sqltext.Statement, w words) {
	name := strings.ToLower(w.name(1))
	switch name {
	case "user_version", "application_id", "foreign_key_check", "integrity_check", "quick_check", "optimize":
	case "foreign_keys", "legacy_alter_table", "defer_foreign_keys":
		if p.none {
			st.Mode = sqltext.Session
		} else if name == "foreign_keys" {
			st.Findings = append(st.Findings, sqltext.Finding{Rule: "transaction", Effect: sqltext.Refused, Why: "PRAGMA foreign_keys does nothing inside a transaction", Advice: "mark the migration as one without a transaction, or remove it"})
		}
	default:
		st.Findings = append(st.Findings, sqltext.Finding{Rule: "setting", Effect: sqltext.Refused, Object: name, Why: "PRAGMA " + name + " changes how the database works, and nothing here puts that back", Advice: "set it outside of migrations"})
	}
}

func (p *parser) create(st *sqltext.Statement, w words) {
	i := 1
	for w.is(i, "TEMP") || w.is(i, "TEMPORARY") || w.is(i, "UNIQUE") || w.is(i, "VIRTUAL") {
		i++
	}
	switch {
	case w.is(i, "TABLE"):
		p.known.Created(p.d.Quote(w.name(i + 1)))
		st.Writes = w.has("AS")
	case w.is(i, "INDEX"):
		for j, t := range w.tokens {
			if t.Is("ON") && t.Depth == 0 {
				if table := w.name(j + 1); !p.known.New(p.d.Quote(table)) {
					st.Findings = append(st.Findings, sqltext.Finding{Rule: "create-index", Effect: sqltext.Locks, Object: table, Why: "writers wait until the index is built", Lock: "the database's write lock"})
				}
				break
			}
		}
	}
}

func (p *parser) drop(st *sqltext.Statement, w words, later []words) {
	name := w.name(2)
	switch {
	case w.is(1, "INDEX"):
		st.Drops = []sqltext.Dropped{{Index: p.d.Quote(name)}}
	case w.is(1, "TABLE"):
		st.Drops = []sqltext.Dropped{{Table: p.d.Quote(name)}}
		if p.known.New(p.d.Quote(name)) {
			return
		}
		f := sqltext.Finding{Rule: "drop-table", Effect: sqltext.Destructive, Object: name, Why: "the table and its rows are gone"}
		for _, l := range later {
			if l.is(0, "ALTER", "TABLE") && l.has("RENAME") && l.has("TO") && l.tokens[len(l.tokens)-1].Bare() == name {
				f.Rule, f.Why = "rebuild-table", "another table takes its place: rows and columns that were not copied are gone"
			}
		}
		st.Findings = append(st.Findings, f)
	case w.is(1, "VIEW"), w.is(1, "TRIGGER"):
		st.Findings = append(st.Findings, sqltext.Finding{Rule: "drop-object", Effect: sqltext.Incompatible, Object: name, Why: "the version that runs now may use it", Advice: "drop it once no running version does"})
	}
}

func (p *parser) alter(st *sqltext.Statement, w words) {
	table := w.name(2)
	fresh := p.known.New(p.d.Quote(table))
	say := func(f sqltext.Finding) {
		if !fresh {
			st.Findings = append(st.Findings, f)
		}
	}
	switch {
	case w.has("RENAME"):
		if w.tokens[len(w.tokens)-2].Is("TO") && w.is(len(w.tokens)-3, "RENAME") {
			if fresh {
				p.known.Created(p.d.Quote(w.tokens[len(w.tokens)-1].Bare()))
			}
			say(sqltext.Finding{Rule: "rename-table", Effect: sqltext.Incompatible, Object: table, Why: "the version that runs now knows the old name", Advice: "add the new one, copy, switch, drop the old one in a later release"})
			return
		}
		say(sqltext.Finding{Rule: "rename-column", Effect: sqltext.Incompatible, Object: table, Why: "the version that runs now knows the old name", Advice: "add the new one, copy, switch, drop the old one in a later release"})
	case w.has("DROP"):
		st.Drops = []sqltext.Dropped{{Table: p.d.Quote(table), Column: p.d.Quote(w.tokens[len(w.tokens)-1].Bare())}}
		say(sqltext.Finding{Rule: "drop-column", Effect: sqltext.Destructive, Object: table, Why: "the column's values are gone"})
		say(sqltext.Finding{Rule: "drop-column-rewrite", Effect: sqltext.Rewrites, Object: table, Why: "every row is written anew", Lock: "the database's write lock"})
	}
}

func (p *parser) change(st *sqltext.Statement, w words, verb string) {
	st.Writes = true
	if w.has("WHERE") {
		return
	}
	table := w.name(1)
	if verb == "DELETE" {
		table = w.name(2)
	}
	if p.known.New(p.d.Quote(table)) {
		return
	}
	if verb == "DELETE" {
		st.Findings = append(st.Findings, sqltext.Finding{Rule: "delete-all", Effect: sqltext.Destructive, Object: table, Why: "all rows are gone"})
		return
	}
	st.Findings = append(st.Findings, sqltext.Finding{Rule: "update-all", Effect: sqltext.Locks, Object: table, Why: "every row is written in one transaction", Lock: "the database's write lock", Advice: "use a backfill step"})
}

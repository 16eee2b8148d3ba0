// Package sqltext is what the databases say about the statements of a
// migration: where each begins, how it must run, what it does to those who use
// the schema, and how a half-done one is told from a done one. It also owns the
// scanner that splits a script into statements for the databases without a
// grammar of their own here (MariaDB, MySQL, SQLite).
//
// It is text in, data out: nothing here talks to a database.
package sqltext

import (
	"cmp"
	"fmt"
	"slices"
)

// Mode is how a statement can run.
type Mode string

// The modes.
const (
	// Inside: within a transaction, together with its marker row.
	Inside Mode = "inside"
	// Outside: the database refuses it inside a transaction, or commits by
	// itself. What it did is read from the schema.
	Outside Mode = "outside"
	// Session: it changes this session only, and is repeated when a script is
	// taken up again in the middle.
	Session Mode = "session"
)

// Effect is what a statement does to others.
type Effect string

// The effects, mildest first.
const (
	Safe         Effect = "safe"
	Locks        Effect = "locks"        // others wait while it runs
	Rewrites     Effect = "rewrites"     // the whole table is written anew
	Incompatible Effect = "incompatible" // the version that runs now may fail on the new schema
	Opaque       Effect = "opaque"       // nothing here can tell what it does
	Destructive  Effect = "destructive"  // rows or values are gone for good
	Refused      Effect = "refused"      // it would take the transaction, or the server, out of Backstay's hands
)

// NeedsAllow reports whether a statement with this effect runs only if the spec
// allows its rule by name.
func (e Effect) NeedsAllow() bool { return e == Destructive || e == Opaque }

// Finding is one thing that a rule says about a statement.
type Finding struct {
	Rule   string `json:"rule"`
	Effect Effect `json:"effect"`
	Object string `json:"object,omitempty"` // what it happens to, as the statement names it
	Lock   string `json:"lock,omitempty"`   // the lock that others wait for
	Why    string `json:"why"`
	Advice string `json:"advice,omitempty"`
}

func (f Finding) String() string {
	s := f.Rule
	if f.Object != "" {
		s += " " + f.Object
	}
	s += ": " + f.Why
	if f.Lock != "" {
		s += " (" + f.Lock + ")"
	}
	return s
}

// Statement is one statement of a script.
type Statement struct {
	Text string `json:"text"`
	Line int    `json:"line"` // in its file, from 1
	Mode Mode   `json:"mode"`
	// Writes says that it may change rows.
	Writes bool `json:"writes,omitempty"`
	// Keeps says that it certainly changes no value of a table or column that stays.
	Keeps    bool      `json:"keeps,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
	// Probe tells a done statement that ran outside of a transaction from one
	// that was not begun. Nil: it may be repeated.
	Probe *Probe `json:"probe,omitempty"`
	// Drops is what it drops, as far as that is told from the statement.
	Drops []Dropped `json:"drops,omitempty"`
	// Names are the quoted names in it that may be those of tables whose rows it
	// touches: all that are, and others. What is opaque may touch more.
	Names []string `json:"-"`
	// Qualified are names in it that may be those of databases: of MariaDB and MySQL,
	// where a statement reaches other databases of the server by them.
	Qualified []string `json:"-"`
	// Reaches says what it acts on outside of its database, wherever it runs: roles and
	// databases of the server, or what a connection of its own leads to (PostgreSQL).
	Reaches string `json:"-"`
}

// Dropped is a table, a column or an index that a statement drops; names are
// quoted.
type Dropped struct {
	Table  string `json:"table,omitempty"`
	Column string `json:"column,omitempty"`
	Index  string `json:"index,omitempty"`
}

func (d Dropped) String() string {
	switch {
	case d.Index != "":
		return "index " + d.Index
	case d.Column != "":
		return "column " + d.Table + "." + d.Column
	}
	return "table " + d.Table
}

// Probe is what to look for after a statement that may have been cut off.
type Probe struct {
	// Kind is "index" (it must be there and valid), "no-index" (it must be
	// gone), or "schema" (the schema differs from what it was).
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
	// Clean takes back a half-done statement, so that it can be repeated.
	Clean string `json:"clean,omitempty"`
}

// Problem is something that is wrong with a script.
type Problem struct {
	Line    int
	Message string
	Hint    string
}

func (p Problem) String() string { return fmt.Sprintf("line %d: %s", p.Line, p.Message) }

// Worst is the gravest effect among findings; Safe where there are none.
func Worst(all []Finding) Effect {
	worst := Safe
	for _, f := range all {
		if f.Effect.rank() > worst.rank() {
			worst = f.Effect
		}
	}
	return worst
}

func (e Effect) rank() int {
	return slices.Index([]Effect{Safe, Locks, Rewrites, Incompatible, Opaque, Destructive, Refused}, e)
}

// Rules lists the rules that a spec may allow, with what each means.
func Rules() []Rule {
	all := []Rule{
		{"drop-table", Destructive, "a table with its rows"},
		{"drop-column", Destructive, "a column with its values"},
		{"drop-schema", Destructive, "a schema or database with all in it"},
		{"truncate", Destructive, "all rows of a table"},
		{"delete-all", Destructive, "DELETE without WHERE: all rows of a table"},
		{"change-type", Destructive, "a column's type that may hold less than before"},
		{"drop-owned", Destructive, "all that a role owns"},
		{"rebuild-table", Destructive, "a table that another one takes the place of"},
		{"opaque", Opaque, "code or a statement that cannot be looked into: DO, CALL, a function, or one that the parser does not know"},
	}
	slices.SortFunc(all, func(a, b Rule) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Rule is a rule that a spec may allow.
type Rule struct {
	Name   string
	Effect Effect
	Means  string
}

package mysql

import (
	"regexp"
	"slices"
	"strings"

	"github.com/pingcap/tidb/pkg/parser"
	"github.com/pingcap/tidb/pkg/parser/ast"
	_ "github.com/pingcap/tidb/pkg/parser/test_driver" // the literals of the grammar: TiDB itself has others

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Parse cuts a script into statements with Backstay's own scanner (it knows
// DELIMITER and the bodies of routines, as the mysql client does) and judges
// each with TiDB's grammar of MySQL. What that grammar does not know (MariaDB's
// own statements, bodies of routines) is judged by its first words, or opaque.
func (Dialect) Parse(script files.Script, known *database.Known) ([]sqltext.Statement, []sqltext.Problem) {
	pieces, problems := sqltext.Pieces(sqltext.MySQL(), script.Chunks)
	is := func(first string) func(sqltext.Piece) bool {
		return func(p sqltext.Piece) bool {
			tokens := sqltext.Tokens(sqltext.MySQL(), p.Text)
			return len(tokens) > 0 && tokens[0].Is(first) || first == "BEGIN" && len(tokens) == 2 && tokens[0].Is("START") && tokens[1].Is("TRANSACTION")
		}
	}
	pieces = sqltext.Unwrap(pieces, is("BEGIN"), is("COMMIT"))
	grammar := parser.New()
	var out []sqltext.Statement
	for _, piece := range pieces {
		j := judge{known: known, st: sqltext.Statement{Text: piece.Text, Line: piece.Line, Mode: sqltext.Outside, Qualified: qualifiers(piece.Text)}}
		tokens := sqltext.Tokens(sqltext.MySQL(), piece.Text)
		if len(tokens) == 0 {
			continue
		}
		node, err := grammar.ParseOneStmt(piece.Text, "", "")
		if err != nil || executable(piece.Text) {
			j.words(tokens)
		} else {
			j.statement(node, piece.Text)
			j.st.Keeps = keeps(node)
			node.Accept(&tables{&j.st.Names})
		}
		for _, f := range j.st.Findings {
			if f.Effect == sqltext.Refused {
				problems = append(problems, sqltext.Problem{Line: j.st.Line, Message: f.Why, Hint: f.Advice})
			}
		}
		out = append(out, j.st)
	}
	return out, problems
}

// executable comments are read differently by each server.
func executable(text string) bool {
	return strings.Contains(text, "/*!") || strings.Contains(text, "/*M!")
}

// keeps reports whether a statement certainly changes no value of what stays.
func keeps(node ast.StmtNode) bool {
	switch n := node.(type) {
	case *ast.CreateTableStmt:
		return n.Select == nil
	case *ast.CreateIndexStmt, *ast.CreateViewStmt, *ast.DropTableStmt, *ast.DropIndexStmt:
		return true
	case *ast.AlterTableStmt:
		return !slices.ContainsFunc(n.Specs, func(spec *ast.AlterTableSpec) bool {
			return spec.Tp != ast.AlterTableAddColumns && spec.Tp != ast.AlterTableAddConstraint
		})
	}
	return false
}

type judge struct {
	known *database.Known
	st    sqltext.Statement
}

func (j *judge) say(f sqltext.Finding) { j.st.Findings = append(j.st.Findings, f) }

func (j *judge) refuse(rule, why, advice string) {
	j.say(sqltext.Finding{Rule: rule, Effect: sqltext.Refused, Why: why, Advice: advice})
}

const metadataLock = "metadata lock: readers and writers wait"

// words judges a statement that the grammar does not know.
func (j *judge) words(tokens []sqltext.Token) {
	first := strings.ToUpper(tokens[0].Text)
	creates := func(words ...string) bool {
		for _, t := range tokens[1:min(len(tokens), 16)] {
			for _, w := range words {
				if t.Is(w) {
					return true
				}
			}
		}
		return false
	}
	for _, reading := range []*regexp.Regexp{opener, skipped} {
		if outside(sqltext.Tokens(sqltext.MySQL(), reading.ReplaceAllString(j.st.Text, " "))) {
			j.refuse("outside", "it changes the session, the server or another database, which nothing here puts back", "do it outside of migrations, or in a run step with an undo")
			return
		}
	}
	switch {
	case first == "CREATE" && creates("TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "PACKAGE", "SEQUENCE", "VIEW"):
		return // new code runs later; creating it changes nothing else
	case first == "DROP" && creates("TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "PACKAGE", "SEQUENCE", "VIEW"):
		j.say(sqltext.Finding{Rule: "drop-object", Effect: sqltext.Incompatible, Why: "the version that runs now may use it"})
		return
	case first == "START" || first == "BEGIN" || first == "COMMIT" || first == "ROLLBACK" || first == "SAVEPOINT" || first == "LOCK" || first == "UNLOCK" || first == "XA":
		j.refuse("transaction", first+" would take the session out of Backstay's hands", "remove it")
		return
	case first == "LOAD" || first == "USE" || first == "SOURCE":
		j.refuse("outside", first+" reaches out of the database", "remove it")
		return
	}
	j.say(sqltext.Finding{Rule: "opaque", Effect: sqltext.Opaque, Why: "the grammar of MySQL that is used here does not know this statement"})
}

// outside reports whether a statement that the grammar does not know, or that stands
// in a comment which servers execute, changes more than its database.
func outside(tokens []sqltext.Token) bool {
	at := 0
	is := func(words ...string) bool {
		return at < len(tokens) && slices.ContainsFunc(words, tokens[at].Is)
	}
	if is("SET") && len(tokens) > 1 && tokens[1].Is("STATEMENT") { // settings for the statement behind FOR
		for at < len(tokens) && !is("FOR") {
			at++
		}
		at++
	}
	switch {
	case is("CREATE", "ALTER", "DROP"):
		for at++; is("OR", "REPLACE"); {
			at++
		}
		return is("DATABASE", "SCHEMA", "USER", "ROLE", "SERVER", "TABLESPACE")
	case is("RENAME"):
		at++
		return is("USER")
	case is("SET"):
		at++
		return is("GLOBAL", "@@GLOBAL", "PERSIST", "@@PERSIST", "PERSIST_ONLY", "PASSWORD")
	}
	return is("USE", "GRANT", "REVOKE", "KILL", "FLUSH", "SHUTDOWN", "RESTART", "INSTALL", "UNINSTALL", "CHANGE", "RESET", "PURGE", "STOP", "PREPARE", "EXECUTE", "DEALLOCATE")
}

// tables collects the names of tables in a statement.
type tables struct{ into *[]string }

// Enter notes a name.
func (t *tables) Enter(n ast.Node) (ast.Node, bool) {
	if table, ok := n.(*ast.TableName); ok {
		*t.into = append(*t.into, name(table))
	}
	return n, false
}

// Leave goes on.
func (t *tables) Leave(n ast.Node) (ast.Node, bool) { return n, true }

func name(t *ast.TableName) string { return quote(t.Name.O) }

func (j *judge) statement(node ast.StmtNode, text string) {
	switch n := node.(type) {
	case *ast.CreateTableStmt:
		j.known.Created(name(n.Table))
		if n.Select != nil {
			j.st.Writes = true
		}
	case *ast.CreateIndexStmt:
		if !j.known.New(name(n.Table)) {
			j.say(sqltext.Finding{Rule: "create-index", Effect: sqltext.Locks, Object: name(n.Table), Why: "it is built while writers go on, but begins and ends with all of them waiting", Lock: metadataLock})
		}
	case *ast.DropTableStmt:
		j.drop(n)
	case *ast.AlterTableStmt:
		j.alter(n)
	case *ast.RenameTableStmt:
		j.rename(n)
	case *ast.TruncateTableStmt:
		j.st.Probe = &sqltext.Probe{Kind: "none"}
		if !j.known.New(name(n.Table)) {
			j.say(sqltext.Finding{Rule: "truncate", Effect: sqltext.Destructive, Object: name(n.Table), Why: "all rows are gone"})
		}
	case *ast.InsertStmt:
		j.rows()
	case *ast.UpdateStmt:
		j.rows()
		if n.Where == nil {
			j.say(sqltext.Finding{Rule: "update-all", Effect: sqltext.Locks, Why: "every row is written in one transaction", Lock: "row locks: writers wait", Advice: "use a backfill step"})
		}
	case *ast.DeleteStmt:
		j.rows()
		if n.Where == nil && !n.IsMultiTable {
			j.say(sqltext.Finding{Rule: "delete-all", Effect: sqltext.Destructive, Why: "all rows are gone"})
		}
	case *ast.SelectStmt, *ast.SetOprStmt:
		j.rows()
	case *ast.SetStmt:
		j.set(n)
	default:
		j.other(node, text)
	}
}

// rows is a statement that shares a transaction with its marker.
func (j *judge) rows() { j.st.Mode, j.st.Writes = sqltext.Inside, true }

func (j *judge) other(node ast.StmtNode, text string) {
	switch n := node.(type) {
	case *ast.BeginStmt, *ast.CommitStmt, *ast.RollbackStmt, *ast.SavepointStmt, *ast.ReleaseSavepointStmt, *ast.LockTablesStmt, *ast.UnlockTablesStmt:
		j.refuse("transaction", "a statement that begins or ends a transaction would take the session out of Backstay's hands", "remove it: DDL commits by itself here, and what changes rows commits with its marker")
	case *ast.DropDatabaseStmt, *ast.CreateDatabaseStmt, *ast.AlterDatabaseStmt, *ast.CreateUserStmt, *ast.DropUserStmt, *ast.AlterUserStmt, *ast.GrantStmt, *ast.RevokeStmt, *ast.KillStmt, *ast.FlushStmt, *ast.ShutdownStmt, *ast.SetPwdStmt:
		j.refuse("outside", "it changes the server or another database, which nothing here puts back", "do it outside of migrations, or in a run step with an undo")
	case *ast.UseStmt, *ast.LoadDataStmt, *ast.PrepareStmt, *ast.ExecuteStmt, *ast.DeallocateStmt:
		j.refuse("session", "it changes the session that Backstay runs migrations in, or reads a file", "remove it")
	case *ast.CreateViewStmt, *ast.AnalyzeTableStmt, *ast.CreateSequenceStmt, *ast.ShowStmt, *ast.ExplainStmt, *ast.AlterSequenceStmt:
	case *ast.DropIndexStmt:
		if !j.known.New(name(n.Table)) {
			j.say(sqltext.Finding{Rule: "drop-index", Effect: sqltext.Locks, Object: quote(n.IndexName), Why: "all users of the table wait at its begin and end", Lock: metadataLock})
		}
		j.st.Drops = []sqltext.Dropped{{Table: name(n.Table), Index: quote(n.IndexName)}}
	case *ast.DropSequenceStmt:
		j.say(sqltext.Finding{Rule: "drop-object", Effect: sqltext.Incompatible, Why: "the version that runs now may use it"})
	case *ast.CallStmt, *ast.DoStmt:
		j.st.Writes = true
		j.st.Probe = &sqltext.Probe{Kind: "none"}
		j.say(sqltext.Finding{Rule: "opaque", Effect: sqltext.Opaque, Why: "what its code does is not looked into"})
	default:
		j.words(sqltext.Tokens(sqltext.MySQL(), text))
	}
}

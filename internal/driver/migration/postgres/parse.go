package postgres

import (
	"slices"
	"strings"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Parse cuts a script into statements with PostgreSQL's own grammar and says
// what each does.
func (Dialect) Parse(script files.Script, known *database.Known) ([]sqltext.Statement, []sqltext.Problem) {
	var problems []sqltext.Problem
	var all []parsed
	for _, chunk := range script.Chunks {
		some, wrong := parse(chunk.Text)
		if wrong != nil {
			wrong.Line += chunk.Line - 1
			problems = append(problems, *wrong)
		}
		for _, p := range some {
			p.line += chunk.Line - 1
			all = append(all, p)
		}
	}
	transaction := func(kind string) func(parsed) bool {
		return func(p parsed) bool { return p.name == "TransactionStmt" && p.fields.text("kind") == kind }
	}
	if !script.NoTransaction {
		all = sqltext.Unwrap(all, transaction("TRANS_STMT_BEGIN"), transaction("TRANS_STMT_COMMIT"))
	}
	var out []sqltext.Statement
	for _, p := range all {
		j := judge{known: known, st: sqltext.Statement{Text: p.text, Line: p.line, Mode: sqltext.Inside}}
		j.statement(p)
		j.st.Keeps = keeps(p)
		j.st.Names = p.fields.relations()
		j.st.Reaches = reaches(p)
		for _, drop := range j.st.Drops {
			j.st.Names = append(j.st.Names, drop.Table)
		}
		if j.st.Mode == sqltext.Outside && !script.NoTransaction && len(all) > 1 {
			j.refuse("transaction", "it cannot run inside a transaction", "put it into a migration of its own that is marked as one without a transaction")
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

// keeps reports whether a statement certainly changes no value of what stays.
func keeps(p parsed) bool {
	switch p.name {
	case "CreateStmt", "IndexStmt", "ViewStmt", "CreateSeqStmt", "CreateEnumStmt", "CreateFunctionStmt", "CommentStmt":
		return true
	case "DropStmt":
		kind := p.fields.text("removeType")
		return (kind == "OBJECT_TABLE" || kind == "OBJECT_INDEX" || kind == "OBJECT_VIEW") && p.fields.text("behavior") != "DROP_CASCADE"
	case "AlterTableStmt":
		return !slices.ContainsFunc(p.fields.list("cmds"), func(c item) bool {
			return !slices.Contains([]string{"AT_AddColumn", "AT_AddConstraint", "AT_ValidateConstraint", "AT_DropConstraint", "AT_SetNotNull", "AT_DropNotNull"}, c.text("subtype"))
		})
	}
	return false
}

// judge says what one statement does.
type judge struct {
	known *database.Known
	st    sqltext.Statement
}

func (j *judge) say(f sqltext.Finding) { j.st.Findings = append(j.st.Findings, f) }

func (j *judge) refuse(rule, why, advice string) {
	j.say(sqltext.Finding{Rule: rule, Effect: sqltext.Refused, Why: why, Advice: advice})
}

const accessExclusive = "ACCESS EXCLUSIVE: readers and writers wait"

func (j *judge) statement(p parsed) {
	n := p.fields
	switch p.name {
	case "CreateStmt":
		j.known.Created(relation(n.sub("relation")))
	case "CreateTableAsStmt":
		j.known.Created(relation(n.sub("into").sub("rel")))
		j.st.Writes = true
		j.calls(n)
	case "IndexStmt":
		j.index(n)
	case "DropStmt":
		j.drop(n)
	case "AlterTableStmt":
		j.alterTable(n)
	case "RenameStmt":
		j.rename(n)
	case "TruncateStmt":
		for _, r := range n.list("relations") {
			if name := relation(r.node); !j.known.New(name) {
				j.say(sqltext.Finding{Rule: "truncate", Effect: sqltext.Destructive, Object: name, Why: "all rows are gone", Lock: accessExclusive})
			}
		}
	case "InsertStmt", "MergeStmt":
		j.st.Writes = true
		j.calls(n)
	case "UpdateStmt", "DeleteStmt":
		j.change(p.name, n)
	case "SelectStmt":
		j.st.Writes = true
		if into := n.sub("intoClause"); into != nil {
			j.known.Created(relation(into.sub("rel")))
		}
		j.calls(n)
	case "DoStmt", "CallStmt", "ExecuteStmt":
		j.st.Writes = true
		j.say(sqltext.Finding{Rule: "opaque", Effect: sqltext.Opaque, Why: "what its code does is not looked into"})
	default:
		j.other(p.name, n)
	}
}

// other judges what is neither a table nor rows.
func (j *judge) other(name string, n node) {
	switch name {
	case "TransactionStmt":
		j.refuse("transaction", "a statement that begins or ends a transaction would take it out of Backstay's hands", "remove it: a migration is one transaction; or keep exactly one BEGIN at its start and one COMMIT at its end")
	case "VariableSetStmt":
		j.setting(n.text("name"), n.text("kind"))
	case "CopyStmt":
		j.st.Writes = true
		j.refuse("copy", "COPY takes its data from a client or a file of the server", "write the rows as INSERT, or load them outside of migrations")
	case "VacuumStmt":
		j.vacuum(n)
	case "ReindexStmt":
		j.reindex(n)
	case "ClusterStmt", "RefreshMatViewStmt":
		j.st.Writes = true
		j.say(sqltext.Finding{Rule: "rewrite", Effect: sqltext.Rewrites, Object: relation(n.sub("relation")), Why: "it is written anew", Lock: accessExclusive})
	case "LockStmt":
		j.say(sqltext.Finding{Rule: "lock", Effect: sqltext.Locks, Why: "others wait until the migration ends"})
	case "DropOwnedStmt":
		j.say(sqltext.Finding{Rule: "drop-owned", Effect: sqltext.Destructive, Why: "all that the role owns is gone"})
	case "CreatedbStmt", "DropdbStmt", "AlterDatabaseStmt", "AlterDatabaseSetStmt", "CreateTableSpaceStmt", "DropTableSpaceStmt", "AlterSystemStmt",
		"CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt", "DropRoleStmt", "GrantRoleStmt", "CreateSubscriptionStmt", "AlterSubscriptionStmt", "DropSubscriptionStmt":
		j.refuse("outside", "it changes the server or another database, which nothing here puts back", "do it outside of migrations, or in a run step with an undo")
	case "DiscardStmt", "PrepareStmt", "DeallocateStmt", "ListenStmt", "UnlistenStmt", "DeclareCursorStmt", "FetchStmt", "ClosePortalStmt", "LoadStmt", "CheckPointStmt":
		j.refuse("session", "it changes the session that Backstay runs migrations in", "remove it")
	case "CreateExtensionStmt", "CreateSchemaStmt", "CreateSeqStmt", "AlterSeqStmt", "ViewStmt", "CreateFunctionStmt", "CreateTrigStmt", "RuleStmt",
		"CreateEnumStmt", "AlterEnumStmt", "CompositeTypeStmt", "CreateDomainStmt", "CreateRangeStmt", "DefineStmt", "CommentStmt", "GrantStmt",
		"CreatePolicyStmt", "AlterPolicyStmt", "CreateStatsStmt", "AlterOwnerStmt", "AlterExtensionStmt", "AlterDefaultPrivilegesStmt", "NotifyStmt",
		"CreateCastStmt", "CreateOpClassStmt", "CreateOpFamilyStmt", "CreatePublicationStmt", "AlterPublicationStmt", "CreateConversionStmt",
		"AlterFunctionStmt", "ExplainStmt", "VariableShowStmt", "ConstraintsSetStmt", "CreateEventTrigStmt", "AlterEventTrigStmt", "AlterEnumRenameStmt",
		"CreateAmStmt", "CreateFdwStmt", "CreateForeignServerStmt", "CreateForeignTableStmt", "CreateUserMappingStmt", "SecLabelStmt", "AlterStatsStmt", "AlterTypeStmt":
	case "AlterDomainStmt", "AlterObjectSchemaStmt", "AlterOperatorStmt":
		j.say(sqltext.Finding{Rule: "change-object", Effect: sqltext.Incompatible, Why: "the version that runs now may rely on it as it was"})
	default:
		j.say(sqltext.Finding{Rule: "opaque", Effect: sqltext.Opaque, Why: "a statement of kind " + name + " is not known here"})
	}
}

// guarded are the settings by which Backstay keeps its hands on a session.
func guarded(setting string) bool {
	return slices.Contains([]string{"lock_timeout", "statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout", "transaction_read_only", "default_transaction_read_only", "application_name"}, strings.ToLower(setting))
}

func (j *judge) setting(name, kind string) {
	switch {
	case kind == "VAR_RESET_ALL" || strings.EqualFold(name, "session_authorization"):
		j.refuse("setting", "it changes the session that Backstay runs migrations in", "remove it")
	case guarded(name):
		j.refuse("setting", "SET "+name+" would take the timeouts out of Backstay's hands", "use lock-timeout: and statement-timeout: of the step")
	default:
		j.st.Mode = sqltext.Session
	}
}

// calls looks for functions that change the session, and for others of unknown effect.
func (j *judge) calls(n node) {
	if n.any("FuncCall", func(f node) bool {
		return strings.HasSuffix(names(f.list("funcname")), `"set_config"`) && f.any("A_Const", func(c node) bool { return guarded(c.sub("sval").text("sval")) })
	}) {
		j.refuse("setting", "set_config would take the timeouts out of Backstay's hands", "use lock-timeout: and statement-timeout: of the step")
	}
	if n.any("FuncCall", func(f node) bool {
		name := names(f.list("funcname"))
		for _, bad := range []string{`"pg_advisory_unlock_all"`, `"pg_advisory_unlock"`, `"dblink_exec"`, `"dblink"`, `"pg_terminate_backend"`, `"pg_cancel_backend"`} {
			if strings.HasSuffix(name, bad) {
				return true
			}
		}
		return false
	}) {
		j.refuse("session", "it calls a function that reaches out of the transaction", "remove it")
	}
	if deletes := n.any("DeleteStmt", func(d node) bool { return d.sub("whereClause") == nil }); deletes {
		j.say(sqltext.Finding{Rule: "delete-all", Effect: sqltext.Destructive, Why: "all rows of a table are gone (a DELETE inside WITH)"})
	}
}

func (j *judge) change(name string, n node) {
	j.st.Writes = true
	j.calls(n.sub("withClause"))
	j.calls(n)
	table := relation(n.sub("relation"))
	if n.sub("whereClause") != nil || j.known.New(table) {
		return
	}
	if name == "DeleteStmt" {
		j.say(sqltext.Finding{Rule: "delete-all", Effect: sqltext.Destructive, Object: table, Why: "all rows are gone"})
		return
	}
	j.say(sqltext.Finding{Rule: "update-all", Effect: sqltext.Locks, Object: table, Why: "every row is written, and locked until the migration ends", Lock: "ROW EXCLUSIVE: writers of these rows wait", Advice: "use a backfill step"})
}

func (j *judge) vacuum(n node) {
	if !n.yes("is_vacuumcmd") { // ANALYZE
		return
	}
	j.st.Mode = sqltext.Outside
	full := slices.ContainsFunc(n.list("options"), func(o item) bool { return o.text("defname") == "full" })
	if full {
		j.say(sqltext.Finding{Rule: "rewrite", Effect: sqltext.Rewrites, Why: "the table is written anew", Lock: accessExclusive})
	}
}

func (j *judge) reindex(n node) {
	concurrent := slices.ContainsFunc(n.list("params"), func(o item) bool { return o.text("defname") == "concurrently" })
	switch kind := n.text("kind"); {
	case kind == "REINDEX_OBJECT_SYSTEM" || kind == "REINDEX_OBJECT_DATABASE" || kind == "REINDEX_OBJECT_SCHEMA":
		j.refuse("reindex", "REINDEX of more than a table cannot be taken up again in the middle", "one REINDEX per table or index")
	case concurrent:
		j.st.Mode = sqltext.Outside
		j.say(sqltext.Finding{Rule: "reindex", Effect: sqltext.Safe, Object: relation(n.sub("relation")), Why: "cut off in the middle it leaves an index named …_ccnew"})
	default:
		j.say(sqltext.Finding{Rule: "reindex", Effect: sqltext.Rewrites, Object: relation(n.sub("relation")), Why: "the index is built anew", Lock: "SHARE: writers wait"})
	}
}

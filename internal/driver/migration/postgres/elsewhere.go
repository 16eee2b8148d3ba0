package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// inCode is what code does outside of its database, wherever it runs: to roles and
// databases of the server, or through a connection or program of its own.
var inCode = regexp.MustCompile(`(?i)\b(?:dblink\w*|(?:create|alter|drop)\s+(?:database|role|user|group|tablespace|server)\b|(?:reassign|drop)\s+owned\b|(?:comment|privileges|connect|create|temp|temporary|all)\s+on\s+(?:database|role|tablespace)\b|(?:grant|revoke)\s+"?[\w$]+"?\s+(?:to|from)\b|(?:to|from)\s+program\s+(?:e?'|\$)|pg_(?:reload_conf|terminate_backend|cancel_backend|drop_replication_slot)\b)`)

// shared names kinds of objects that all databases of a server have in common; empty:
// it is another.
func shared(kind string) string {
	switch kind {
	case "OBJECT_DATABASE":
		return "a database"
	case "OBJECT_ROLE":
		return "a role"
	case "OBJECT_TABLESPACE":
		return "a tablespace"
	case "OBJECT_PARAMETER_ACL":
		return "a setting of the server"
	}
	return ""
}

// reaches says what a statement acts on outside of its database, wherever it runs;
// empty: nothing that can be told.
func reaches(p parsed) string {
	switch p.name {
	case "DoStmt", "CreateFunctionStmt":
		if what := inCode.FindString(p.text); what != "" {
			return "has " + strings.Join(strings.Fields(what), " ") + " in its code"
		}
	case "DropOwnedStmt", "ReassignOwnedStmt":
		return "acts on what a role owns or may, databases among it"
	case "AlterTableSpaceOptionsStmt":
		return "acts on a tablespace"
	case "CreateForeignServerStmt", "AlterForeignServerStmt":
		return "leads to another server"
	}
	for _, kind := range []string{"objtype", "objectType", "renameType"} {
		if what := shared(p.fields.text(kind)); what != "" {
			return "acts on " + what
		}
	}
	if p.fields.any("FuncCall", func(f node) bool {
		all := f.list("funcname")
		return len(all) > 0 && strings.HasPrefix(all[len(all)-1].text("sval"), "dblink")
	}) {
		return "connects to a database by dblink"
	}
	return ""
}

// Leads names what in a database would act outside of a copy of it too; empty:
// nothing that can be told.
func Leads(ctx context.Context, q database.Querier) (what string, err error) {
	var servers int
	if err := q.QueryRowContext(ctx, "SELECT count(*) FROM pg_foreign_server").Scan(&servers); err != nil {
		return "", fmt.Errorf("look for foreign servers: %w", classify(err))
	}
	if servers > 0 {
		return "its foreign tables would lead to the same places", nil
	}
	rows, err := q.QueryContext(ctx, "SELECT p.oid::regprocedure::text, p.prosrc FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace"+
		" WHERE l.lanname NOT IN ('internal', 'c') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"+
		" AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e') ORDER BY 1")
	if err != nil {
		return "", fmt.Errorf("look at its functions: %w", classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name, code string
		if err := rows.Scan(&name, &code); err != nil {
			return "", fmt.Errorf("look at its functions: %w", err)
		}
		if found := inCode.FindString(code); found != "" && what == "" {
			what = fmt.Sprintf("its function %s has %s, which would act outside of it", name, strings.Join(strings.Fields(found), " "))
		}
	}
	return what, rows.Err()
}

package postgres

import (
	"slices"
	"strings"

	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

func (j *judge) index(n node) {
	table := n.sub("relation")
	name := n.text("idxname")
	if !n.yes("concurrent") {
		if !j.known.New(relation(table)) {
			j.say(sqltext.Finding{Rule: "create-index", Effect: sqltext.Locks, Object: relation(table), Why: "writers wait until the index is built", Lock: "SHARE: writers wait", Advice: "CREATE INDEX CONCURRENTLY, in a migration without a transaction"})
		}
		return
	}
	j.st.Mode = sqltext.Outside
	if name == "" {
		j.refuse("index-name", "CREATE INDEX CONCURRENTLY without a name: nothing could tell a half-built index from another", "name the index")
		return
	}
	full := quote(name)
	if schema := table.text("schemaname"); schema != "" {
		full = quote(schema) + "." + full
	}
	j.st.Probe = &sqltext.Probe{Kind: "index", Name: full, Clean: "DROP INDEX CONCURRENTLY IF EXISTS " + full}
}

// objects are the quoted names that a DROP names.
func objects(n node) []string {
	var all []string
	for _, o := range n.list("objects") {
		switch o.name {
		case "List":
			all = append(all, names(o.list("items")))
		case "String":
			all = append(all, quote(o.text("sval")))
		case "TypeName":
			all = append(all, names(o.list("names")))
		case "ObjectWithArgs":
			all = append(all, names(o.list("objname")))
		}
	}
	return all
}

func (j *judge) drop(n node) {
	kind := n.text("removeType")
	all := objects(n)
	for _, name := range all {
		switch kind {
		case "OBJECT_TABLE", "OBJECT_FOREIGN_TABLE":
			j.st.Drops = append(j.st.Drops, sqltext.Dropped{Table: name})
		case "OBJECT_INDEX":
			j.st.Drops = append(j.st.Drops, sqltext.Dropped{Index: name})
		}
	}
	cascade := n.text("behavior") == "DROP_CASCADE"
	switch kind {
	case "OBJECT_TABLE", "OBJECT_FOREIGN_TABLE":
		for _, name := range all {
			if !j.known.New(name) {
				j.say(sqltext.Finding{Rule: "drop-table", Effect: sqltext.Destructive, Object: name, Why: "the table and its rows are gone", Lock: accessExclusive, Advice: "drop it once no running version uses it"})
			}
		}
	case "OBJECT_SCHEMA", "OBJECT_EXTENSION", "OBJECT_DOMAIN", "OBJECT_TYPE", "OBJECT_SEQUENCE":
		rule, why := "drop-object", "the version that runs now may use it"
		effect := sqltext.Incompatible
		if kind == "OBJECT_SCHEMA" && cascade || cascade {
			rule, why, effect = "drop-schema", "what depends on it goes too, columns and tables included", sqltext.Destructive
		}
		for _, name := range all {
			j.say(sqltext.Finding{Rule: rule, Effect: effect, Object: name, Why: why, Lock: accessExclusive})
		}
	case "OBJECT_INDEX":
		j.dropIndex(n, all)
	default:
		for _, name := range all {
			j.say(sqltext.Finding{Rule: "drop-object", Effect: sqltext.Incompatible, Object: name, Why: "the version that runs now may use it", Advice: "drop it once no running version does"})
		}
	}
}

func (j *judge) dropIndex(n node, all []string) {
	if !n.yes("concurrent") {
		j.say(sqltext.Finding{Rule: "drop-index", Effect: sqltext.Locks, Object: strings.Join(all, ", "), Why: "its table waits until it is gone", Lock: accessExclusive, Advice: "DROP INDEX CONCURRENTLY, in a migration without a transaction"})
		return
	}
	j.st.Mode = sqltext.Outside
	if len(all) == 1 {
		j.st.Probe = &sqltext.Probe{Kind: "no-index", Name: all[0]}
	}
}

func (j *judge) rename(n node) {
	table := relation(n.sub("relation"))
	what := map[string]string{"OBJECT_COLUMN": "column", "OBJECT_TABLE": "table", "OBJECT_VIEW": "view", "OBJECT_SCHEMA": "schema"}[n.text("renameType")]
	if what == "table" && j.known.New(table) {
		to := quote(n.text("newname"))
		if schema := n.sub("relation").text("schemaname"); schema != "" {
			to = quote(schema) + "." + to
		}
		j.known.Created(to)
		return
	}
	if what == "" || j.known.New(table) {
		return
	}
	j.say(sqltext.Finding{Rule: "rename-" + what, Effect: sqltext.Incompatible, Object: table, Why: "the version that runs now knows the old name", Lock: accessExclusive, Advice: "add the new one, copy, switch, drop the old one in a later release"})
}

func (j *judge) alterTable(n node) {
	table := relation(n.sub("relation"))
	fresh := j.known.New(table)
	for _, c := range n.list("cmds") {
		if c.text("subtype") == "AT_DropColumn" {
			j.st.Drops = append(j.st.Drops, sqltext.Dropped{Table: table, Column: quote(c.text("name"))})
		}
		for _, f := range command(c.node, table) {
			if !fresh || f.Effect == sqltext.Refused {
				j.say(f)
			}
		}
		if n.text("objtype") == "OBJECT_TABLE" && c.text("subtype") == "AT_DetachPartition" && c.sub("def").yes("concurrent") {
			j.st.Mode = sqltext.Outside
			j.refuse("detach", "DETACH PARTITION CONCURRENTLY cannot be taken up again in the middle", "detach it without CONCURRENTLY")
		}
	}
}

// command judges one part of ALTER TABLE.
func command(c node, table string) []sqltext.Finding {
	column := table + "." + quote(c.text("name"))
	def := c.sub("def")
	switch c.text("subtype") {
	case "AT_AddColumn":
		return addColumn(table, inner(def, "ColumnDef"))
	case "AT_DropColumn":
		return []sqltext.Finding{{Rule: "drop-column", Effect: sqltext.Destructive, Object: column, Why: "the column's values are gone", Lock: accessExclusive, Advice: "drop it once no running version uses it"}}
	case "AT_AlterColumnType":
		return changeType(column, inner(def, "ColumnDef"))
	case "AT_SetNotNull":
		return []sqltext.Finding{
			{Rule: "set-not-null", Effect: sqltext.Locks, Object: column, Why: "the whole table is read", Lock: accessExclusive, Advice: "add CHECK (… IS NOT NULL) NOT VALID, validate it, then set NOT NULL"},
			{Rule: "set-not-null-old", Effect: sqltext.Incompatible, Object: column, Why: "the version that runs now may write NULL"},
		}
	case "AT_AddConstraint":
		return addConstraint(table, inner(def, "Constraint"))
	case "AT_ValidateConstraint":
		return nil // SHARE UPDATE EXCLUSIVE: readers and writers go on
	case "AT_DropConstraint", "AT_DropNotNull", "AT_ColumnDefault":
		return nil
	case "AT_SetTableSpace", "AT_SetLogged", "AT_SetUnLogged":
		return []sqltext.Finding{{Rule: "rewrite", Effect: sqltext.Rewrites, Object: table, Why: "the table is written anew", Lock: accessExclusive}}
	}
	return nil
}

// inner takes the fields out of a node that carries its name.
func inner(n node, name string) node {
	if sub := n.sub(name); sub != nil {
		return sub
	}
	return n
}

func addColumn(table string, def node) []sqltext.Finding {
	column := table + "." + quote(def.text("colname"))
	var notNull, standard, moves, generated bool
	var all []sqltext.Finding
	for _, c := range def.list("constraints") {
		switch c.text("contype") {
		case "CONSTR_NOTNULL":
			notNull = true
		case "CONSTR_DEFAULT":
			standard = true
			moves = c.sub("raw_expr").any("FuncCall", func(f node) bool { return !stable(names(f.list("funcname"))) }) || !stableCall(c.sub("raw_expr"))
		case "CONSTR_GENERATED", "CONSTR_IDENTITY":
			generated = true
		case "CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_CHECK", "CONSTR_FOREIGN":
			all = append(all, sqltext.Finding{Rule: "add-constraint", Effect: sqltext.Locks, Object: column, Why: "the whole table is read while others wait", Lock: accessExclusive, Advice: "add the column, then the constraint in its own step"})
		}
	}
	if kind := names(def.sub("typeName").list("names")); strings.Contains(kind, "serial") {
		moves = true
		standard = true
	}
	if moves || generated {
		all = append(all, sqltext.Finding{Rule: "add-column-rewrite", Effect: sqltext.Rewrites, Object: column, Why: "every row gets a value of its own", Lock: accessExclusive, Advice: "add it without a default, then use a backfill step"})
	}
	if notNull && !standard && !generated {
		all = append(all, sqltext.Finding{Rule: "add-not-null", Effect: sqltext.Incompatible, Object: column, Why: "it fails on a table with rows, and the version that runs now writes none", Advice: "give it a default"})
	}
	return all
}

// stableCall reports whether the expression is no function call itself, or a stable one.
func stableCall(n node) bool {
	f := n.sub("FuncCall")
	return f == nil || stable(names(f.list("funcname")))
}

// stable are functions whose value PostgreSQL stores once for all rows.
func stable(name string) bool {
	return slices.Contains([]string{`"now"`, `"pg_catalog"."now"`, `"current_timestamp"`, `"transaction_timestamp"`, `"statement_timestamp"`, `"pg_catalog"."timezone"`, `"timezone"`}, name)
}

func changeType(column string, def node) []sqltext.Finding {
	kind := def.sub("typeName")
	name := names(kind.list("names"))
	all := []sqltext.Finding{{Rule: "change-type-old", Effect: sqltext.Incompatible, Object: column, Why: "the version that runs now knows the old type"}}
	wide := (name == `"text"` || name == `"pg_catalog"."varchar"` || name == `"pg_catalog"."numeric"`) && len(kind.list("typmods")) == 0
	if !wide && name != `"pg_catalog"."int8"` {
		all = append(all, sqltext.Finding{Rule: "change-type", Effect: sqltext.Destructive, Object: column, Why: "the new type may hold less than the old one", Lock: accessExclusive, Advice: "add a column of the new type, copy, switch, drop the old one in a later release"})
	}
	if !wide {
		all = append(all, sqltext.Finding{Rule: "change-type-rewrite", Effect: sqltext.Rewrites, Object: column, Why: "the table may be written anew", Lock: accessExclusive})
	}
	return all
}

func addConstraint(table string, c node) []sqltext.Finding {
	if c.yes("skip_validation") || c.text("indexname") != "" {
		return nil
	}
	switch c.text("contype") {
	case "CONSTR_FOREIGN":
		return []sqltext.Finding{{Rule: "add-foreign-key", Effect: sqltext.Locks, Object: table, Why: "both tables are read while writers wait", Lock: "SHARE ROW EXCLUSIVE: writers wait", Advice: "add it NOT VALID, then VALIDATE CONSTRAINT"}}
	case "CONSTR_CHECK":
		return []sqltext.Finding{{Rule: "add-check", Effect: sqltext.Locks, Object: table, Why: "the whole table is read", Lock: accessExclusive, Advice: "add it NOT VALID, then VALIDATE CONSTRAINT"}}
	case "CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION":
		return []sqltext.Finding{{Rule: "add-unique", Effect: sqltext.Locks, Object: table, Why: "an index is built while others wait", Lock: accessExclusive, Advice: "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX"}}
	}
	return nil
}

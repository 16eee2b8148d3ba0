package mysql

import (
	"strings"

	"github.com/pingcap/tidb/pkg/parser/ast"
	"github.com/pingcap/tidb/pkg/parser/mysql"

	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

func (j *judge) drop(n *ast.DropTableStmt) {
	if n.IsView {
		j.say(sqltext.Finding{Rule: "drop-object", Effect: sqltext.Incompatible, Why: "the version that runs now may use it"})
		return
	}
	if len(n.Tables) > 1 {
		j.refuse("one-each", "DROP TABLE of several tables can be cut off between them", "one DROP TABLE each")
	}
	for _, t := range n.Tables {
		j.st.Drops = append(j.st.Drops, sqltext.Dropped{Table: name(t)})
		if !j.known.New(name(t)) {
			j.say(sqltext.Finding{Rule: "drop-table", Effect: sqltext.Destructive, Object: name(t), Why: "the table and its rows are gone", Lock: metadataLock, Advice: "drop it once no running version uses it"})
		}
	}
}

func (j *judge) rename(n *ast.RenameTableStmt) {
	if len(n.TableToTables) > 1 {
		j.refuse("one-each", "RENAME of several tables is not told from half of it after a crash", "one RENAME each")
	}
	for _, t := range n.TableToTables {
		j.renamed(name(t.OldTable), name(t.NewTable))
	}
}

func (j *judge) renamed(from, to string) {
	if j.known.New(from) {
		j.known.Created(to)
		return
	}
	j.say(sqltext.Finding{Rule: "rename-table", Effect: sqltext.Incompatible, Object: from, Why: "the version that runs now knows the old name", Lock: metadataLock, Advice: "add the new one, copy, switch, drop the old one in a later release"})
}

func (j *judge) alter(n *ast.AlterTableStmt) {
	table := name(n.Table)
	fresh := j.known.New(table)
	for _, spec := range n.Specs {
		if spec.Tp == ast.AlterTableDropColumn {
			j.st.Drops = append(j.st.Drops, sqltext.Dropped{Table: table, Column: quote(spec.OldColumnName.Name.O)})
		}
		if spec.Tp == ast.AlterTableDropIndex {
			j.st.Drops = append(j.st.Drops, sqltext.Dropped{Table: table, Index: quote(spec.Name)})
		}
		if spec.Tp == ast.AlterTableRenameTable {
			j.renamed(table, name(spec.NewTable))
			continue
		}
		for _, f := range specified(spec, table) {
			if !fresh {
				j.say(f)
			}
		}
	}
}

// specified judges one part of ALTER TABLE.
func specified(spec *ast.AlterTableSpec, table string) []sqltext.Finding {
	switch spec.Tp { //nolint:exhaustive // fifty kinds, most of TiDB's own
	case ast.AlterTableDropColumn:
		return []sqltext.Finding{{Rule: "drop-column", Effect: sqltext.Destructive, Object: table + "." + quote(spec.OldColumnName.Name.O), Why: "the column's values are gone", Lock: metadataLock, Advice: "drop it once no running version uses it"}}
	case ast.AlterTableAddColumns:
		return added(spec, table)
	case ast.AlterTableModifyColumn, ast.AlterTableChangeColumn:
		return changed(spec, table)
	case ast.AlterTableRenameColumn:
		return []sqltext.Finding{{Rule: "rename-column", Effect: sqltext.Incompatible, Object: table, Why: "the version that runs now knows the old name", Lock: metadataLock, Advice: "add the new one, copy, switch, drop the old one in a later release"}}
	case ast.AlterTableAddConstraint:
		if c := spec.Constraint; c != nil && c.Tp == ast.ConstraintForeignKey {
			return []sqltext.Finding{{Rule: "add-foreign-key", Effect: sqltext.Locks, Object: table, Why: "the table is copied while writers wait", Lock: "SHARED: writers wait"}}
		}
		return []sqltext.Finding{{Rule: "create-index", Effect: sqltext.Locks, Object: table, Why: "it is built while writers go on, but begins and ends with all of them waiting", Lock: metadataLock}}
	case ast.AlterTableDropPartition, ast.AlterTableTruncatePartition:
		return []sqltext.Finding{{Rule: "truncate", Effect: sqltext.Destructive, Object: table, Why: "the rows of a partition are gone"}}
	case ast.AlterTableDropPrimaryKey, ast.AlterTablePartition, ast.AlterTableRemovePartitioning, ast.AlterTableForce:
		return []sqltext.Finding{{Rule: "rewrite", Effect: sqltext.Rewrites, Object: table, Why: "the table is written anew", Lock: metadataLock}}
	case ast.AlterTableOption:
		for _, o := range spec.Options {
			if o.Tp == ast.TableOptionEngine || o.Tp == ast.TableOptionCharset || o.Tp == ast.TableOptionRowFormat {
				return []sqltext.Finding{{Rule: "rewrite", Effect: sqltext.Rewrites, Object: table, Why: "the table may be written anew", Lock: metadataLock}}
			}
		}
	default: // an index or constraint less, a comment, a default
	}
	return nil
}

func added(spec *ast.AlterTableSpec, table string) []sqltext.Finding {
	var all []sqltext.Finding
	for _, c := range spec.NewColumns {
		column := table + "." + quote(c.Name.Name.O)
		var notNull, standard bool
		for _, o := range c.Options {
			switch o.Tp { //nolint:exhaustive // two of many options matter
			case ast.ColumnOptionNotNull:
				notNull = true
			case ast.ColumnOptionDefaultValue, ast.ColumnOptionAutoIncrement, ast.ColumnOptionGenerated:
				standard = true
			}
		}
		if notNull && !standard {
			all = append(all, sqltext.Finding{Rule: "add-not-null", Effect: sqltext.Incompatible, Object: column, Why: "the version that runs now writes no value there", Advice: "give it a default"})
		}
	}
	return all
}

// changed judges MODIFY and CHANGE: what the column was is not known here.
func changed(spec *ast.AlterTableSpec, table string) []sqltext.Finding {
	var all []sqltext.Finding
	for _, c := range spec.NewColumns {
		column := table + "." + quote(c.Name.Name.O)
		if old := spec.OldColumnName; old != nil && !strings.EqualFold(old.Name.O, c.Name.Name.O) {
			all = append(all, sqltext.Finding{Rule: "rename-column", Effect: sqltext.Incompatible, Object: column, Why: "the version that runs now knows the old name", Lock: metadataLock})
		}
		if c.Tp == nil || c.Tp.GetType() != mysql.TypeLongBlob && c.Tp.GetType() != mysql.TypeLonglong {
			all = append(all, sqltext.Finding{Rule: "change-type", Effect: sqltext.Destructive, Object: column, Why: "the new type may hold less than the old one", Lock: metadataLock, Advice: "add a column of the new type, copy, switch, drop the old one in a later release"})
		}
		all = append(all, sqltext.Finding{Rule: "change-type-rewrite", Effect: sqltext.Rewrites, Object: column, Why: "the table may be written anew", Lock: "SHARED: writers wait"})
	}
	return all
}

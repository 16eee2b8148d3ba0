package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// counter is the next automatic value, which no DDL sets by itself.
var counter = regexp.MustCompile(` AUTO_INCREMENT=\d+`)

// object is something that SHOW CREATE can write.
type object struct{ kind, name string }

// objects lists what is in the database.
func objects(ctx context.Context, q database.Querier) (all []object, err error) {
	rows, err := q.QueryContext(ctx, "SELECT CASE TABLE_TYPE WHEN 'VIEW' THEN 'VIEW' WHEN 'SEQUENCE' THEN 'SEQUENCE' ELSE 'TABLE' END, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME NOT LIKE 'backstay\\_%'"+
		" UNION ALL SELECT 'TRIGGER', TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()"+
		" UNION ALL SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE()"+
		" UNION ALL SELECT 'EVENT', EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var o object
		if err := rows.Scan(&o.kind, &o.name); err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, rows.Err()
}

// Schema dumps the schema with the server's own SHOW CREATE.
func (Dialect) Schema(ctx context.Context, q database.Querier) (database.Schema, error) {
	fail := func(err error) error { return fmt.Errorf("read the schema: %w", classify(err)) }
	all, err := objects(ctx, q)
	if err != nil {
		return nil, fail(err)
	}
	schema := database.Schema{}
	var charset, collation string
	if err := q.QueryRowContext(ctx, "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = DATABASE()").Scan(&charset, &collation); err != nil {
		return nil, fail(err)
	}
	schema["database"] = charset + " " + collation
	for _, o := range all {
		text, err := show(ctx, q, o)
		if err != nil {
			return nil, fail(err)
		}
		schema[strings.ToLower(o.kind)+" "+o.name] = text
	}
	return schema, nil
}

// show is SHOW CREATE, whose columns are not the same for all kinds.
func show(ctx context.Context, q database.Querier, o object) (text string, err error) {
	rows, err := q.QueryContext(ctx, "SHOW CREATE "+o.kind+" "+quote(o.name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return "", err
		}
		for i, column := range columns {
			switch {
			case strings.HasPrefix(column, "Create "), column == "SQL Original Statement":
				text += counter.ReplaceAllString(values[i].String, "")
			case column == "sql_mode":
				text += "\nsql_mode " + values[i].String
			}
		}
	}
	return text, rows.Err()
}

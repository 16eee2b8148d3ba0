package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// ownSchemas leaves out the system's schemas, notOurs Backstay's own tables;
// objectKind is the name by which the dump knows a relation.
const (
	ownSchemas = `n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%'`
	notOurs    = `c.relname NOT LIKE 'backstay\_%'`
	objectKind = `CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END || ' ' || format('%I.%I', n.nspname, c.relname)`
)

// extended leaves out what an extension brought.
func extended(class, oid string) string {
	return ` AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '` + class + `'::regclass AND e.objid = ` + oid + ` AND e.deptype = 'e')`
}

// relations are tables, views, sequences and composite types: one line each,
// then one per column, constraint, trigger, rule and policy.
func relations() string {
	return `
SELECT 'schema ' || quote_ident(n.nspname), '0', concat_ws(' ', 'owner', pg_get_userbyid(n.nspowner), 'acl', n.nspacl::text, 'comment', quote_nullable(obj_description(n.oid, 'pg_namespace')))
 FROM pg_namespace n WHERE ` + ownSchemas + extended("pg_namespace", "n.oid") + `
UNION ALL SELECT 'extension ' || quote_ident(extname), '0', concat_ws(' ', 'version', extversion, 'schema', extnamespace::regnamespace) FROM pg_extension
UNION ALL SELECT ` + objectKind + `, '0', concat_ws(' ', 'kind', c.relkind, 'persistence', c.relpersistence, 'owner', pg_get_userbyid(c.relowner), 'acl', (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(c.relacl) a),
  'options', array_to_string(c.reloptions, ','), 'partition by', pg_get_partkeydef(c.oid), 'partition of', (SELECT string_agg(inhparent::regclass::text, ',' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = c.oid),
  pg_get_expr(c.relpartbound, c.oid), CASE WHEN c.relrowsecurity THEN 'row security' END, CASE WHEN c.relforcerowsecurity THEN 'forced' END, 'identity', c.relreplident, 'comment', quote_nullable(obj_description(c.oid, 'pg_class')),
  CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END)
 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't' AND ` + ownSchemas + ` AND ` + notOurs + extended("pg_class", "c.oid") + `
UNION ALL SELECT ` + objectKind + `, '1' || lpad((row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum))::text, 5, '0'), concat_ws(' ', 'column', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
  CASE WHEN a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation::text END, CASE WHEN a.attnotnull THEN 'not null' END, CASE a.attgenerated WHEN 's' THEN 'generated' ELSE 'default' END, pg_get_expr(d.adbin, d.adrelid),
  'identity', nullif(a.attidentity, ''), 'storage', nullif(a.attstorage, t.typstorage), 'statistics', nullif(a.attstattarget, -1), 'acl', a.attacl::text, 'options', a.attoptions::text,
  'comment', quote_nullable(col_description(c.oid, a.attnum)))
 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
 LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p', 'f', 'c', 'm') AND c.relpersistence <> 't' AND ` + ownSchemas + ` AND ` + notOurs + extended("pg_class", "c.oid") + `
UNION ALL SELECT ` + objectKind + `, '2' || k.conname, concat_ws(' ', 'constraint', quote_ident(k.conname), pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN 'not validated' END, 'comment', quote_nullable(obj_description(k.oid, 'pg_constraint')))
 FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.contype <> 't' AND ` + ownSchemas + ` AND ` + notOurs + extended("pg_class", "c.oid") + `
UNION ALL SELECT ` + objectKind + `, '3' || g.tgname, concat_ws(' ', 'trigger', pg_get_triggerdef(g.oid), 'enabled', g.tgenabled)
 FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT g.tgisinternal AND ` + ownSchemas + ` AND ` + notOurs + `
UNION ALL SELECT ` + objectKind + `, '4' || r.rulename, concat_ws(' ', pg_get_ruledef(r.oid), 'enabled', r.ev_enabled)
 FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN' AND ` + ownSchemas + ` AND ` + notOurs + `
UNION ALL SELECT ` + objectKind + `, '5' || p.polname, concat_ws(' ', 'policy', quote_ident(p.polname), p.polcmd, CASE WHEN NOT p.polpermissive THEN 'restrictive' END, 'to', (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r)::text END, ',' ORDER BY r) FROM unnest(p.polroles) r),
  'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
 FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + ownSchemas + ` AND ` + notOurs + `
UNION ALL SELECT ` + objectKind + `, '6', concat_ws(' ', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
  'owned by', (SELECT string_agg(format('%s.%I', d.refobjid::regclass, a.attname), ',') FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
 FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + ownSchemas + ` AND ` + notOurs + extended("pg_class", "c.oid")
}

// others are what belongs to no table: indexes (listed apart, so that a
// difference names one), functions, types and the rest.
func others() string {
	return `
UNION ALL SELECT 'index ' || format('%I.%I', n.nspname, x.relname), '0', concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'INVALID' END, CASE WHEN i.indisclustered THEN 'clustered' END, CASE WHEN i.indisreplident THEN 'replica identity' END, 'comment', quote_nullable(obj_description(x.oid, 'pg_class')))
 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')) AND c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND ` + ownSchemas + ` AND ` + notOurs + extended("pg_class", "c.oid") + `
UNION ALL SELECT 'function ' || format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), '0', concat_ws(' ', CASE WHEN p.prokind = 'a' THEN (SELECT concat_ws(' ', 'aggregate', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.agginitval, format_type(a.aggtranstype, NULL)) FROM pg_aggregate a WHERE a.aggfnoid = p.oid) ELSE pg_get_functiondef(p.oid) END,
  'owner', pg_get_userbyid(p.proowner), 'acl', p.proacl::text, 'comment', quote_nullable(obj_description(p.oid, 'pg_proc')))
 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE ` + ownSchemas + extended("pg_proc", "p.oid") + `
UNION ALL SELECT 'type ' || format('%I.%I', n.nspname, t.typname), '0', concat_ws(' ', CASE t.typtype WHEN 'e' THEN 'enum ' || (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)
  WHEN 'd' THEN concat_ws(' ', 'domain', format_type(t.typbasetype, t.typtypmod), CASE WHEN t.typnotnull THEN 'not null' END, 'default', t.typdefault, (SELECT string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid))
  WHEN 'r' THEN (SELECT concat_ws(' ', 'range', format_type(r.rngsubtype, NULL), r.rngcanonical, r.rngsubdiff) FROM pg_range r WHERE r.rngtypid = t.oid) ELSE 'base' END, 'owner', pg_get_userbyid(t.typowner), 'acl', t.typacl::text, 'comment', quote_nullable(obj_description(t.oid, 'pg_type')))
 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r', 'b') AND t.typelem = 0 AND t.typrelid = 0 AND ` + ownSchemas + extended("pg_type", "t.oid") + `
UNION ALL SELECT 'statistics ' || format('%I.%I', n.nspname, s.stxname), '0', pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE ` + ownSchemas + `
UNION ALL SELECT 'event trigger ' || quote_ident(evtname), '0', concat_ws(' ', evtevent, evtfoid::regproc, evtenabled, evttags::text) FROM pg_event_trigger
UNION ALL SELECT 'publication ' || quote_ident(p.pubname), '0', concat_ws(' ', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, (SELECT string_agg(r.prrelid::regclass::text, ',' ORDER BY r.prrelid::regclass::text) FROM pg_publication_rel r WHERE r.prpubid = p.oid)) FROM pg_publication p
UNION ALL SELECT 'operator ' || format('%I.%s(%s,%s)', n.nspname, o.oprname, format_type(o.oprleft, NULL), format_type(o.oprright, NULL)), '0', o.oprcode::text FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE ` + ownSchemas + extended("pg_operator", "o.oid") + `
UNION ALL SELECT 'cast ' || format('%s AS %s', format_type(castsource, NULL), format_type(casttarget, NULL)), '0', concat_ws(' ', castfunc::regproc, castcontext, castmethod) FROM pg_cast k WHERE k.oid >= 16384` + extended("pg_cast", "k.oid") + `
UNION ALL SELECT 'default privileges ' || concat_ws(' ', pg_get_userbyid(defaclrole), defaclnamespace::regnamespace, defaclobjtype), '0', defaclacl::text FROM pg_default_acl
ORDER BY 1, 2`
}

// Schema dumps the schema from the catalogs in one statement, so in one
// snapshot. search_path is empty meanwhile: every name has its schema.
func (Dialect) Schema(ctx context.Context, q database.Querier) (schema database.Schema, err error) {
	fail := func(err error) error { return fmt.Errorf("read the schema: %w", classify(err)) }
	var path string
	if err := q.QueryRowContext(ctx, "SELECT current_setting('search_path')").Scan(&path); err != nil {
		return nil, fail(err)
	}
	if _, err := q.ExecContext(ctx, "SET search_path TO ''"); err != nil {
		return nil, fail(err)
	}
	schema, err = read(ctx, q)
	// The session is the caller's: it goes back even where the reading failed.
	_, back := q.ExecContext(ctx, "SELECT set_config('search_path', $1, false)", path)
	if err = errors.Join(err, back); err != nil {
		return nil, fail(err)
	}
	return schema, nil
}

func read(ctx context.Context, q database.Querier) (schema database.Schema, err error) {
	// Each row is an object, the order of a line in it, and the line.
	rows, err := q.QueryContext(ctx, relations()+others())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	schema = database.Schema{}
	for rows.Next() {
		var object, order, line string
		if err := rows.Scan(&object, &order, &line); err != nil {
			return nil, err
		}
		if text, more := schema[object]; more {
			line = text + "\n" + line
		}
		schema[object] = line
	}
	return schema, rows.Err()
}

package backfill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

const (
	defaultBatch     = 1000
	mostBatch        = 100_000
	defaultPause     = backstay.Duration(10e6)
	defaultLock      = backstay.Duration(5e9)
	defaultStatement = backstay.Duration(300e9)
	defaultTimeout   = backstay.Duration(6 * 3600e9)
)

// stepConfig are the keys of a backfill step.
type stepConfig struct {
	Backfill config `yaml:"backfill" json:"backfill" required:"true" doc:"Fill columns of a table, in batches beside the running program." example:"{database: \"secret:env/DATABASE_URL\", table: orders, set: {total: price * amount}, where: total IS NULL}"`
}

type config struct {
	Database string            `yaml:"database" json:"database" required:"true" doc:"The URL of the database, as a reference to a secret. Only a SQLite path may be written here itself." example:"secret:env/DATABASE_URL"`
	Table    string            `yaml:"table" json:"table" required:"true" doc:"The table. It must have a primary key." example:"orders"`
	Set      map[string]string `yaml:"set" json:"set" required:"true" doc:"The columns to fill, each with an SQL expression over its row." example:"{total: price * amount}"`
	Where    string            `yaml:"where" json:"where" required:"true" doc:"The condition, in SQL, that holds for rows that are still to be filled, and no more for those that are." example:"total IS NULL"`

	Batch            int               `yaml:"batch" json:"batch,omitempty" doc:"How many rows one transaction fills, and locks while it does. Default: 1000." example:"500"`
	Rate             int               `yaml:"rate" json:"rate,omitempty" doc:"How many rows a second at most. Default: as many as the batches and their pauses let through." example:"20000"`
	Pause            backstay.Duration `yaml:"pause" json:"pause,omitempty" doc:"How long to rest after each batch. Default: 10ms." example:"50ms"`
	LockTimeout      backstay.Duration `yaml:"lock-timeout" json:"lock-timeout,omitempty" doc:"How long a batch waits for others' locks before it begins anew. Default: 5s." example:"1s"`
	StatementTimeout backstay.Duration `yaml:"statement-timeout" json:"statement-timeout,omitempty" doc:"How long one statement may run. Default: 5m." example:"1m"`
}

func (c config) validate() (problems []backstay.Problem) {
	add := func(key, hint, format string, args ...any) {
		problems = append(problems, backstay.Problem{Path: "backfill." + key, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	if message, hint := session.CheckAddress(c.Database); message != "" {
		add("database", hint, "%s", message)
	}
	if !named(c.Table, ".") {
		add("table", "such as orders or shop.orders", "%q is not the name of a table", c.Table)
	}
	if len(c.Set) == 0 {
		add("set", "such as {total: price * amount}", "names no column")
	}
	for _, column := range slices.Sorted(maps.Keys(c.Set)) {
		if !named(column, "") {
			add("set", "letters, digits and _", "%q is not the name of a column", column)
		}
		if strings.TrimSpace(c.Set[column]) == "" {
			add("set."+column, "an SQL expression over the row", "is empty")
		}
	}
	if strings.TrimSpace(c.Where) == "" {
		add("where", "such as total IS NULL", "is empty: nothing would tell rows that are filled from those that are not")
	}
	if c.Batch < 0 || c.Batch > mostBatch {
		add("batch", "", "%d is not between 1 and %d", c.Batch, mostBatch)
	}
	if c.Rate < 0 {
		add("rate", "", "%d is less than nothing", c.Rate)
	}
	return problems
}

// named reports whether a name is made of what names in SQL are made of.
func named(name, besides string) bool {
	return name != "" && !strings.ContainsAny(name, "\x00\"`;'\\ ()") && (besides == "." || !strings.Contains(name, "."))
}

// Prepare freezes what is to be filled. The columns may come with an earlier
// step of the same plan: only their spelling can be checked then.
func (*Kind) Prepare(ctx context.Context, req backstay.Request) (out backstay.Prepared, err error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return out, fmt.Errorf("decode backfill step: %w", err)
	}
	cfg := sc.Backfill
	refuse := func(problems ...backstay.Problem) error {
		return &backstay.RefusedError{What: "spec", Problems: problems}
	}
	if problems := cfg.validate(); len(problems) > 0 {
		return out, refuse(problems...)
	}
	if req.Secrets == nil {
		// Only the declaration is checked: there is nothing to reach a database with.
		return backstay.Prepared{Kind: "backfill"}, nil
	}
	b := body{
		V: bodyFormat, Address: session.Address(cfg.Database, req.Dir), Where: strings.TrimSpace(cfg.Where), Batch: cfg.Batch, Rate: cfg.Rate,
		Pause: orDefault(cfg.Pause, defaultPause), Lock: orDefault(cfg.LockTimeout, defaultLock), Statement: orDefault(cfg.StatementTimeout, defaultStatement),
	}
	if b.Batch == 0 {
		b.Batch = defaultBatch
	}
	s, err := session.Open(ctx, req.Secrets, b.Address, "")
	if err != nil {
		return out, refuse(backstay.Problem{Path: "backfill.database", Message: err.Error(), Hint: backstay.HintOf(err)})
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	b.Identity = s.Identity
	b.Table = quoteTable(s, cfg.Table)
	for _, column := range slices.Sorted(maps.Keys(cfg.Set)) {
		b.Columns = append(b.Columns, s.Dialect.Quote(column))
		b.Values = append(b.Values, strings.TrimSpace(cfg.Set[column]))
	}
	if problem := parse(s.Dialect, b); problem != nil {
		return out, refuse(*problem)
	}
	warnings, problems, err := fits(ctx, s, b)
	if err != nil {
		return out, err
	}
	if len(problems) > 0 {
		return out, refuse(problems...)
	}
	return promise(req, s.Dialect.Name(), b, warnings), nil
}

func quoteTable(s *session.Session, name string) string {
	schema, table, ok := strings.Cut(name, ".")
	switch {
	case !ok:
		return s.Dialect.Quote(name)
	case schema == s.Identity.Schema:
		return s.Dialect.Quote(table)
	}
	return s.Dialect.Quote(schema) + "." + s.Dialect.Quote(table)
}

// parse checks that the user's SQL is one UPDATE and no more.
func parse(d database.Dialect, b body) *backstay.Problem {
	var set []string
	for i, c := range b.Columns {
		set = append(set, c+" = ("+b.Values[i]+"\n)")
	}
	text := "UPDATE " + b.Table + " SET " + strings.Join(set, ", ") + " WHERE (" + b.Where + "\n)"
	all, problems := d.Parse(files.Script{File: "backfill.sql", Chunks: []files.Chunk{{Text: text, Line: 1}}}, database.NewKnown())
	switch {
	case len(problems) > 0:
		return &backstay.Problem{Path: "backfill.set", Message: "set and where make no statement: " + problems[0].Message, Hint: problems[0].Hint}
	case len(all) != 1:
		return &backstay.Problem{Path: "backfill.set", Message: fmt.Sprintf("set and where make %d statements, not one", len(all)), Hint: "an expression holds no semicolon"}
	}
	return nil
}

// fits checks the step against the tables, as far as they are there.
func fits(ctx context.Context, s *session.Session, b body) (warnings []string, problems []backstay.Problem, err error) {
	tables, err := s.Dialect.Tables(ctx, s.Conn)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says what it did
	}
	t, there := tables[b.Table]
	if !there {
		return []string{"table " + bare(b.Table) + " is not there yet: a step before this one must make it"}, nil, nil
	}
	if len(t.Key) == 0 {
		return nil, []backstay.Problem{{Path: "backfill.table", Message: bare(b.Table) + " has no primary key to find its rows by"}}, nil
	}
	for _, c := range b.Columns {
		switch {
		case !t.Has(c):
			return []string{"column " + bare(b.Table+"."+c) + " is not there yet: a step before this one must add it"}, nil, nil
		case t.Columns[c].Computed || slices.Contains(t.Key, c):
			problems = append(problems, backstay.Problem{Path: "backfill.set." + bare(c), Message: "cannot be filled: it is computed, or part of the primary key"})
		}
	}
	if len(problems) > 0 {
		return nil, problems, nil
	}
	query := side{body: b}.try()
	if _, err := s.Conn.ExecContext(ctx, query); err != nil {
		err := s.Dialect.Classify(err)
		return nil, []backstay.Problem{{Path: "backfill.set", Message: "set and where do not fit the table: " + err.Error()}}, nil
	}
	return nil, nil, nil
}

// promise says what the step is worth.
func promise(req backstay.Request, dialect string, b body, warnings []string) backstay.Prepared {
	what := fmt.Sprintf("%s of %s", bare(strings.Join(b.Columns, ", ")), bare(b.Table))
	out := backstay.Prepared{
		Kind: "backfill", Body: backstay.Canonical(b), Keys: []backstay.Key{keyOf(dialect, b)}, Effect: backstay.Idempotent,
		Class: backstay.Equivalent, Fence: backstay.Fenced, HasUndo: true, Retries: 2,
		Modulo: []string{
			"values that others wrote over those that were filled: they stay",
			"what triggers and automatic timestamps wrote when a row was filled",
			"Backstay's own tables, backstay_…",
		},
		Timeout: orDefault(req.Timeout, defaultTimeout), UndoTimeout: orDefault(req.UndoTimeout, defaultTimeout),
		Summary:     fmt.Sprintf("fill %s in %s %s, %d rows at a time", what, dialect, b.Identity.Database, b.Batch),
		UndoSummary: "put the old values back, batch by batch, where nobody wrote since",
		ReadSummary: "who filled " + what + " last",
		Warnings:    warnings,
	}
	if req.Retries != nil {
		out.Retries = *req.Retries
	}
	if strings.HasPrefix(b.Address, session.SecretPrefix) {
		out.Secrets = []string{b.Address}
	}
	return out
}

func orDefault(d, standard backstay.Duration) backstay.Duration {
	if d > 0 {
		return d
	}
	return standard
}

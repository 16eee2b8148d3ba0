package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqlite"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// Verify runs the migrations of a step up, down and up again on a scratch database,
// and compares the schema dumps: all of them on one that begins empty, or those that
// are pending on one that begins as the step's own. Allowing rules is not needed for
// that.
func (*Kind) Verify(ctx context.Context, req backstay.Request, from backstay.VerifyFrom) (out backstay.Verification, err error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return out, fmt.Errorf("decode migrate step: %w", err)
	}
	p := &preparer{req: req, cfg: sc.Migrate, named: map[string]bool{}}
	if p.problems = p.cfg.validate(); len(p.problems) == 0 {
		err = p.readFiles()
	}
	if err = errors.Join(err, p.refusal()); err != nil {
		return out, err
	}
	v := &verifier{secrets: req.Secrets, address: session.Address(p.cfg.Database, req.Dir), scratch: from.Scratch, set: p.set}
	if from.Restored {
		p.cfg.Check, p.cfg.Allow, p.cfg.Irreversible = "", rules(), "verified only"
		if v.base, v.set.Migrations, err = newBase(ctx, p, from.Rows); err != nil {
			return out, err
		}
	}
	defer func() {
		last := context.WithoutCancel(ctx)
		err = errors.Join(err, v.drop(last), v.base.remove(last))
	}()
	if err := v.fresh(ctx, 0); err != nil {
		return out, err
	}
	out = backstay.Verification{Database: v.t.d.Name(), Convention: string(p.set.Convention), Restored: from.Restored}
	if v.base != nil {
		out.NotCopied = v.base.skipped
	}
	broken := ""
	for i, m := range v.set.Migrations {
		if err := ctx.Err(); err != nil {
			return out, context.Cause(ctx)
		}
		one := backstay.VerifiedMigration{Version: m.Version, Name: m.Name, File: m.Up.File, Took: map[string]string{}}
		if broken != "" {
			one.Result, one.Reason = backstay.VerifiedNotRun, "version "+broken+" could not be applied"
			out.Migrations = append(out.Migrations, one)
			continue
		}
		if err := v.try(ctx, i, &one); err != nil {
			return out, err
		}
		if one.Result == backstay.VerifiedUpFails {
			broken = m.Version
		}
		out.Migrations = append(out.Migrations, one)
	}
	return out, remember(req.DataDir, v.set, out)
}

// verifier holds the scratch database.
type verifier struct {
	secrets backstay.Secrets
	address string
	scratch string   // named by the user; empty: one is made
	others  []string // databases of MariaDB or MySQL that statements may name
	base    *base    // what it begins with; nil: nothing
	set     files.Set
	t       *target
	remove  func(context.Context) error
}

// fresh opens a scratch database on which the first n migrations are applied.
func (v *verifier) fresh(ctx context.Context, n int) error {
	if err := v.drop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	address := v.scratch
	if v.base != nil {
		var err error
		if address, v.remove, err = v.base.fresh(ctx, sqlite.Dialect{}); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
	}
	if address == "" {
		url := v.address
		if strings.HasPrefix(url, session.SecretPrefix) {
			var err error
			if url, err = v.secrets.Resolve(url); err != nil {
				return fmt.Errorf("make a scratch database: %w", err)
			}
		}
		d, err := session.DialectOf(url)
		if err != nil {
			return fmt.Errorf("make a scratch database: %w", err)
		}
		if address, v.remove, err = d.Scratch(ctx, url); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
	}
	var err error
	if v.t, err = connectURL(ctx, v.secrets, address); err != nil {
		return err
	}
	if v.remove != nil && v.t.d.Name() != "sqlite" && !strings.HasPrefix(v.t.identity.Database, database.ScratchPrefix) {
		return fmt.Errorf("the scratch database that was made cannot be opened: its address leads to %s", v.t.identity.Database)
	}
	if v.t.d.Name() == "mysql" {
		if v.others, err = mysql.Databases(ctx, v.t.conn); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
	}
	if v.scratch != "" {
		tables, err := v.t.d.Tables(ctx, v.t.conn)
		if err != nil || len(tables) > 0 {
			return errors.Join(err, &backstay.RefusedError{What: "scratch database", Err: fmt.Errorf("it is not empty: it has %d tables", len(tables)), Hint: "name one that may be filled and thrown away"})
		}
	}
	if v.base != nil {
		if err := v.base.fill(ctx, v.t); err != nil {
			return err
		}
	}
	for _, m := range v.set.Migrations[:n] {
		statements, _ := v.t.d.Parse(m.Up, database.NewKnown())
		if err := v.play(ctx, m.Up, statements); err != nil {
			return fmt.Errorf("apply %s again: %w", m.Up.File, err)
		}
	}
	return nil
}

// drop lets go of the scratch database, and removes it if it was made here.
func (v *verifier) drop(ctx context.Context) error {
	var err error
	if v.t != nil {
		err = v.t.close()
		v.t = nil
	}
	if v.remove != nil {
		err = errors.Join(err, v.remove(ctx))
		v.remove = nil
	}
	return err
}

// connectURL opens a session with a reference, or a URL that was made here.
func connectURL(ctx context.Context, secrets backstay.Secrets, address string) (*target, error) {
	if strings.HasPrefix(address, session.SecretPrefix) || strings.HasPrefix(address, session.SQLitePrefix) {
		return connect(ctx, secrets, address)
	}
	return connect(ctx, one(address), session.SecretPrefix+"scratch")
}

// one resolves everything to one URL.
type one string

func (o one) Resolve(string) (string, error) { return string(o), nil }

// try runs one migration up, down and up again.
func (v *verifier) try(ctx context.Context, i int, out *backstay.VerifiedMigration) error {
	m := v.set.Migrations[i]
	before, err := v.t.d.Schema(ctx, v.t.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	rows, err := v.rows(ctx)
	if err != nil {
		return err
	}
	ups, problems := v.t.d.Parse(m.Up, database.NewKnown())
	for _, st := range ups {
		for _, f := range st.Findings {
			if f.Effect == sqltext.Destructive {
				out.Loses = append(out.Loses, fmt.Sprintf("%s:%d: %s", m.Up.File, st.Line, f))
			}
		}
	}
	if failed := v.timed(ctx, out, "up", m.Up, ups, problems); failed != nil {
		out.Result, out.Reason = backstay.VerifiedUpFails, failed.Error()
		return nil
	}
	after, err := v.t.d.Schema(ctx, v.t.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if m.Down == nil || m.Down.Empty() {
		if out.Result = backstay.VerifiedNoDown; after.Digest() == before.Digest() {
			out.Reason = "its up changes no schema"
		}
		return nil
	}
	downs, problems := v.t.d.Parse(*m.Down, database.NewKnown())
	if failed := v.timed(ctx, out, "down", *m.Down, downs, problems); failed != nil {
		out.Result, out.Reason = backstay.VerifiedFails, failed.Error()
		return v.fresh(ctx, i+1)
	}
	back, err := v.t.d.Schema(ctx, v.t.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if out.Differs = differing(before, back); len(out.Differs) > 0 {
		out.Result, out.Reason = backstay.VerifiedDiffers, fmt.Sprintf("%d objects are not as before", len(out.Differs))
		return v.fresh(ctx, i+1)
	}
	now, err := v.rows(ctx)
	if err != nil {
		return err
	}
	if out.Rows = otherRows(rows, now); len(out.Rows) > 0 {
		out.Result, out.Reason = backstay.VerifiedLoses, "the schema is as before, and rows are not"
		return v.fresh(ctx, i+1)
	}
	if failed := v.timed(ctx, out, "again", m.Up, ups, nil); failed != nil {
		out.Result, out.Reason = backstay.VerifiedAgain, failed.Error()
		return v.fresh(ctx, i+1)
	}
	again, err := v.t.d.Schema(ctx, v.t.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	out.Result = backstay.VerifiedRestores
	if out.Differs = differing(after, again); len(out.Differs) > 0 {
		out.Result, out.Reason = backstay.VerifiedAgain, "the second up ends in another schema than the first"
		return v.fresh(ctx, i+1)
	}
	return nil
}

// rows are the contents of all tables, where there is a sample of them.
func (v *verifier) rows(ctx context.Context) (map[string]string, error) {
	if v.base == nil || len(v.base.samples) == 0 {
		return nil, nil
	}
	return contents(ctx, v.t)
}

// rules are all that a spec may allow.
func rules() (names []string) {
	for _, r := range sqltext.Rules() {
		names = append(names, r.Name)
	}
	return names
}

func (v *verifier) timed(ctx context.Context, out *backstay.VerifiedMigration, what string, s files.Script, all []sqltext.Statement, problems []sqltext.Problem) error {
	if len(problems) > 0 {
		return fmt.Errorf("%s:%w", s.File, errors.New(problems[0].String()))
	}
	begun := time.Now()
	err := v.play(ctx, s, all)
	out.Took[what] = time.Since(begun).Round(time.Millisecond).String()
	return err
}

// play runs a script as a step would, but for the markers.
func (v *verifier) play(ctx context.Context, s files.Script, all []sqltext.Statement) error {
	if err := v.t.d.Limit(ctx, v.t.conn, database.Limits{Lock: defaultLock.Std(), Statement: defaultStatement.Std()}); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if !v.t.d.Transactional() || s.NoTransaction || slices.ContainsFunc(all, func(st sqltext.Statement) bool { return st.Mode == sqltext.Outside }) {
		return v.each(ctx, v.t.conn, s, all)
	}
	tx, err := v.t.conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", v.t.d.Classify(err))
	}
	if err := v.each(ctx, tx, s, all); err != nil {
		_ = tx.Rollback() // the error says why
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", v.t.d.Classify(err))
	}
	return nil
}

func (v *verifier) each(ctx context.Context, q database.Querier, s files.Script, all []sqltext.Statement) error {
	for _, st := range all {
		if st.Reaches != "" {
			return fail(script{File: s.File}, st, fmt.Errorf("it %s, and would from the scratch database too", st.Reaches))
		}
		if name := mysql.Elsewhere(st.Qualified, v.others); name != "" {
			return fail(script{File: s.File}, st, fmt.Errorf("it names the database %s, and would act on it instead of the scratch database", name))
		}
		if _, err := q.ExecContext(ctx, st.Text); err != nil {
			return fail(script{File: s.File}, st, v.t.d.Classify(err))
		}
	}
	return nil
}

// differing lists the objects in which two dumps differ.
func differing(before, after database.Schema) []backstay.VerifiedObject {
	all := maps.Clone(before)
	maps.Copy(all, after)
	var out []backstay.VerifiedObject
	for _, object := range slices.Sorted(maps.Keys(all)) {
		if before[object] != after[object] {
			out = append(out, backstay.VerifiedObject{Object: object, Before: before[object], After: after[object]})
		}
	}
	return out
}

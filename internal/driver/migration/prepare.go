package migration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// preparer is one Prepare.
type preparer struct {
	req      backstay.Request
	cfg      config
	set      files.Set
	d        database.Dialect
	body     body
	problems []backstay.Problem
	blobs    []string
	reasons  []string // why it cannot be undone
	tables   database.Tables
	named    map[string]bool // names that the statements have, as the list of tables writes them
	opaque   bool            // a statement may touch what it does not name
}

func (p *preparer) refuse(key, hint, format string, args ...any) {
	p.problems = append(p.problems, backstay.Problem{Path: "migrate." + key, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// inFile is a problem of a migration file.
func (p *preparer) inFile(file string, line int, message, hint string) {
	p.problems = append(p.problems, backstay.Problem{File: filepath.Join(p.cfg.Dir, file), Line: line, Path: "migrate.dir", Message: message, Hint: hint})
}

func (p *preparer) refusal() error {
	if len(p.problems) == 0 {
		return nil
	}
	return &backstay.RefusedError{What: "spec", Problems: p.problems}
}

// Prepare reads the files and what the database says is applied, and freezes
// what is pending.
func (*Kind) Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode migrate step: %w", err)
	}
	p := &preparer{req: req, cfg: sc.Migrate, named: map[string]bool{}}
	if p.problems = p.cfg.validate(); len(p.problems) > 0 {
		return backstay.Prepared{}, p.refusal()
	}
	if err := p.readFiles(); err != nil {
		return backstay.Prepared{}, err
	}
	if len(p.problems) > 0 {
		return backstay.Prepared{}, p.refusal()
	}
	if req.Secrets == nil {
		// Only the declaration is checked: there is nothing to reach a database with.
		return backstay.Prepared{Kind: "migrate"}, nil
	}
	if err := p.lookUp(ctx); err != nil {
		return backstay.Prepared{}, err
	}
	if ctx.Err() != nil {
		return backstay.Prepared{}, context.Cause(ctx)
	}
	if err := p.refusal(); err != nil {
		return backstay.Prepared{}, err
	}
	return p.promise(), nil
}

// readFiles reads the directory, which must not be left by a link.
func (p *preparer) readFiles() (err error) {
	dir := p.cfg.Dir
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(p.req.Dir, dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		p.refuse("dir", "", "cannot be opened: %v", err)
		return nil
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	var problems []backstay.Problem
	p.set, problems = files.Read(root.FS(), files.Convention(p.cfg.Format))
	for _, problem := range problems {
		if problem.File != "" {
			problem.File = filepath.Join(p.cfg.Dir, problem.File)
		}
		problem.Path = "migrate.dir"
		p.problems = append(p.problems, problem)
	}
	return nil
}

// lookUp asks the database and finds what is pending.
func (p *preparer) lookUp(ctx context.Context) (err error) {
	address := session.Address(p.cfg.Database, p.req.Dir)
	t, err := connect(ctx, p.req.Secrets, address)
	if err != nil {
		p.problems = append(p.problems, backstay.Problem{Path: "migrate.database", Message: err.Error(), Hint: backstay.HintOf(err)})
		return nil
	}
	defer func() { err = errors.Join(err, t.close()) }()
	p.d = t.d
	p.body = body{
		V: bodyFormat, Dialect: t.d.Name(), Address: address, Identity: t.identity, Convention: string(p.set.Convention),
		Table: p.table(t), Lock: orDefault(p.cfg.LockTimeout, defaultLock), Statement: orDefault(p.cfg.StatementTimeout, defaultStatement), Keep: p.cfg.Keep,
	}
	p.tables, err = t.d.Tables(ctx, t.conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	_, there := p.tables[p.body.Table]
	applied, err := p.body.versions(t.d).Read(ctx, t.conn, there)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	sums, err := database.NewOwn(t.d, "", "", backstay.Token{}).Sums(ctx, t.conn)
	if err != nil && !t.d.Missing(err) {
		return err //nolint:wrapcheck // says what it did
	}
	p.checkApplied(applied, sums)
	p.body.Before = p.known(applied)
	if err := p.pending(ctx, applied); err != nil {
		return err
	}
	return p.checkRows(ctx, t)
}

// table is the tool's table, quoted as the database's list of tables has it.
func (p *preparer) table(t *target) string {
	name := p.cfg.Table
	if name == "" {
		name = database.DefaultTable(p.set.Convention)
	}
	schema, bare, ok := strings.Cut(name, ".")
	if !ok {
		return t.d.Quote(name)
	}
	if schema == t.identity.Schema {
		return t.d.Quote(bare)
	}
	return t.d.Quote(schema) + "." + t.d.Quote(bare)
}

// known are the versions that are applied: golang-migrate names only the newest,
// and means all up to it.
func (p *preparer) known(applied database.Applied) []string {
	if p.set.Convention != files.GolangMigrate || len(applied.Versions) == 0 {
		return applied.Versions
	}
	var all []string
	for _, m := range p.set.Migrations {
		all = append(all, m.Version)
		if m.Version == applied.Versions[0] {
			break
		}
	}
	return all
}

// checkApplied refuses what was applied and is not what the files hold.
func (p *preparer) checkApplied(applied database.Applied, sums map[string]string) {
	if applied.Dirty != "" {
		p.refuse("database", "finish or take back that version with the tool that left it, then plan again", "%s says that version %s was left half done by its tool", p.body.Table, applied.Dirty)
	}
	for _, version := range applied.Versions {
		m, ok := p.set.Version(version)
		switch sum, known := applied.Checksums[version]; {
		case !ok:
			p.refuse("dir", "bring the file back", "version %s is applied, and no file has it", version)
			continue
		case known && sum != m.Up.CRC32:
			p.inFile(m.Up.File, 0, fmt.Sprintf("version %s was applied from a file with another checksum", version), "bring the file back as it was; change the schema with a new migration")
			continue
		}
		if sum, known := sums[version]; known && sum != m.Up.SHA256 {
			p.inFile(m.Up.File, 0, fmt.Sprintf("version %s was applied from another content of this file", version), "bring the file back as it was; change the schema with a new migration")
		}
	}
}

// pending freezes the migrations that are not applied.
func (p *preparer) pending(ctx context.Context, applied database.Applied) error {
	newest, found := -1, p.cfg.To == ""
	for i, m := range p.set.Migrations {
		if slices.Contains(p.body.Before, m.Version) {
			newest = i
		}
	}
	known := database.NewKnown()
	for i, m := range p.set.Migrations {
		if found && p.cfg.To != "" {
			break
		}
		found = found || m.Version == p.cfg.To
		if slices.Contains(p.body.Before, m.Version) {
			continue
		}
		if i < newest && p.set.Convention != files.Dbmate {
			p.inFile(m.Up.File, 0, fmt.Sprintf("version %s is not applied, but a newer one is", m.Version), "give it a version above all that are applied")
			continue
		}
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // the caller names the cause
		}
		c, err := p.change(m, known)
		if err != nil {
			return err
		}
		p.body.Pending = append(p.body.Pending, c)
	}
	if !found {
		p.refuse("to", "one of the versions of the files", "there is no version %q", p.cfg.To)
	}
	if applied.Has(p.cfg.To) && len(p.body.Pending) == 0 && p.cfg.To != "" && !p.isNewest(p.cfg.To, applied) {
		p.refuse("to", "take newer versions back with `backstay rollback`", "version %s is applied already, and newer ones too: this step only goes forward", p.cfg.To)
	}
	return nil
}

func (p *preparer) isNewest(version string, applied database.Applied) bool {
	return len(applied.Versions) > 0 && applied.Versions[len(applied.Versions)-1] == version
}

// change parses and judges one migration.
func (p *preparer) change(m files.Migration, known *database.Known) (change, error) {
	c := change{Version: m.Version, Name: m.Name}
	ups, problems := p.d.Parse(m.Up, known)
	p.wrong(m.Up.File, problems)
	for _, st := range ups {
		p.judge(m.Up.File, st)
		p.notes(st)
		c.Copy = append(c.Copy, p.copies(m.Up.File, st)...)
	}
	slices.Sort(c.Copy)
	c.Copy = slices.Compact(c.Copy)
	var err error
	if c.Up, err = p.script(m.Up, ups); err != nil {
		return c, err
	}
	if m.Down == nil || m.Down.Empty() && len(ups) > 0 {
		p.noDown(m)
		return c, nil
	}
	downs, problems := p.d.Parse(*m.Down, database.NewKnown())
	p.wrong(m.Down.File, problems)
	if len(downs) == 0 && len(ups) > 0 {
		p.noDown(m)
		return c, nil
	}
	for _, st := range downs {
		p.notes(st)
	}
	down, err := p.script(*m.Down, downs)
	c.Down = &down
	return c, err
}

func (p *preparer) wrong(file string, problems []sqltext.Problem) {
	for _, w := range problems {
		p.inFile(file, w.Line, w.Message, w.Hint)
	}
}

func (p *preparer) noDown(m files.Migration) {
	if p.cfg.Irreversible == "" {
		p.inFile(m.Up.File, 0, fmt.Sprintf("version %s has no down: nothing could take it back", m.Version), `write its down, or say irreversible: "why" in the step, with an approve step before it`)
		return
	}
	if !slices.Contains(p.reasons, p.cfg.Irreversible) {
		p.reasons = append(p.reasons, p.cfg.Irreversible)
	}
}

// judge takes the findings about a statement of an up.
func (p *preparer) judge(file string, st sqltext.Statement) {
	for _, f := range st.Findings {
		p.body.Findings = append(p.body.Findings, migrationFinding{File: file, Line: st.Line, Finding: f})
		if !f.Effect.NeedsAllow() {
			continue
		}
		if !slices.Contains(p.cfg.Allow, f.Rule) {
			hint := "say allow: [" + f.Rule + "] in the step"
			if f.Effect == sqltext.Destructive {
				hint += ", with an approve step before it"
			}
			if f.Advice != "" {
				hint += "; or " + f.Advice
			}
			p.inFile(file, st.Line, string(f.Effect)+": "+f.String(), hint)
			continue
		}
		if f.Effect == sqltext.Destructive {
			p.reasons = append(p.reasons, fmt.Sprintf("%s %s", strings.ReplaceAll(f.Rule, "-", " "), f.Object))
		}
	}
}

// script stores the statements and says how they run.
func (p *preparer) script(s files.Script, all []sqltext.Statement) (script, error) {
	out := script{File: s.File, SHA256: s.SHA256, CRC32: s.CRC32, Count: len(all), Piecewise: s.NoTransaction || !p.d.Transactional()}
	kept := make([]sqltext.Statement, len(all))
	for i, st := range all {
		out.Piecewise = out.Piecewise || st.Mode == sqltext.Outside
		st.Findings = nil // the plan has them
		kept[i] = st
	}
	if len(p.problems) > 0 || p.req.Blobs == nil {
		return out, nil
	}
	digest, _, err := p.req.Blobs.Put(bytes.NewReader(backstay.Canonical(kept)))
	if err != nil {
		return out, fmt.Errorf("store the statements of %s: %w", s.File, err)
	}
	out.Blob = digest
	if !slices.Contains(p.blobs, digest) {
		p.blobs = append(p.blobs, digest)
	}
	return out, nil
}

// promise says what the step is worth.
func (p *preparer) promise() backstay.Prepared {
	b := p.body
	out := backstay.Prepared{
		Kind: "migrate", Body: backstay.Canonical(b), Keys: []backstay.Key{keyOf(b.Dialect, b.Identity)}, Effect: backstay.Idempotent,
		Timeout: orDefault(p.req.Timeout, defaultTimeout), UndoTimeout: orDefault(p.req.UndoTimeout, defaultTimeout), Retries: 2,
		Blobs: p.blobs, Summary: p.summary(), HasUndo: true, Class: backstay.Equivalent, Fence: backstay.Fenced,
		Modulo: []string{
			"rows that the migrations changed and their downs do not change back",
			"positions of sequences and automatic numbers",
			"Backstay's own tables, backstay_…",
		},
		Schema:      &backstay.Schema{For: p.cfg.Compatible},
		ReadSummary: fmt.Sprintf("%s and the schema of %s", bare(b.Table), b.Identity.Database),
	}
	if p.req.Retries != nil {
		out.Retries = *p.req.Retries
	}
	if strings.HasPrefix(b.Address, session.SecretPrefix) {
		out.Secrets = []string{b.Address}
	}
	for _, c := range b.Pending {
		if c.Up.Piecewise || c.Down != nil && c.Down.Piecewise {
			out.Fence, out.Window = backstay.Leased, b.Statement
		}
	}
	switch {
	case len(b.Pending) == 0:
		out.Class, out.Modulo, out.UndoSummary = backstay.Exact, nil, "nothing: nothing is pending"
	case len(p.reasons) > 0:
		out.Class, out.HasUndo, out.Modulo = backstay.Irreversible, false, nil
		out.Irreversible = strings.Join(slices.Compact(p.reasons), "; ")
	default:
		out.UndoSummary = fmt.Sprintf("run %s in reverse, then compare the schema with its dump from before", count(len(b.Pending), "down"))
	}
	if len(b.Checked) > 0 {
		out.ReadSummary += ", and the rows of " + list(b.checkedNames())
		if out.HasUndo {
			out.UndoSummary += ", and the rows of " + list(b.checkedNames())
		}
	}
	if p.opaque && p.cfg.Snapshot.Table {
		out.Warnings = append(out.Warnings, "snapshot: table copies what destructive statements name; what the opaque ones destroy is not known, and not copied")
	}
	for _, f := range b.Findings {
		if f.Effect != sqltext.Safe {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Effect, f.Finding))
		}
	}
	return out
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func bare(quoted string) string { return strings.NewReplacer(`"`, "", "`", "").Replace(quoted) }

func (p *preparer) summary() string {
	b := p.body
	where := fmt.Sprintf("%s %s", b.Dialect, b.Identity.Database)
	if len(b.Pending) == 0 {
		return fmt.Sprintf("apply nothing to %s: all %s are applied", where, count(len(b.Before), "migration"))
	}
	first, last := b.Pending[0].Version, b.Pending[len(b.Pending)-1].Version
	versions := first
	if first != last {
		versions += " to " + last
	}
	text := fmt.Sprintf("apply %s (%s, %s) to %s", count(len(b.Pending), "migration"), versions, b.Convention, where)
	if tables := p.copied(); len(tables) > 0 {
		text += ", with copies of " + list(tables) + " before it"
	}
	var usable []string
	for _, release := range slices.Sorted(maps.Keys(p.cfg.Compatible)) {
		usable = append(usable, release+" "+p.cfg.Compatible[release])
	}
	if len(usable) > 0 {
		text += ", then for " + strings.Join(usable, ", ")
	}
	return text
}

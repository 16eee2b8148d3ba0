package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/plan"
)

// migrateKind is the kind of step whose downs can be verified.
const migrateKind = "migrate"

// verifier is what kinds offer that can try on a scratch copy whether a step can
// be taken back.
type verifier interface {
	Verify(ctx context.Context, kind string, req backstay.Request, from backstay.VerifyFrom) (backstay.Verification, error)
	Verified(step backstay.Step, dataDir string) (string, error)
}

func (c *call) migrateCommand() *cobra.Command {
	return c.group("migrate", "Prove that database migrations go back",
		"Looks at the migrations of a specification's migrate steps.", c.migrateVerifyCommand())
}

func (c *call) migrateVerifyCommand() *cobra.Command {
	var in input
	var from backstay.VerifyFrom
	cmd := c.command("verify [STEP…] [flags]", "Run every migration up, down and up on a scratch database",
		`Runs all migrations of the migrate steps up, down and up again on a scratch database that begins
empty, and compares the dumps of the schema: which have no down, whose down does not restore the
schema, what is lost. The scratch database is made on the server of the step and removed; the
step's own database is not touched. Exit code 2 when a down does not restore the schema.

--restored begins with the schema of the step's own database instead, and runs only what is pending
there. With --rows it also copies rows, which it reads from the step's database, and tells which
downs restore the schema but not the rows.`,
		cobra.ArbitraryArgs, func(ctx context.Context, c *call, args []string) error {
			return c.migrateVerify(ctx, in, from, args)
		})
	in.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&from.Scratch, "scratch", "", "use this empty database: a reference to its URL (secret:env/NAME) or sqlite:/path")
	fl.BoolVar(&from.Restored, "restored", false, "begin with the schema of the step's database, and run what is pending")
	fl.IntVar(&from.Rows, "rows", 0, "with --restored: copy this many rows of each table, at most (up to 10000)")
	cmd.MarkFlagsMutuallyExclusive("scratch", "restored")
	return cmd
}

// migrateDocument is the result of migrate verify.
type migrateDocument struct {
	Format   string         `json:"format"`
	Steps    []verifiedStep `json:"steps"`
	ExitCode int            `json:"exit_code"`
}

type verifiedStep struct {
	Step string `json:"step"`
	backstay.Verification
}

// mostRows is how many rows of a table may be copied to verify migrations.
const mostRows = 10_000

func (c *call) migrateVerify(ctx context.Context, in input, from backstay.VerifyFrom, only []string) error {
	switch scratch := from.Scratch; {
	case scratch != "" && !strings.HasPrefix(scratch, "secret:") && !strings.HasPrefix(scratch, "sqlite:/"):
		return usagef("--scratch: put the URL into a variable and write secret:env/NAME, or sqlite:/path")
	case from.Rows < 0 || from.Rows > mostRows:
		return usagef("--rows %d: want 0 to %d", from.Rows, mostRows)
	case from.Rows > 0 && !from.Restored:
		return usagef("--rows copies rows of the step's database: say --restored too")
	}
	kinds, err := c.app.Kinds()
	if err != nil {
		return err
	}
	v, ok := kinds.(verifier)
	if !ok {
		return errors.New("this binary cannot verify migrations")
	}
	loaded, err := in.load(c, kinds)
	if err != nil {
		return err
	}
	secrets, err := config.NewSecrets(loaded.Dir, c.app.getenv)
	if err != nil {
		return err
	}
	st, err := c.findState()
	if err != nil {
		return err
	}
	doc := migrateDocument{Format: c.format(), Steps: []verifiedStep{}}
	for _, q := range requests(plan.NewDraft(loaded)) {
		if q.Kind != migrateKind || q.Check || len(only) > 0 && !slices.Contains(only, q.ID) {
			continue
		}
		found, err := v.Verify(ctx, q.Kind, backstay.Request{ID: q.ID, Config: q.Config, Dir: loaded.Dir, DataDir: st.DataDir, Release: loaded.Release, Version: loaded.Version, Secrets: secrets}, from)
		var refused *backstay.RefusedError
		if errors.As(err, &refused) && len(refused.Problems) > 0 {
			return &backstay.RefusedError{What: refused.What, Problems: problemsOf(err, q, loaded.File)}
		}
		if err != nil {
			return fmt.Errorf("verify step %s: %w", q.ID, err)
		}
		if found.Restores() < len(found.Migrations) {
			doc.ExitCode = exitDriftFound
		}
		doc.Steps = append(doc.Steps, verifiedStep{Step: q.ID, Verification: found})
	}
	if len(doc.Steps) == 0 {
		return usagef("%s has no migrate step%s", loaded.File, named(only))
	}
	if c.json {
		return errors.Join(c.out.document(doc), exit(doc.ExitCode))
	}
	for _, s := range doc.Steps {
		c.printVerification(s)
	}
	return exit(doc.ExitCode)
}

// printVerified says below a plan what the last verify showed of its steps. It is
// no part of the plan, whose digest it does not change.
func (c *call) printVerified(kinds Kinds, steps []backstay.Step, dataDir string) error {
	v, ok := kinds.(verifier)
	if !ok {
		return nil
	}
	for _, s := range steps {
		text, err := v.Verified(s, dataDir)
		if err != nil {
			return err
		}
		if text != "" {
			c.out.line("Downs   %s: %s", s.ID, clean(text))
		}
	}
	return nil
}

func named(only []string) string {
	if len(only) == 0 {
		return ""
	}
	return " named " + strings.Join(only, " or ")
}

func (c *call) printVerification(s verifiedStep) {
	for _, m := range s.Migrations {
		line := fmt.Sprintf("%-11s  %s  %s", strings.ReplaceAll(string(m.Result), "_", " "), m.Version, m.File)
		if m.Reason != "" {
			line += ": " + m.Reason
		}
		c.out.line("%s", clean(line))
		for _, d := range m.Differs {
			c.out.line("             %s", clean(changedWord(d)+" "+d.Object))
		}
		for _, l := range m.Loses {
			c.out.line("             loses: %s", clean(l))
		}
		for _, r := range m.Rows {
			c.out.line("             rows: %s", clean(r))
		}
	}
	for _, why := range s.NotCopied {
		c.out.line("rows not copied: %s", clean(why))
	}
	if s.Restored && len(s.Migrations) == 0 {
		c.out.line("%s: nothing is pending (%s, %s)", s.Step, s.Database, s.Convention)
		return
	}
	c.out.line("%s: the downs of %d of %s restore the schema (%s, %s)", s.Step, s.Restores(), count(len(s.Migrations), "migration"), s.Database, s.Convention)
}

func changedWord(d backstay.VerifiedObject) string {
	switch {
	case d.Before == "":
		return "left behind:"
	case d.After == "":
		return "missing:"
	}
	return "changed:"
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

func (c *call) auditCommand() *cobra.Command {
	return c.group("audit", "Read, verify and export the ledger",
		"The ledger is the audit log: every transition, decision, act of an operator and refusal is one leaf\nof a Merkle tree whose heads are signed.",
		c.auditLogCommand(), c.auditVerifyCommand(), c.auditCheckpointCommand(), c.auditExportCommand())
}

func (c *call) auditVerifyCommand() *cobra.Command {
	var keys, against []string
	cmd := c.command("verify [PATH] [flags]", "Recompute the whole ledger and check what was signed",
		`Works offline, on the ledger in use, on a copy (PATH is a state directory or its ledger.db) or on an
export (PATH is a file that `+"`audit export`"+` wrote), with nothing but the public key.
In a ledger it also reads all stored content (before-images, artifacts, files) that entries and plans refer
to, and holds it against its address; content that was collected on purpose is told from lost content by the
log's own record of it.
--against a checkpoint that was kept elsewhere also shows truncation and rewriting.
Exit code 3 when it does not verify.`,
		cobra.MaximumNArgs(1), func(ctx context.Context, c *call, args []string) error {
			return c.auditVerify(ctx, args, keys, against)
		})
	cmd.Flags().StringArrayVar(&keys, "key", nil, "file with the public key (default: "+config.PublicFile+" beside the ledger)")
	cmd.Flags().StringArrayVar(&against, "against", nil, "a checkpoint that was kept elsewhere (repeatable)")
	return cmd
}

func (c *call) auditVerify(ctx context.Context, args, keys, against []string) error {
	var opts audit.Options
	for _, name := range against {
		note, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read the kept checkpoint: %w", err)
		}
		opts.Against = append(opts.Against, note)
	}
	result, err := c.verified(ctx, args, keys, opts)
	if err != nil {
		return err
	}
	code := exitOK
	if !result.OK {
		code = exitAuditFailed
	}
	if c.json {
		return errors.Join(c.out.document(struct {
			Format string `json:"format"`
			audit.Result
		}{c.format(), result}), exit(code))
	}
	if err := result.WriteText(c.out); err != nil {
		return err
	}
	return exit(code)
}

// verified verifies what args name: an export, a copy, or the ledger in use.
func (c *call) verified(ctx context.Context, args, keys []string, opts audit.Options) (audit.Result, error) {
	st, err := c.findState()
	if err != nil {
		return audit.Result{}, err
	}
	dir := st.Dir
	if len(args) > 0 {
		info, err := os.Stat(args[0])
		if err != nil {
			return audit.Result{}, fmt.Errorf("find the ledger to verify: %w", err)
		}
		dir = args[0]
		if !info.IsDir() {
			dir = filepath.Dir(args[0])
		}
		if !info.IsDir() && filepath.Base(args[0]) != sqlite.File {
			if opts.PublicKeys, err = publicKeys(dir, keys); err != nil {
				return audit.Result{}, err
			}
			return verifyExport(args[0], opts)
		}
		st = config.State{Dir: dir}
	}
	if opts.PublicKeys, err = publicKeys(dir, keys); err != nil {
		return audit.Result{}, err
	}
	store, err := c.openReadOnly(ctx, st)
	if err != nil {
		return audit.Result{}, err
	}
	result, err := audit.Verify(ctx, store, opts)
	return result, errors.Join(err, store.Close())
}

// openReadOnly opens a ledger or a copy of one without writing to it.
func (c *call) openReadOnly(ctx context.Context, st config.State) (*ledger.Store, error) {
	opts := ledger.Options{Version: c.app.Build.Version}
	if st.Embedded() {
		return sqlite.OpenReadOnly(ctx, st.Dir, opts)
	}
	return postgres.Open(ctx, st.URL, opts)
}

// publicKeys reads the keys whose signatures count.
func publicKeys(dir string, files []string) ([]string, error) {
	if len(files) == 0 {
		files = []string{filepath.Join(dir, config.PublicFile)}
	}
	var all []string
	for _, f := range files {
		keys, err := config.ReadPublicKeys(f)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &backstay.Error{
				Class: backstay.NotFound, Op: "find the public key", Subject: f, Err: fs.ErrNotExist,
				Hint: "name it with --key; it is " + config.PublicFile + " in the state directory that the ledger comes from, made there with its first checkpoint (`backstay audit checkpoint`)",
			}
		}
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	return all, nil
}

func (c *call) auditCheckpointCommand() *cobra.Command {
	var out string
	cmd := c.command("checkpoint [flags]", "Sign the ledger's head, to be kept elsewhere",
		"Signs the head of the tree with this host's key, stores the checkpoint and prints it. Kept where\nnobody who writes the ledger can change it, it shows later truncation and rewriting\n(`audit verify --against FILE`).",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.auditCheckpoint(ctx, out) })
	cmd.Flags().StringVarP(&out, "output", "o", "", "write it to this new file instead of stdout")
	return cmd
}

// checkpointDocument is the result of audit checkpoint.
type checkpointDocument struct {
	Format string `json:"format"`
	Size   int64  `json:"size"`
	Note   string `json:"note"`
	File   string `json:"file,omitempty"`
}

func (c *call) auditCheckpoint(ctx context.Context, out string) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	cp, err := audit.Checkpoint(ctx, s.store, &lateSigner{dir: s.state.Dir}, c.app.Now().UTC())
	if err != nil {
		return err
	}
	if out != "" {
		if err := writeNew(out, cp.Note); err != nil {
			return fmt.Errorf("write %s: %w", out, err)
		}
	}
	switch {
	case c.json:
		return c.out.document(checkpointDocument{c.format(), cp.Size, string(cp.Note), out})
	case out != "":
		c.out.line("wrote %s: %d entries signed", out, cp.Size)
	default:
		c.out.raw(string(cp.Note))
	}
	return nil
}

// auditSelection says which entries the log shows.
type auditSelection struct {
	deployment, step, kind, actor, since, until string
	limit                                       int
}

func (f *auditSelection) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.deployment, "deployment", "", "only this deployment")
	fl.StringVar(&f.step, "step", "", "only this step")
	fl.StringVar(&f.kind, "kind", "", "only entries of this kind (intent, transition, signal, …)")
	fl.StringVar(&f.actor, "actor", "", "only what this user (name or uid) did")
	fl.StringVar(&f.since, "since", "", "only since: 2h, 14d, 2026-11-21 or 2026-11-21T10:00:00Z")
	fl.StringVar(&f.until, "until", "", "only until then")
	fl.IntVar(&f.limit, "limit", 0, "at most this many, from the first (0: all)")
}

func (f *auditSelection) query(ctx context.Context, s *session) (ledger.Query, error) {
	q := ledger.Query{Step: f.step, Kind: backstay.EntryKind(f.kind), Actor: f.actor, AfterLeaf: -1, Limit: f.limit}
	var err error
	if q.Since, err = s.c.moment("--since", f.since); err != nil {
		return q, err
	}
	if q.Until, err = s.c.moment("--until", f.until); err != nil {
		return q, err
	}
	if f.deployment != "" {
		dep, err := s.find(ctx, f.deployment)
		if err != nil {
			return q, err
		}
		q.Deployment = dep.ID
	}
	return q, nil
}

func (c *call) auditLogCommand() *cobra.Command {
	var f auditSelection
	cmd := c.command("log [flags]", "Print the ledger's entries, oldest first",
		"One line per entry: leaf, time, actor, deployment, step, what happened. With --json one JSON\ndocument per line.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.auditLog(ctx, f) })
	f.flags(cmd)
	return cmd
}

// auditLog prints one line per entry.
func (c *call) auditLog(ctx context.Context, f auditSelection) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	q, err := f.query(ctx, s)
	if err != nil {
		return err
	}
	return audit.Log(ctx, s.store, q, func(r audit.Row) error {
		if c.json {
			return c.out.record(struct {
				Format string `json:"format"`
				audit.Row
			}{c.format(), r})
		}
		c.out.line("%s", r.String())
		return c.out.err()
	})
}

func (c *call) auditExportCommand() *cobra.Command {
	var out string
	var unsigned bool
	cmd := c.command("export [flags]", "Write all entries with proofs, to be verified alone",
		`Writes JSON Lines: a signed checkpoint, then every entry that it covers with its inclusion proof.
`+"`audit verify FILE --key KEY`"+` checks the file without the ledger. A checkpoint is signed first, so that
everything is in it, unless --no-checkpoint.`,
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.auditExport(ctx, out, !unsigned) })
	cmd.Flags().StringVarP(&out, "output", "o", "", "write it to this new file instead of stdout")
	cmd.Flags().BoolVar(&unsigned, "no-checkpoint", false, "export up to the newest checkpoint there is, and write nothing to the ledger")
	return cmd
}

func (c *call) auditExport(ctx context.Context, out string, sign bool) error {
	s, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if sign {
		if _, err := audit.Checkpoint(ctx, s.store, &lateSigner{dir: s.state.Dir}, c.app.Now().UTC()); err != nil {
			return err
		}
	}
	var done audit.Exported
	err = c.toFile(out, func(w io.Writer) (err error) {
		done, err = audit.Export(ctx, s.store, w)
		return err
	})
	if err != nil {
		return err
	}
	if out == "" {
		c.progress("exported %d entries; %d are newer than the checkpoint and not in it", done.Entries, done.Newer)
		return nil
	}
	if c.json {
		return c.out.document(struct {
			Format string `json:"format"`
			File   string `json:"file"`
			audit.Exported
		}{c.format(), out, done})
	}
	c.out.line("wrote %s: %d entries; %d are newer than the checkpoint and not in it", out, done.Entries, done.Newer)
	return nil
}

// verifyExport verifies a file that audit export wrote.
func verifyExport(name string, opts audit.Options) (result audit.Result, err error) {
	if len(opts.Against) > 0 {
		return result, usagef("--against is for a ledger; an export has its checkpoint in it")
	}
	f, err := os.Open(name)
	if err != nil {
		return result, fmt.Errorf("read the export: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return audit.VerifyExport(f, opts.PublicKeys)
}

// toFile gives write the new file, or stdout where there is no name.
func (c *call) toFile(name string, write func(io.Writer) error) (err error) {
	if name == "" {
		return write(c.out)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := write(f); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

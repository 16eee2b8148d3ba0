package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// session is the opened state of one call: ledger, kinds, identity.
type session struct {
	c        *call
	store    *ledger.Store
	kinds    Kinds
	state    config.State
	accounts *config.Accounts
	actor    backstay.Actor
	log      *slog.Logger
}

// findState resolves where the ledger is; nothing is created.
func (c *call) findState() (config.State, error) {
	host := config.ThisHost()
	host.Getenv = func(name string) string {
		v, _ := c.app.getenv(name)
		return v
	}
	return config.FindState(config.Flags{State: c.state, DataDir: c.dataDir}, host)
}

// open opens the state for a verb that may write.
func (c *call) open(ctx context.Context) (*session, error) {
	st, err := c.findState()
	if err != nil {
		return nil, err
	}
	return c.openState(ctx, st)
}

// openExisting opens the state for a verb that only looks: where nothing was
// ever deployed it creates nothing and returns a not-found error.
func (c *call) openExisting(ctx context.Context) (*session, error) {
	st, err := c.findState()
	if err != nil {
		return nil, err
	}
	if st.Embedded() {
		if _, err := os.Stat(filepath.Join(st.Dir, sqlite.File)); errors.Is(err, fs.ErrNotExist) {
			return nil, &backstay.Error{
				Class: backstay.NotFound, Op: "open ledger", Subject: st.Redacted(), Err: fmt.Errorf("%w: nothing was deployed from here yet", ledger.ErrNotFound),
				Hint: "say where the ledger is with --state or $" + config.StateVariable + ", or begin with `backstay deploy`",
			}
		}
	}
	return c.openState(ctx, st)
}

func (c *call) openState(ctx context.Context, st config.State) (*session, error) {
	accounts, err := config.ThisAccounts()
	if err != nil {
		return nil, err
	}
	kinds, err := c.app.Kinds()
	if err != nil {
		return nil, fmt.Errorf("make the step kinds: %w", err)
	}
	s := &session{c: c, kinds: kinds, state: st, accounts: accounts, actor: accounts.Actor(c.verb), log: c.logger()}
	opts := ledger.Options{Version: c.app.Build.Version, Host: s.actor.Host, TTL: c.lease, Signer: &lateSigner{dir: st.Dir}}
	if st.Embedded() {
		s.store, err = sqlite.Open(ctx, st.Dir, opts)
	} else {
		s.store, err = postgres.Open(ctx, st.URL, opts)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// close lets go of the ledger.
func (s *session) close() {
	if err := s.store.Close(); err != nil {
		s.log.Warn("closing the ledger failed", "error", err)
	}
}

// lateSigner makes or reads the audit key when the first checkpoint is signed,
// so that verbs that sign nothing touch no key.
type lateSigner struct{ dir string }

var _ ledger.Signer = (*lateSigner)(nil)

// SignCheckpoint signs with this host's audit key.
func (l *lateSigner) SignCheckpoint(ctx context.Context, origin string, head ledger.Head) ([]byte, error) {
	key, err := config.LoadOrCreateKey(l.dir)
	if err != nil {
		return nil, err
	}
	signer, err := audit.NewSigner(key.Secret.Reveal())
	if err != nil {
		return nil, err
	}
	return signer.SignCheckpoint(ctx, origin, head)
}

// logger writes diagnostics to stderr with -v.
func (c *call) logger() *slog.Logger {
	if !c.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(cleanWriter{c.err}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// cleanWriter cleans what a text handler writes.
type cleanWriter struct{ p *printer }

func (w cleanWriter) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.p, clean(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// engine makes an engine for this session. dir is where relative secret files
// start; w is shown what happens, nil nothing.
func (s *session) engine(dir string, w watch) (*engine.Engine, error) {
	secrets, err := config.NewSecrets(dir, s.c.app.getenv)
	if err != nil {
		return nil, err
	}
	opts := engine.Options{
		DataDir: s.state.DataDir, Protected: []string{s.state.Dir}, Actor: s.actor, Version: s.c.app.Build.Version, Secrets: secrets, Log: s.log,
		MemberOf: s.accounts.MemberOf, Now: s.c.app.Now,
	}
	if w != nil {
		opts.Watch, opts.Output = w.show, w.output
	}
	return engine.New(s.store, s.kinds, opts)
}

// here is an engine that shows nothing and resolves from the working directory.
func (s *session) here() (*engine.Engine, error) {
	dir, err := workingDir()
	if err != nil {
		return nil, err
	}
	return s.engine(dir, nil)
}

func workingDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	return dir, nil
}

// newID makes the ID of a deployment or signal.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return id.String(), nil
}

// recordRefusal leaves one entry about a deployment that was refused before
// the engine saw it. The refusal is returned, whatever becomes of the entry.
func (s *session) recordRefusal(ctx context.Context, release string, cause error) error {
	var refused *backstay.RefusedError
	if !errors.As(cause, &refused) {
		return cause
	}
	body := backstay.RefusedBody{What: refused.What, Release: release, Error: cause.Error()}
	if refused.Err != nil {
		body.Error = refused.Err.Error() // What is a field of its own
	}
	for _, p := range refused.Problems {
		p.Source = "" // the line could hold what does not belong into the ledger
		body.Problems = append(body.Problems, p)
	}
	entry := backstay.Entry{Kind: backstay.EntryRefused, Actor: &s.actor, Body: backstay.Canonical(body)}
	if _, err := s.store.Record(context.WithoutCancel(ctx), entry); err != nil {
		return errors.Join(cause, fmt.Errorf("record the refusal: %w", err))
	}
	return cause
}

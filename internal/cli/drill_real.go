package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/drill"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/sandbox"
)

// sandboxer is what kinds offer that know which steps may be tried.
type sandboxer interface {
	Sandbox(step backstay.Step) error
}

// furnisher is what kinds offer that start in a sandbox what runs on the host.
type furnisher interface {
	Furnish(ctx context.Context, call backstay.Call) error
}

// stander is what kinds offer whose targets are no files of this host.
type stander interface {
	drill.Targets
	Scratch(ctx context.Context, step backstay.Step, secrets backstay.Secrets) (backstay.Scratch, error)
}

// sandboxes prepares level D2: which steps can be tried, the content that the
// plan pins, and how a cell gets a sandbox of its own. remove takes away what
// that needs on the host.
func (s *session) sandboxes(ctx context.Context, made planned) (real *drill.Real, remove func(), err error) {
	if err := sandbox.Available(); err != nil {
		return nil, nil, &backstay.RefusedError{What: "drill", Err: fmt.Errorf("level D2: %w", err), Hint: "drill as root on a Linux host, or with --level D1"}
	}
	dir, err := os.MkdirTemp("", "backstay-drill-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for sandboxes: %w", err)
	}
	stand := &standIns{}
	remove = func() {
		stand.remove(ctx, s.c)
		_ = os.RemoveAll(dir) // holds nothing that is kept
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	blobs := filepath.Join(dir, "blobs")
	if err := s.exportBlobs(ctx, made.plan, blobs); err != nil {
		return nil, nil, err
	}
	real = &drill.Real{Not: map[string]string{}, Scratch: map[string]string{}, Job: drill.Job{
		DataDir: s.state.DataDir, Dir: made.dir, Blobs: blobs, Own: []string{s.state.Dir, s.state.DataDir, dir},
	}}
	for _, st := range made.plan.Steps {
		if st.Waits() {
			continue
		}
		err := errors.New("this binary cannot tell")
		if k, ok := s.kinds.(sandboxer); ok {
			err = k.Sandbox(st)
		}
		if err == nil {
			err = s.standIn(ctx, made, st, real, stand)
		}
		if err != nil {
			real.Not[st.ID] = err.Error()
			continue
		}
		real.Steps = append(real.Steps, st.ID)
	}
	real.Try = func(ctx context.Context, job drill.Job) (drill.Tried, error) { return stand.try(ctx, dir, job) }
	return real, remove, nil
}

// exportBlobs writes the content that a plan pins to a folder, for processes
// that cannot open the ledger.
func (s *session) exportBlobs(ctx context.Context, p *plan.Plan, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for pinned content: %w", err)
	}
	stored := s.store.Blobs(ctx)
	for _, digest := range p.Blobs() {
		if err := exportBlob(stored, digest, filepath.Join(dir, digest)); err != nil {
			return fmt.Errorf("copy pinned content %.12s: %w", digest, err)
		}
	}
	return nil
}

func exportBlob(stored backstay.Blobs, digest, name string) (err error) {
	from, err := stored.Get(digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// insideVerb is how this binary is told, inside a sandbox, to try one cell.
const insideVerb = "inside"

// tryInSandbox runs this binary in a new sandbox and has it try one cell.
func tryInSandbox(ctx context.Context, dir string, job drill.Job, doors ...sandbox.Door) (out drill.Tried, err error) {
	scratch, err := os.MkdirTemp(dir, "sandbox-")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.Remove(scratch)) }()
	c := sandbox.Command(ctx, scratch, "drill", insideVerb)
	shut, err := sandbox.Doors(ctx, c, doors...)
	if err != nil {
		return out, err
	}
	defer shut()
	var stderr bytes.Buffer
	c.Stdin, c.Stderr = bytes.NewReader(backstay.Canonical(job)), &stderr
	answer, err := c.Output()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return out, cause
		}
		return out, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, fmt.Errorf("read its answer: %w", err)
	}
	return out, nil
}

// drillInsideCommand tries one cell; nobody types it.
func (c *call) drillInsideCommand() *cobra.Command {
	cmd := c.command(insideVerb, "Try one cell inside a sandbox", "Backstay starts this itself.", cobra.NoArgs,
		func(ctx context.Context, c *call, _ []string) error { return c.drillInside(ctx) })
	cmd.Hidden = true
	return cmd
}

func (c *call) drillInside(ctx context.Context) error {
	if !sandbox.Inside() {
		return usagef("drill %s is started by backstay itself, in a sandbox, never by hand", insideVerb)
	}
	if err := errors.Join(sandbox.Seal(), sandbox.Listen()); err != nil {
		return err
	}
	kinds, err := c.app.Kinds()
	if err != nil {
		return err
	}
	var job drill.Job
	if err := json.NewDecoder(c.app.Stdin).Decode(&job); err != nil {
		return fmt.Errorf("read the cell: %w", err)
	}
	secrets, err := config.NewSecrets(job.Dir, c.app.getenv)
	if err != nil {
		return err
	}
	in := drill.Inside{Actions: kinds, Secrets: instead{job.Instead, secrets}, Ledger: scratchLedger, Changes: changesInside, Processes: sandbox.Processes}
	if f, ok := kinds.(furnisher); ok {
		in.Furnish = f.Furnish
	}
	in.Targets, _ = kinds.(drill.Targets) // nil where there are none
	got, err := drill.Try(ctx, job, in)
	if err != nil {
		return err
	}
	return c.out.document(got)
}

// changesInside lists what differs from the host, but for file systems of the
// kernel's.
func changesInside() ([]drill.Changed, error) {
	all, err := sandbox.Changes()
	if err != nil {
		return nil, err
	}
	out := make([]drill.Changed, len(all))
	for i, ch := range all {
		out[i] = drill.Changed{Path: ch.Path, What: ch.What, Entered: ch.Dir && ch.What == "time"}
	}
	return out, nil
}

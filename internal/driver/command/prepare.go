package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/tree"
)

const (
	// defaultTimeout is how long run and undo may take each where the step does not say.
	defaultTimeout = backstay.Duration(10 * time.Minute)
	// checkTimeout is how long a verify command may take.
	checkTimeout = backstay.Duration(time.Minute)
	// secretPrefix begins a reference to a secret.
	secretPrefix = "secret:"
	// sees is what an equivalent step restores no more than.
	sees = "what the read command does not show"
)

// preparer collects everything that is wrong with one declaration.
type preparer struct {
	req      backstay.Request
	problems []backstay.Problem
	warnings []string
	blobs    []string
	secrets  []string
}

func (p *preparer) refuse(path, message, hint string) {
	p.problems = append(p.problems, backstay.Problem{Path: path, Message: message, Hint: hint})
}

func (p *preparer) result(prepared backstay.Prepared) (backstay.Prepared, error) {
	if len(p.problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: p.problems}
	}
	prepared.Kind = "run"
	prepared.Blobs, prepared.Secrets, prepared.Warnings = p.blobs, p.secrets, p.warnings
	return prepared, nil
}

// Prepare freezes a run step.
func (d *Driver) Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c stepConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode run step: %w", err)
	}
	p := &preparer{req: req}
	b := body{V: bodyFormat, PassEnv: c.PassEnv, Ignore: c.Ignore, Background: c.Background}
	p.rules(c)
	b.Dir = p.dir(c.Dir)
	b.Env = p.env(c.Env, c.PassEnv)
	var err error
	for _, l := range []struct {
		path string
		line *Line
		into **line
	}{{"undo", c.Undo, &b.Undo}, {"read", c.Read, &b.Read}, {"probe", c.Probe, &b.Probe}} {
		if l.line == nil {
			continue
		}
		if *l.into, err = p.line(l.path, *l.line, b.Dir); err != nil {
			return backstay.Prepared{}, err
		}
	}
	run, err := p.line("run", c.Run, b.Dir)
	if err != nil {
		return backstay.Prepared{}, err
	}
	b.Run = *run
	if b.Touches, err = p.touches(ctx, c.Touches, c.Ignore, b.Dir); err != nil {
		return backstay.Prepared{}, err
	}
	return p.result(p.promise(c, b))
}

// promise says what the step's declaration is worth.
func (p *preparer) promise(c stepConfig, b body) backstay.Prepared {
	timeout := orDefault(p.req.Timeout, defaultTimeout)
	out := backstay.Prepared{
		Body: backstay.Canonical(b), Fence: backstay.Leased, Window: timeout,
		Timeout: timeout, UndoTimeout: orDefault(p.req.UndoTimeout, defaultTimeout),
		HasUndo: c.Irreversible == "", Irreversible: c.Irreversible,
		Restorable: len(b.Touches) > 0, Summary: "run " + c.Run.String(),
	}
	for _, t := range b.Touches {
		out.Keys = append(out.Keys, backstay.Key("file:"+t))
	}
	// The key of the step itself stands for what lies outside the paths. A
	// step that only touches paths has nothing there.
	if len(b.Touches) == 0 || c.Undo != nil || c.Read != nil {
		out.Keys = append(out.Keys, keyOf(p.req.Release, p.req.ID))
	}
	switch {
	case c.Irreversible != "":
		out.Class = backstay.Irreversible
	case c.Read != nil:
		out.Class, out.Modulo = backstay.Equivalent, []string{sees}
	case c.Undo != nil:
		out.Class = backstay.Compensated
	default:
		out.Class = backstay.Exact
	}
	switch {
	case c.Idempotent:
		out.Effect = backstay.Idempotent
	case c.Probe != nil, c.Read != nil, len(b.Touches) > 0:
		// Read and before-images answer like a probe: only a step that is seen
		// not to have been applied is ever run again.
		out.Effect = backstay.Probed
	default:
		out.Effect = backstay.AtMostOnce
	}
	var undo []string
	if c.Undo != nil {
		undo = append(undo, "run "+c.Undo.String())
	}
	if len(b.Touches) > 0 {
		undo = append(undo, "restore "+strings.Join(b.Touches, ", "))
	}
	out.UndoSummary = strings.Join(undo, ", then ")
	var read []string
	if len(b.Touches) > 0 {
		read = append(read, "look at "+strings.Join(b.Touches, ", "))
	}
	if c.Read != nil {
		read = append(read, "run "+c.Read.String())
	}
	if c.Undo == nil || c.Read != nil || len(b.Touches) == 0 {
		out.ReadSummary = strings.Join(read, "; ")
	}
	return out
}

func orDefault(d, standard backstay.Duration) backstay.Duration {
	if d > 0 {
		return d
	}
	return standard
}

// rules checks what the keys mean together.
func (p *preparer) rules(c stepConfig) {
	reversible := c.Undo != nil || len(c.Touches) > 0
	switch {
	case !reversible && c.Irreversible == "":
		p.refuse("run", "nothing says how to take this back",
			`add one of: undo: (a command that takes it back), touches: (the paths that it changes; Backstay restores them), or irreversible: "why"`)
	case reversible && c.Irreversible != "":
		p.refuse("irreversible", "the step also has an undo or touches, so it is not irreversible",
			"split what can be taken back into a step of its own, or drop irreversible")
	}
	if c.Irreversible != "" && strings.TrimSpace(c.Irreversible) == "" {
		p.refuse("irreversible", "the reason is blank", "say why it cannot be undone: people approve it by that")
	}
	if len(c.Ignore) > 0 && len(c.Touches) == 0 {
		p.refuse("ignore", "there are no touched paths to ignore something in", "add touches:, or drop ignore")
	}
	for i, pattern := range c.Ignore {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			p.refuse(fmt.Sprintf("ignore[%d]", i), fmt.Sprintf("%q is not a pattern", pattern), "such as cache or *.log")
		}
	}
}

// dir makes the working directory absolute.
func (p *preparer) dir(dir string) string {
	if dir == "" {
		return filepath.Clean(p.req.Dir)
	}
	if strings.ContainsRune(dir, 0) {
		p.refuse("dir", "holds a NUL byte", "")
		return p.req.Dir
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(p.req.Dir, dir)
	}
	return filepath.Clean(dir)
}

// env checks the variables and that their references resolve.
func (p *preparer) env(env map[string]string, pass []string) map[string]string {
	problems, references := driver.CheckEnv("env", env, p.req.Secrets)
	p.problems = append(p.problems, problems...)
	p.secrets = append(p.secrets, references...)
	for i, name := range pass {
		at := fmt.Sprintf("pass-env[%d]", i)
		if why, hint := driver.RefuseVariable(name); why != "" {
			p.refuse(at, why, hint)
		}
		if _, both := env[name]; both {
			p.refuse(at, name+" is also set by env", "drop one of them")
		}
	}
	return env
}

// line freezes one command.
func (p *preparer) line(at string, l Line, dir string) (*line, error) {
	switch {
	case l.Argv == nil && strings.TrimSpace(l.Shell) == "", l.Argv != nil && (len(l.Argv) == 0 || l.Argv[0] == ""):
		p.refuse(at, "is empty", "give a shell script, or a list of a program and its arguments")
		return &line{Line: l}, nil
	case strings.ContainsRune(l.Shell+strings.Join(l.Argv, ""), 0):
		p.refuse(at, "holds a NUL byte", "")
		return &line{Line: l}, nil
	}
	pinned, warning, err := newPin(l, p.req.Dir, dir, p.req.Blobs)
	if known := new(backstay.Error); errors.As(err, &known) && known.Class == "" && known.Op == "" {
		p.refuse(at, known.Error(), known.Hint)
	} else if err != nil {
		return nil, err
	}
	if warning != "" {
		p.warnings = append(p.warnings, at+": "+warning)
	}
	if pinned != nil && !slices.Contains(p.blobs, pinned.Digest) {
		p.blobs = append(p.blobs, pinned.Digest)
	}
	return &line{Line: l, Pin: pinned}, nil
}

// touches makes the paths absolute and refuses what could not be restored.
func (p *preparer) touches(ctx context.Context, paths, ignore []string, dir string) ([]string, error) {
	var clean []string
	for i, t := range paths {
		at := fmt.Sprintf("touches[%d]", i)
		if t == "" || strings.ContainsRune(t, 0) {
			p.refuse(at, "is not a path", "")
			continue
		}
		if !filepath.IsAbs(t) {
			t = filepath.Join(dir, t)
		}
		t = filepath.Clean(t)
		data := filepath.Clean(p.req.DataDir)
		switch {
		case t == "/":
			p.refuse(at, "the whole file system cannot be kept", "name the paths that the command changes")
			continue
		case p.req.DataDir != "" && overlap(t, data):
			p.refuse(at, t+" overlaps with Backstay's own data in "+data, "name the paths that the command changes, not ones above or inside Backstay's data")
			continue
		}
		if j := slices.IndexFunc(clean, func(o string) bool { return overlap(o, t) }); j >= 0 {
			p.refuse(at, t+" overlaps with "+clean[j], "keep the upper one only")
			continue
		}
		clean = append(clean, t)
		_, err := tree.Capture(ctx, t, tree.Options{Blobs: discard{}, Ignore: ignore})
		if ctx.Err() != nil {
			return nil, fmt.Errorf("look at %s: %w", t, context.Cause(ctx))
		}
		if err != nil {
			p.refuse(at, err.Error(), backstay.HintOf(err))
		}
	}
	return clean, nil
}

func overlap(a, b string) bool {
	return backstay.Key("file:" + a).Overlaps(backstay.Key("file:" + b))
}

// discard takes content only to see that it can be read.
type discard struct{}

var _ backstay.Blobs = discard{}

func (discard) Put(r io.Reader) (string, int64, error) { return digestOf(r) }

func (discard) Has(string) (bool, error) { return false, nil }

func (discard) Get(digest string) (io.ReadCloser, error) {
	return nil, &backstay.Error{Class: backstay.NotFound, Op: "open content", Subject: digest, Err: os.ErrNotExist}
}

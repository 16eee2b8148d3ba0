package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// wrapFlags are wrap's own flags.
type wrapFlags struct {
	touch   []string
	ignore  []string
	undo    string
	read    string
	name    string
	timeout time.Duration
	reason  string
	accept  bool
}

func (c *call) wrapCommand() *cobra.Command {
	var f wrapFlags
	cmd := c.command("wrap [--touch PATH]… [--undo CMD] [flags] -- CMD…", "Run an existing script as a transaction",
		`Runs a command as a deployment of one step. Every PATH is kept as it was before; when the command
fails (or is interrupted, or this process dies and `+"`backstay recover`"+` runs) it is put back: content,
mode, owner, links, created and deleted files. With --undo a command of yours takes the rest back.

The command runs here, with this environment; its output is shown as it comes. Variables are passed
by name and not recorded.`,
		cobra.MinimumNArgs(1), func(ctx context.Context, c *call, args []string) error { return c.wrap(ctx, args, f) })
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.StringArrayVar(&f.touch, "touch", nil, "a path that the command changes (repeatable)")
	fl.StringArrayVar(&f.ignore, "ignore", nil, "leave alone what matches this below the touched paths (repeatable)")
	fl.StringVar(&f.undo, "undo", "", "a shell command that takes back what lies outside the touched paths")
	fl.StringVar(&f.read, "read", "", "a shell command that prints the state which CMD changes")
	fl.StringVar(&f.name, "name", "", "name of the release (default: the command's base name)")
	fl.DurationVar(&f.timeout, "timeout", 0, "end the command after this long (default 10m)")
	fl.StringVar(&f.reason, "reason", "", "why, for the ledger")
	fl.BoolVar(&f.accept, "accept-drift", false, "run although a touched path differs from what the ledger says")
	return cmd
}

func (c *call) wrap(ctx context.Context, argv []string, f wrapFlags) error {
	if len(f.touch) == 0 && f.undo == "" {
		return &backstay.RefusedError{
			What: "wrap", Err: errors.New("nothing says how to take the command back"),
			Hint: "name the paths that it changes: --touch PATH (repeatable), or give --undo CMD",
		}
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	loaded, err := c.wrapSpec(argv, f, s.kinds)
	if err != nil {
		return s.recordRefusal(ctx, f.name, err)
	}
	made, err := s.planSpec(ctx, loaded)
	if err != nil {
		return s.recordRefusal(ctx, loaded.Release, err)
	}
	locked, err := s.lockedFor(ctx, made.plan)
	if err != nil {
		return err
	}
	if locked != nil {
		return s.recordLocked(ctx, made.plan, locked)
	}
	c.verbose = true // what the command prints is what the user came for
	sum, err := s.deployPlan(ctx, made, deployFlags{reason: f.reason, acceptDrift: f.accept})
	if err != nil {
		return err
	}
	return s.end(ctx, sum)
}

// wrapSpec is the specification that a wrapped command stands for. It is made
// as a document, so that the command goes through the same checks as any step.
func (c *call) wrapSpec(argv []string, f wrapFlags, kinds Kinds) (*spec.Spec, error) {
	dir, err := workingDir()
	if err != nil {
		return nil, err
	}
	name := orWord(f.name, releaseName(argv[0]))
	step := map[string]any{"name": name, "run": escaped(argv), "pass-env": c.passedOn()}
	if len(f.touch) > 0 {
		step["touches"] = escaped(f.touch)
	}
	if len(f.ignore) > 0 {
		step["ignore"] = escaped(f.ignore)
	}
	if f.undo != "" {
		step["undo"] = escape(f.undo)
	}
	if f.read != "" {
		step["read"] = escape(f.read)
	}
	if f.timeout > 0 {
		step["timeout"] = f.timeout.String()
	}
	// JSON is YAML, and has one way to write a text.
	doc := backstay.Canonical(map[string]any{"backstay": spec.Format, "release": name, "steps": []any{step}})
	loaded, err := spec.Parse(spec.Text{Name: "wrap", Data: doc}, nil, spec.Source{}, kinds)
	var refused *backstay.RefusedError
	if errors.As(err, &refused) {
		// The document is ours: its lines mean nothing to the user.
		for i := range refused.Problems {
			p := &refused.Problems[i]
			p.File, p.Line, p.Column, p.Source = "", 0, 0, ""
		}
		refused.What = "wrap"
	}
	if err != nil {
		return nil, err
	}
	loaded.Dir = dir
	return loaded, nil
}

// passedOn are the names of the environment variables that the command gets:
// all of them, but for those by which a variable becomes code (a step refuses
// them) and Backstay's own.
func (c *call) passedOn() []string {
	names := []string{}
	for _, pair := range c.app.Environ {
		name, _, _ := strings.Cut(pair, "=")
		if !isVariable(name) || strings.HasPrefix(name, "BACKSTAY_") || strings.HasPrefix(name, "LD_") ||
			slices.Contains([]string{"BASH_ENV", "ENV", "GCONV_PATH"}, name) {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func isVariable(name string) bool {
	for i, r := range name {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// releaseName makes a release's name of a command: its base name without what
// a name may not hold.
func releaseName(command string) string {
	base := filepath.Base(command)
	if ext := filepath.Ext(base); ext != "" && len(ext) < len(base) {
		base = strings.TrimSuffix(base, ext)
	}
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, base), "-")
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		name = strings.TrimSuffix(fmt.Sprintf("wrap-%s", name), "-")
	}
	const most = 40
	return strings.Trim(name[:min(len(name), most)], "-")
}

// escape keeps ${…} from being read as an input.
func escape(s string) string { return strings.ReplaceAll(s, "${", "$${") }

func escaped(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = escape(s)
	}
	return out
}

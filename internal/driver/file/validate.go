package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
)

// placeholder in a validation command stands for the path of the new content.
const placeholder = "{path}"

// environment is all that a validation command gets of one.
func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"}
}

// validator checks the declared command and makes its program absolute.
func (p *preparation) validator() []string {
	argv := slices.Clone(p.cfg.Validate)
	if len(argv) == 0 {
		return nil
	}
	if !slices.ContainsFunc(argv[1:], func(arg string) bool { return strings.Contains(arg, placeholder) }) {
		p.problems.add("validate", "put {path} where the command takes the file", "the command does not name %s", placeholder)
	}
	for _, arg := range argv {
		if strings.Contains(arg, "\x00") {
			p.problems.add("validate", "", "%q holds a NUL", arg)
			return nil
		}
	}
	program := argv[0]
	if filepath.Base(program) != program && !filepath.IsAbs(program) {
		p.problems.add("validate", "give its absolute path, or a name on PATH", "the program %q is relative", program)
		return nil
	}
	found, err := exec.LookPath(program)
	if err != nil || !filepath.IsAbs(found) {
		p.problems.add("validate", "install it first, or give its absolute path", "there is no program %q on this host", program)
		return nil
	}
	argv[0] = found
	return argv
}

// validate runs the command on the complete new content. It is killed with its
// whole process group when ctx ends, and nothing of the group outlives it.
func (b body) validate(ctx context.Context, call backstay.Call, temp string) error {
	argv := slices.Clone(b.Validate)
	for i := range argv[1:] {
		argv[i+1] = strings.ReplaceAll(argv[i+1], placeholder, temp)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", environment()
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	out := call.Output
	if out == nil {
		out = io.Discard
	}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if cmd.Process != nil {
		if killErr := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); killErr != nil && !errors.Is(killErr, unix.ESRCH) {
			err = errors.Join(err, killErr)
		}
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr //nolint:wrapcheck // callers compare it
	}
	if err != nil {
		return &backstay.Error{
			Class: backstay.Permanent, Op: "validate", Subject: b.Path,
			Err:  fmt.Errorf("%s refused the new content: %w", filepath.Base(argv[0]), err),
			Hint: "see the step's output; the old file is still in place",
		}
	}
	return nil
}

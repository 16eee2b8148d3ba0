package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proc"
	"github.com/backstay-dev/backstay/internal/tree"
)

const (
	// maxRead bounds what a read command may print.
	maxRead = 1 << 20
	// readTimeout is how long a read or probe command may take.
	readTimeout = time.Minute
	// exitTempFail is EX_TEMPFAIL of sysexits.h: try again later.
	exitTempFail = 75
)

// Do runs the command.
func (d *Driver) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	return d.act(ctx, call, b, "run", b.Run)
}

// Undo runs the undo command, if there is one, then restores the listed parts
// of the touched paths. A failed command does not keep the paths from being
// restored.
func (d *Driver) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	parts := maps.Clone(call.Restore)
	var result backstay.Result
	var failed error
	if b.Undo != nil {
		clean, err := untouched(ctx, b, call.Before)
		if err != nil {
			return result, err
		}
		result, failed = d.act(ctx, call, b, "undo", *b.Undo)
		if parts, err = dirtied(ctx, b, call.Before, clean, parts); err != nil {
			return result, errors.Join(failed, err)
		}
	}
	for _, p := range b.Touches {
		key := backstay.Key("file:" + p)
		failed = errors.Join(failed, tree.Restore(ctx, p, call.Before[key], parts[key], call.Blobs))
	}
	return result, failed
}

// untouched reads, per touched path, the state before the undo command runs.
func untouched(ctx context.Context, b body, before backstay.Image) (map[string]backstay.ResourceState, error) {
	states := make(map[string]backstay.ResourceState, len(b.Touches))
	for _, p := range b.Touches {
		if _, known := before[backstay.Key("file:"+p)]; !known {
			continue
		}
		state, err := tree.Capture(ctx, p, tree.Options{Ignore: b.Ignore})
		if err != nil {
			return nil, fmt.Errorf("look ahead of the undo command: %w", err)
		}
		states[p] = state
	}
	return states, nil
}

// dirtied adds to the parts to restore those that were as before until the
// undo command changed them: that was us, and no outsider.
func dirtied(ctx context.Context, b body, before backstay.Image, clean map[string]backstay.ResourceState, parts map[backstay.Key][]string) (map[backstay.Key][]string, error) {
	all := map[backstay.Key][]string{}
	maps.Copy(all, parts)
	for p, was := range clean {
		key := backstay.Key("file:" + p)
		now, err := tree.Capture(ctx, p, tree.Options{Ignore: b.Ignore})
		if err != nil {
			return nil, fmt.Errorf("look at what the undo command left: %w", err)
		}
		for _, part := range tree.Differing(before[key], now) {
			if bytes.Equal(was.Parts[part], before[key].Parts[part]) && !slices.Contains(all[key], part) {
				all[key] = append(slices.Clone(all[key]), part)
			}
		}
	}
	return all, nil
}

// Observe reads the touched paths and what the read command prints.
func (d *Driver) Observe(ctx context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	image := backstay.Image{}
	for _, p := range b.Touches {
		state, err := tree.Capture(ctx, p, tree.Options{Blobs: call.Blobs, Ignore: b.Ignore})
		if ctx.Err() != nil {
			return nil, fmt.Errorf("look at %s: %w", p, context.Cause(ctx))
		}
		if err != nil {
			state = backstay.ResourceState{Unreadable: err.Error()}
		}
		image[backstay.Key("file:"+p)] = state
	}
	key, has := ownKey(call.Step)
	switch {
	case !has:
	case b.Read == nil:
		image[key] = backstay.ResourceState{Opaque: true}
	default:
		value, why, err := d.read(ctx, call, b)
		if err != nil {
			return nil, err
		}
		image[key] = backstay.PartValue(value)
		if why != "" {
			image[key] = backstay.ResourceState{Unreadable: why}
		}
	}
	return image, nil
}

// read runs the read command. Why says for what reason its output is no state.
func (d *Driver) read(ctx context.Context, call backstay.Call, b body) (value, why string, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, readTimeout, fmt.Errorf("took longer than %s", readTimeout))
	defer cancel()
	out := &boundedBuffer{limit: maxRead}
	c, err := d.command(bounded, call, b, "read", *b.Read)
	if err != nil {
		return "", "", err
	}
	c.Stdout = out
	exit, err := proc.Run(bounded, c)
	text := strings.TrimSpace(out.String())
	switch {
	case ctx.Err() != nil:
		return "", "", fmt.Errorf("run read command: %w", context.Cause(ctx))
	case err != nil:
		return "", "read command: " + err.Error(), nil
	case !exit.OK():
		return "", "the read command " + exit.String(), nil
	case !utf8.ValidString(text):
		return "", "the read command does not print UTF-8 text", nil
	}
	for name, value := range c.Env {
		if strings.HasPrefix(b.Env[name], secretPrefix) && value != "" && strings.Contains(text, value) {
			return "", "the read command prints the secret " + b.Env[name] + ", which must not be kept", nil
		}
	}
	return text, "", nil
}

// Probe asks the probe command whether an interrupted run was applied.
func (d *Driver) Probe(ctx context.Context, call backstay.Call) (backstay.Finding, error) {
	b, err := decode(call.Step)
	if err != nil || b.Probe == nil {
		return backstay.Unknown, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, readTimeout, fmt.Errorf("took longer than %s", readTimeout))
	defer cancel()
	c, err := d.command(bounded, call, b, "probe", *b.Probe)
	if err != nil {
		return backstay.Unknown, err
	}
	exit, err := proc.Run(bounded, c)
	switch {
	case err != nil:
		return backstay.Unknown, fmt.Errorf("probe: %w", err)
	case exit.OK():
		return backstay.Applied, nil
	case exit.Code == 1:
		return backstay.NotApplied, nil
	}
	return backstay.Unknown, nil
}

// Reap ends what earlier epochs of this step left running.
func (d *Driver) Reap(ctx context.Context, call backstay.Call) error {
	if err := proc.EndToken(ctx, proc.OlderActs(call.Deployment, call.Step.ID, call.Token)); err != nil {
		return fmt.Errorf("end leftovers of step %s: %w", call.Step.ID, err)
	}
	return nil
}

// act runs one changing command and says how it ended, without its output.
func (d *Driver) act(ctx context.Context, call backstay.Call, b body, act string, l line) (backstay.Result, error) {
	c, err := d.command(ctx, call, b, act, l)
	if err != nil {
		return backstay.Result{}, err
	}
	c.Detached = b.Background
	exit, err := proc.Run(ctx, c)
	var result backstay.Result
	if exit.Leftovers > 0 {
		result.Note = fmt.Sprintf("ended %d process(es) that %q had left running (background: true keeps them)", exit.Leftovers, l.Line)
	}
	if err != nil {
		return result, startError(act, l, err)
	}
	if exit.OK() {
		return result, nil
	}
	e := &backstay.Error{
		Class: backstay.Permanent, Op: act, Subject: strconv.Quote(l.Line.String()),
		Err: fmt.Errorf("it %s (see output)", exit),
	}
	switch exit.Code {
	case exitTempFail:
		e.Class = backstay.Transient
	case 126:
		e.Hint = "the shell found the command but cannot execute it: check its mode and first line"
	case 127:
		e.Hint = "the shell did not find a command: check the path, and env: {PATH: …}"
	}
	return result, e
}

func startError(act string, l line, err error) error {
	if start := new(proc.StartError); errors.As(err, &start) {
		e := &backstay.Error{Class: backstay.Permanent, Op: act, Subject: strconv.Quote(l.Line.String()), Err: err}
		if errors.Is(err, os.ErrNotExist) {
			e.Class, e.Hint = backstay.NotFound, "check the program's path, its first line (#!) and the working directory"
		}
		return e
	}
	return fmt.Errorf("%s: %w", act, err)
}

// command fills in what all commands of a step share. Secrets are resolved
// here and live only as long as the command.
func (d *Driver) command(ctx context.Context, call backstay.Call, b body, act string, l line) (proc.Command, error) {
	if err := ctx.Err(); err != nil {
		return proc.Command{}, fmt.Errorf("%s: %w", act, context.Cause(ctx))
	}
	argv, err := l.resolve(ctx, call)
	if err != nil {
		return proc.Command{}, err
	}
	env := make(map[string]string, len(b.Env)+len(b.PassEnv))
	for _, name := range b.PassEnv {
		if value, ok := os.LookupEnv(name); ok {
			env[name] = value
		}
	}
	maps.Copy(env, b.Env)
	for name, value := range env {
		if _, declared := b.Env[name]; !declared || !strings.HasPrefix(value, secretPrefix) {
			continue
		}
		if call.Secrets == nil {
			return proc.Command{}, fmt.Errorf("resolve env %s: no secrets are available here", name)
		}
		if env[name], err = call.Secrets.Resolve(value); err != nil {
			return proc.Command{}, fmt.Errorf("resolve env %s: %w", name, err)
		}
	}
	return proc.Command{
		Argv: argv, Env: env, Dir: b.Dir, Output: call.Output,
		Info: map[string]string{
			proc.EnvPrefix + "DEPLOYMENT":      call.Deployment,
			proc.EnvPrefix + "RELEASE":         call.Release,
			proc.EnvPrefix + "STEP":            call.Step.ID,
			proc.EnvPrefix + "ACT":             act,
			proc.EnvPrefix + "IDEMPOTENCY_KEY": call.IdempotencyKey,
		},
		Token: proc.Token{Deployment: call.Deployment, Step: call.Step.ID, Fence: call.Token},
	}, nil
}

// boundedBuffer keeps what is written and refuses more than its limit.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("it prints more than %d KiB", b.limit>>10)
	}
	return b.Buffer.Write(p) //nolint:wrapcheck // never fails
}

func digestOf(r io.Reader) (digest string, size int64, err error) {
	sum := sha256.New()
	size, err = io.Copy(sum, r)
	return hex.EncodeToString(sum.Sum(nil)), size, err
}

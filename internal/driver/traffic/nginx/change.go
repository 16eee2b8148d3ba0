package nginx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/traffic/router"
	"github.com/backstay-dev/backstay/internal/durable"
)

// Change writes the file, lets nginx check it, reloads, and waits until nginx
// answers with its mark only.
func (r *Router) Change(ctx context.Context, now *router.Route, c router.Change) error {
	d, err := detailOf(now)
	if err != nil {
		return err
	}
	want, err := r.wanted(now, d, c)
	if err != nil {
		return err
	}
	if err := r.awaitReady(ctx, now, d, want, c); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("change upstream: %w", ctx.Err())
	}
	fresh, err := r.look()
	if err != nil {
		return err
	}
	if fresh.text != d.text {
		return &backstay.Error{Class: backstay.Conflict, Op: "change upstream", Subject: r.c.Upstream, Err: fmt.Errorf("%s changed since it was read", r.c.File), Hint: "somebody else writes it: look at it, then deploy again"}
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return fmt.Errorf("change upstream: %w", err)
	}
	if err := r.install(ctx, d, want); err != nil {
		return err
	}
	return r.confirm(ctx, want)
}

// wanted is the text that the file shall have.
func (r *Router) wanted(now *router.Route, d *detail, c router.Change) (string, error) {
	f, weights := d.file, now.Weights
	for _, side := range slices.Sorted(maps.Keys(c.Sides)) {
		var err error
		if f, err = f.put(side, c.Sides[side]); err != nil {
			return "", err
		}
	}
	if c.Weights != nil {
		weights = c.Weights
	}
	for _, side := range slices.Sorted(maps.Keys(weights)) {
		if weights[side] > 0 && len(f.of(side)) == 0 {
			if now.Side(side) == nil {
				return "", &backstay.Error{Class: backstay.NotFound, Op: "move traffic", Err: fmt.Errorf("upstream %s has no side %q", r.c.Upstream, side), Hint: "register its instances first"}
			}
			return "", router.NotReady(side, weights[side], 0, []string{"it would have no instances"})
		}
	}
	if len(f.servers) == 0 {
		return "", &backstay.Error{Class: backstay.Permanent, Op: "change upstream", Subject: r.c.Upstream, Err: errors.New("it would have no servers"), Hint: "nginx needs one"}
	}
	f = f.weighed(weights)
	if len(c.Own) == 0 {
		return f.text(), nil
	}
	return r.owned(f, c.Own)
}

// owned is the text of nginx's own account, if it has just the servers that the
// route shall have.
func (r *Router) owned(f file, account json.RawMessage) (string, error) {
	var o own
	if err := json.Unmarshal(account, &o); err != nil {
		return "", fmt.Errorf("read nginx's own account: %w", err)
	}
	old, err := parse(o.Text, r.c.Upstream)
	if err != nil {
		return "", fmt.Errorf("read nginx's own account: %w", err)
	}
	for _, side := range append(old.sides(), f.sides()...) {
		if !bytes.Equal(old.account(side), f.account(side)) {
			return "", &backstay.Error{Class: backstay.Conflict, Op: "put back", Subject: r.c.File, Err: fmt.Errorf("side %s has other servers now than in the text to be put back", side), Hint: "put it back by hand"}
		}
	}
	return o.Text, nil
}

// awaitReady refuses what would give a side more than it is ready for. Instances
// that take over in a side with traffic are waited for.
func (r *Router) awaitReady(ctx context.Context, now *router.Route, d *detail, text string, c router.Change) error {
	want, err := parse(text, r.c.Upstream)
	if err != nil {
		return fmt.Errorf("read what is to be written: %w", err)
	}
	weights := want.weights()
	for _, side := range slices.Sorted(maps.Keys(weights)) {
		changed := !bytes.Equal(want.account(side), d.file.account(side))
		if weights[side] <= now.Weights[side] && !changed {
			continue
		}
		waiting, cancel := context.WithTimeout(ctx, max(c.Within, 0))
		err := until(waiting, func() error {
			ready, why := r.well(ctx, want.of(side))
			if capacity := min(100, ready*r.c.Capacity); weights[side] > capacity || changed && len(why) > 0 {
				return router.NotReady(side, weights[side], capacity, why)
			}
			return nil
		})
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("wait for side %s: %w", side, ctx.Err())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// until asks until there is no error or ctx ends; at least once.
func until(ctx context.Context, ask func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// install writes the file and lets nginx load it. What nginx refuses is put back.
func (r *Router) install(ctx context.Context, d *detail, text string) error {
	attr := durable.Attr{Mode: d.info.Mode().Perm()}
	if st, ok := d.info.Sys().(*syscall.Stat_t); ok {
		attr.Owner = &durable.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	}
	write := func(text string) error {
		if err := durable.WriteFile(r.c.File, strings.NewReader(text), attr); err != nil {
			return fmt.Errorf("write upstream %s: %w", r.c.Upstream, err)
		}
		return nil
	}
	if err := write(text); err != nil {
		return err
	}
	for _, command := range [][]string{r.c.Test, r.c.Reload} {
		err := run(ctx, command, r.takes())
		if err == nil {
			continue
		}
		// Also where ctx has ended; but without the lease what is written may be another's.
		if _, lapsed := backstay.LeaseLeft(context.WithoutCancel(ctx)); lapsed != nil {
			return errors.Join(err, lapsed)
		}
		return errors.Join(err, write(d.text))
	}
	return nil
}

// run runs a command with a bounded time and output, and ends it as a group.
func run(ctx context.Context, argv []string, takes time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, takes, fmt.Errorf("%s did not end within %s", argv[0], takes))
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return &backstay.Error{
		Class: backstay.Permanent, Op: "run", Subject: filepath.Base(strings.Join(argv, " ")), Err: fmt.Errorf("%w: %s", err, out),
		Hint: "the file is as it was; run the command by hand to see more",
	}
}

// tail keeps the last part of what is written.
type tail struct{ text []byte }

// Write keeps it.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-2000):]
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.text)) }

// confirm waits until nginx answers with the text's mark only.
func (r *Router) confirm(ctx context.Context, text string) error {
	f, err := parse(text, r.c.Upstream)
	if err != nil {
		return fmt.Errorf("read what was written: %w", err)
	}
	takes := r.takes()
	ctx, cancel := context.WithTimeoutCause(ctx, takes, fmt.Errorf("nginx did not load %s within %s", r.c.File, takes))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	since, last := time.Time{}, "no answer"
	for {
		switch mark, err := r.loaded(ctx); {
		case err != nil:
			since, last = time.Time{}, err.Error()
		case mark != f.mark:
			since, last = time.Time{}, "it answers with the mark "+mark
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= settle:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &backstay.Error{Class: backstay.Permanent, Op: "load", Subject: r.c.File, Err: fmt.Errorf("%w (%s)", context.Cause(ctx), last), Hint: "nginx's error log says why; the file is written"}
		}
	}
}

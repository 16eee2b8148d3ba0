package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// children is how many processes a bomb forks: bounded, should it ever escape.
const children = 2000

// bomb forks children that sleep, every other one in a session of its own,
// counts the ones that it got, and waits.
func bomb(t *testing.T) Command {
	t.Helper()
	c := script(t, fmt.Sprintf(`i=0
while [ $i -lt %d ]; do
	sleep 600 & setsid sleep 600 & i=$((i+2)); echo $i
done
touch up
wait`, children))
	t.Cleanup(func() {
		if err := EndToken(context.WithoutCancel(t.Context()), func(o Token) bool { return o.Deployment == c.Token.Deployment }); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return c
}

// A step that forks 2,000 processes and is then late is ended whole.
func TestRunEndsForkBomb(t *testing.T) {
	t.Parallel()
	c := bomb(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, c)
		done <- err
	}()
	eventually(t, "the bomb's end", func() bool { _, err := os.Stat(filepath.Join(c.Dir, "up")); return err == nil })
	eventually(t, "all of the bomb's processes", func() bool { // one that is just becoming sleep has no environment yet
		alive, err := Find(func(o Token) bool { return o == c.Token })
		return err == nil && len(alive) >= children
	})
	late := errors.New("the step is late")
	cancel(late)
	if err := <-done; !errors.Is(err, late) {
		t.Errorf("error %v, want the context's cause", err)
	}
	noneLeft(t, c.Token)
}

// Where the host lets a run be bounded, it gets so many tasks and no more.
func TestRunLimitsTasks(t *testing.T) {
	t.Parallel()
	const limit = 200
	if !limits(limit) {
		t.Skip("this host gives no writable control group with the pids controller: nothing bounds a run's processes here")
	}
	c := bomb(t)
	c.maxTasks = limit
	var out bytes.Buffer
	c.Output = &out
	exit, err := Run(t.Context(), c)
	if err != nil || exit.OK() {
		t.Errorf("%v, %v; want a shell that cannot fork", exit, err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "up")); err == nil || !strings.Contains(strings.ToLower(out.String()), "fork") {
		t.Errorf("it was not stopped by the limit: %.200s", &out)
	}
	got := 0
	for line := range strings.Lines(out.String()) {
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			got = n
		}
	}
	if got >= limit || got < limit/2 {
		t.Errorf("it forked %d processes under a limit of %d", got, limit)
	}
	noneLeft(t, c.Token)
	for _, controller := range []string{unified, "pids"} {
		if own, ok := ownCgroup("/proc/self/mountinfo", "/proc/self/cgroup", controller); ok {
			eventually(t, "the removal of the run's group in "+own, func() bool { return !groupOf(t, own, limit) })
		}
	}
}

// groupOf reports whether a group with exactly that limit lies below own.
func groupOf(t *testing.T, own string, limit int) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(own, cgroupPrefix+"*", "pids.max"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(limit) {
			return true
		}
	}
	return false
}

// limits reports whether this host lets a run be bounded.
func limits(limit int) bool {
	if g := newPidsGroup(limit); g != nil {
		g.remove()
		return true
	}
	c := newCgroup(limit)
	if c == nil {
		return false
	}
	defer c.remove()
	return limitTasks(c.path, limit) == nil
}

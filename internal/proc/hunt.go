package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one running process that carries a token.
type Process struct {
	Identity
	Token Token
	// Run is the name of the run or detached process that it belongs to.
	Run string
}

// Find lists the running processes whose token matches, by pid. The calling
// process and its ancestors are never among them.
func Find(match func(Token) bool) ([]Process, error) {
	snap, err := takeSnapshot()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	own := snap.ancestors(os.Getpid())
	var found []Process
	for pid := range snap.stats {
		if own[pid] {
			continue
		}
		if m := markers(pid); m.hasToken && match(m.token) {
			found = append(found, Process{Identity: snap.identity(pid), Token: m.token, Run: m.run})
		}
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

// EndToken kills every process whose token matches, and all their descendants,
// and returns when none is left. Runs named in keep are spared (live service
// instances). The calling process and its ancestors are never touched.
func EndToken(ctx context.Context, match func(Token) bool, keep ...string) error {
	return hunt(ctx, "end processes by token", func(_ stat, m processMarkers) bool {
		return m.hasToken && match(m.token) && !slices.Contains(keep, m.run)
	})
}

// EndRun kills what is left of one run or detached process: everything that
// carries its name, and all descendants. It returns when none is left.
func EndRun(ctx context.Context, run string) error {
	if run == "" {
		return nil
	}
	return hunt(ctx, "end run", func(_ stat, m processMarkers) bool { return m.run == run })
}

// Stop ends a detached process for good: SIGTERM to the process itself, up to
// drain for it to end, then SIGKILL for it and whatever belongs to its run
// (by name, by descent, by session). An identity that does not run any more
// gets no signal; leftovers of its run are killed all the same.
func Stop(ctx context.Context, id Identity, run string, drain time.Duration) error {
	if err := id.Signal(unix.SIGTERM); err == nil {
		waitGone(ctx, id, drain)
	} else if !errors.Is(err, ErrGone) {
		return fmt.Errorf("stop process %d: %w", id.PID, err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	return hunt(ctx, "stop process", func(st stat, m processMarkers) bool {
		if run != "" && m.run == run {
			return true
		}
		if boot != id.BootID || id.PID <= 0 {
			return false
		}
		if st.pid == id.PID {
			return st.start == id.Start
		}
		// Once the leader is dead its session's number may become another's; by
		// then the first look has stopped and listed the members.
		return st.session == id.PID && id.Alive()
	})
}

// waitGone waits until the process ended, ctx ended or the time is over.
func waitGone(ctx context.Context, id Identity, limit time.Duration) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for id.Alive() {
		select {
		case <-ctx.Done():
			return
		case <-deadline.C:
			return
		case <-tick.C:
		}
	}
}

const (
	// pollEvery is how often the process table is read while waiting for
	// processes that are not our children.
	pollEvery = 10 * time.Millisecond
	// killBound is how long killed processes may take to vanish.
	killBound = 15 * time.Second
)

// hunt kills what matches, and its descendants, until two looks at the process
// table in a row find none. Supervisors are killed last: as long as one lives,
// what its run forks stays visible as its descendant.
func hunt(ctx context.Context, op string, match func(stat, processMarkers) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killBound, errors.New("killed processes do not end"))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for quiet := 0; ; {
		prey, err := findPrey(match)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		if prey.empty() {
			if quiet++; quiet == 2 {
				return nil
			}
		} else {
			quiet = 0
			if err := prey.kill(match); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; still there: %s", op, context.Cause(ctx), prey)
		case <-tick.C:
		}
	}
}

// prey is a set of processes to end.
type prey struct {
	supervisors []Identity
	others      []Identity
}

func (p prey) empty() bool { return len(p.supervisors)+len(p.others) == 0 }

func (p prey) String() string {
	var pids []int
	for _, id := range slices.Concat(p.supervisors, p.others) {
		pids = append(pids, id.PID)
	}
	return fmt.Sprintf("pids %v", pids)
}

func findPrey(match func(stat, processMarkers) bool) (prey, error) {
	snap, err := takeSnapshot()
	if err != nil {
		return prey{}, err
	}
	own := snap.ancestors(os.Getpid())
	set, supervisors := map[int]bool{}, map[int]bool{}
	for pid, st := range snap.stats {
		if own[pid] {
			continue
		}
		m := markers(pid)
		if !match(st, m) {
			continue
		}
		set[pid] = true
		supervisors[pid] = m.supervisor
		snap.addDescendants(pid, set)
	}
	var p prey
	for pid := range set {
		switch {
		case own[pid]:
		case supervisors[pid]:
			p.supervisors = append(p.supervisors, snap.identity(pid))
		default:
			p.others = append(p.others, snap.identity(pid))
		}
	}
	return p, nil
}

// kill stops all of them until no new one shows up, then kills the others, or
// the supervisors when nothing else is left.
func (p prey) kill(match func(stat, processMarkers) bool) error {
	stopped := map[Identity]bool{}
	for range maxStopPasses {
		fresh := false
		for _, id := range slices.Concat(p.supervisors, p.others) {
			if !stopped[id] {
				stopped[id], fresh = true, true
				if err := id.Signal(unix.SIGSTOP); err != nil && !errors.Is(err, ErrGone) {
					return err
				}
			}
		}
		if !fresh {
			break
		}
		next, err := findPrey(match)
		if err != nil {
			return err
		}
		p = next
	}
	victims := p.others
	if len(victims) == 0 {
		victims = p.supervisors
	}
	for _, id := range victims {
		if err := id.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	return nil
}

// maxStopPasses bounds how often stopping is repeated against processes that
// fork while they are being stopped; what is still new then is killed anyway
// and the hunt goes on.
const maxStopPasses = 50

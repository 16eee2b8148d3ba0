package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/backstay-dev/backstay"
)

// Command is a program to start. Argv and Dir are required.
type Command struct {
	// Argv is the program and its arguments. A program without a slash is
	// looked up in Env's PATH; relative entries of that PATH are passed over.
	Argv []string
	// Env is the whole environment, but for a PATH (DefaultPath) where it has
	// none, and the markers. Names that begin with EnvPrefix are refused unless
	// Info holds them.
	Env map[string]string
	// Info are further variables for the command's information; only their
	// names may begin with EnvPrefix.
	Info map[string]string
	// Dir is the working directory, absolute.
	Dir string
	// Output takes what the command writes on standard output and standard
	// error, in the order it was written. Nil discards. It is written by one
	// goroutine, which has ended when Run returns unless a write to it hangs.
	Output io.Writer
	// Stdout, where set, takes standard output instead of Output. An error of
	// its Write ends the run with that error.
	Stdout io.Writer
	// Token marks all processes of the run.
	Token Token
	// Run is the name of the run, unique; empty means a random one.
	Run string
	// Grace is the time between SIGTERM and SIGKILL; zero means DefaultGrace.
	Grace time.Duration
	// Detached lets processes that a successful command left behind live on.
	// Without it they are ended: a run that is over is over.
	Detached bool
	// Credential is the user to run as; nil means the caller's.
	Credential *syscall.Credential

	maxTasks int // MaxTasks where it is 0
}

// DefaultGrace is the time between SIGTERM and SIGKILL where none is given.
const DefaultGrace = 5 * time.Second

// Exit is how a run ended.
type Exit struct {
	// Code is the exit status; -1 where a signal ended the command.
	Code int
	// Signal names the signal that ended it, or is empty.
	Signal string
	// Leftovers counts the processes that the command had left running and
	// that were ended.
	Leftovers int
}

// OK reports exit status 0.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == "" }

func (e Exit) String() string {
	if e.Signal != "" {
		return "was ended by " + e.Signal
	}
	return fmt.Sprintf("exited with status %d", e.Code)
}

// ErrNotSupervised is returned by Run in a program that does not call
// SupervisorMain first.
var ErrNotSupervised = errors.New("this program does not call proc.SupervisorMain")

// StartError says that the command could not be started at all. It wraps the
// system's reason (fs.ErrNotExist, fs.ErrPermission).
type StartError struct {
	Program string
	Err     error
}

func (e *StartError) Error() string { return "start " + e.Program + ": " + e.Err.Error() }

func (e *StartError) Unwrap() error { return e.Err }

// Run runs the command to its end and returns how it ended; an exit status
// other than 0 is no error. When it returns, nothing of the run is alive,
// except after success of a Detached command. When ctx ends first, the run is
// ended as the package comment says and an error is returned that wraps both
// ctx.Err() and the context's cause.
func Run(ctx context.Context, c Command) (Exit, error) {
	if err := ctx.Err(); err != nil {
		return Exit{}, fmt.Errorf("run %s: %w", c.name(), ending(ctx))
	}
	if _, inside := os.LookupEnv(envSupervisor); inside {
		return Exit{}, ErrNotSupervised
	}
	o, err := c.order()
	if err != nil {
		return Exit{}, err
	}
	for {
		exit, err := runOnce(ctx, c, o)
		if !errors.Is(err, errLate) {
			return exit, err
		}
		if _, err := backstay.LeaseLeft(ctx); err != nil {
			return Exit{}, fmt.Errorf("run %s: it was not started: %w", c.name(), err)
		}
	}
}

func runOnce(ctx context.Context, c Command, o order) (Exit, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r, err := startRun(ctx, c, o, stop)
	if err != nil {
		return Exit{}, err
	}
	return r.wait(ctx)
}

// ending is why ctx ended: an error that is both ctx.Err() and the cause.
func ending(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

func (c *Command) name() string {
	if len(c.Argv) == 0 {
		return "command"
	}
	return c.Argv[0]
}

// order checks the command and resolves it to what the supervisor is told.
func (c *Command) order() (order, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return order{}, errors.New("start command: no program given")
	}
	env, err := c.environ()
	if err != nil {
		return order{}, err
	}
	if !filepath.IsAbs(c.Dir) {
		return order{}, fmt.Errorf("start %s: working directory %q is not absolute", c.Argv[0], c.Dir)
	}
	if st, err := os.Stat(c.Dir); err != nil {
		return order{}, &StartError{Program: c.Argv[0], Err: fmt.Errorf("working directory: %w", err)}
	} else if !st.IsDir() {
		return order{}, &StartError{Program: c.Argv[0], Err: fmt.Errorf("working directory %s is no directory", c.Dir)}
	}
	path, err := lookPath(c.Argv[0], c.path())
	if err != nil {
		return order{}, &StartError{Program: c.Argv[0], Err: err}
	}
	for _, s := range slices.Concat(c.Argv, env) {
		if strings.ContainsRune(s, 0) {
			return order{}, fmt.Errorf("start %s: an argument or variable holds a NUL byte", c.Argv[0])
		}
	}
	o := order{Path: path, Dir: c.Dir, Grace: c.Grace, Detached: c.Detached, Apart: c.Stdout != nil, Credential: c.Credential, MaxTasks: c.maxTasks}
	if o.MaxTasks <= 0 {
		o.MaxTasks = MaxTasks
	}
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
	}
	for _, a := range c.Argv {
		o.Argv = append(o.Argv, []byte(a))
	}
	for _, e := range env {
		o.Env = append(o.Env, []byte(e))
	}
	return o, nil
}

func (c *Command) path() string {
	if p, ok := c.Env["PATH"]; ok {
		return p
	}
	return DefaultPath
}

// environ is the command's whole environment, sorted. It gives the run a name
// if it has none yet.
func (c *Command) environ() ([]string, error) {
	if c.Run == "" {
		c.Run = newRunName()
	}
	all := map[string]string{}
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, EnvPrefix) {
			return nil, fmt.Errorf("start %s: %q is not a name for a variable", c.name(), name)
		}
		all[name] = value
	}
	maps.Copy(all, c.Info)
	all["PATH"] = c.path()
	all[envToken] = c.Token.String()
	all[envRun] = c.Run
	delete(all, envSupervisor)
	env := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		env = append(env, name+"="+all[name])
	}
	return env, nil
}

// lookPath finds a program as execvp(3) does, but never in a relative PATH entry.
func lookPath(program, path string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		full := filepath.Join(dir, program)
		st, err := os.Stat(full)
		switch {
		case err != nil || st.IsDir():
		case st.Mode()&0o111 == 0:
			denied = fmt.Errorf("%s is not executable: %w", full, fs.ErrPermission)
		default:
			return full, nil
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("not found in PATH %s: %w", path, fs.ErrNotExist)
}

// run is one supervised run under way.
type run struct {
	command    Command
	order      order
	supervisor *exec.Cmd
	identity   Identity      // of the supervisor
	control    *os.File      // orders to the supervisor; its closing means kill
	reports    chan report   // from the supervisor; closed when it is gone
	pipes      []*os.File    // read ends of the outputs
	copied     chan struct{} // closed when all output is copied
	refused    error         // of Stdout; to be read after copied is closed
}

// handshakeBound is how long a supervisor may take to report for duty. A
// program that does not call SupervisorMain never does.
const handshakeBound = 20 * time.Second

// startRun starts the supervisor and hands it the order.
func startRun(ctx context.Context, c Command, o order, stop context.CancelCauseFunc) (*run, error) {
	r := &run{command: c, order: o, reports: make(chan report, 8), copied: make(chan struct{})}
	var childEnds []*os.File
	fail := func(err error) (*run, error) {
		closeAll(childEnds)
		closeAll(r.pipes)
		if r.control != nil {
			_ = r.control.Close()
		}
		return nil, fmt.Errorf("start supervisor of %s: %w", c.name(), err)
	}
	controlRead, control, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	r.control, childEnds = control, append(childEnds, controlRead)
	reportRead, reportWrite, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	childEnds = append(childEnds, reportWrite)
	sinks := []io.Writer{c.Output}
	if c.Stdout != nil {
		sinks = append(sinks, stoppingWriter{c.Stdout, func(err error) { r.refused = err; stop(err) }})
	}
	for range sinks {
		read, write, err := os.Pipe()
		if err != nil {
			_ = reportRead.Close()
			return fail(err)
		}
		r.pipes, childEnds = append(r.pipes, read), append(childEnds, write)
	}
	r.supervisor = &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{"backstay", supervisorArg},
		Env:  []string{envSupervisor + "=1", envToken + "=" + c.Token.String(), envRun + "=" + c.Run},
		Dir:  "/", ExtraFiles: childEnds,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := r.supervisor.Start(); err != nil {
		_ = reportRead.Close()
		return fail(err)
	}
	closeAll(childEnds)
	if r.identity, err = Identify(r.supervisor.Process.Pid); err != nil {
		r.identity = Identity{}
	}
	go r.readReports(reportRead)
	go r.copyOutputs(sinks)
	if err := r.sendOrder(ctx); err != nil {
		return nil, errors.Join(err, r.abandon(ctx))
	}
	return r, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// sendOrder waits for the supervisor's first report and tells it what to run,
// and until when the lease of ctx lets it begin.
func (r *run) sendOrder(ctx context.Context) error {
	bound := time.NewTimer(handshakeBound)
	defer bound.Stop()
	select {
	case rep, ok := <-r.reports:
		if !ok || !rep.Ready {
			return ErrNotSupervised
		}
	case <-bound.C:
		return ErrNotSupervised
	}
	now := bootTime() // ahead of the look: what passes between them is the lease's
	left, err := backstay.LeaseLeft(ctx)
	if err != nil {
		return fmt.Errorf("run %s: %w", r.command.name(), err)
	}
	if left < math.MaxInt64-now {
		r.order.NotAfter = now + left
	}
	if err := r.control.SetWriteDeadline(time.Now().Add(handshakeBound)); err != nil {
		return fmt.Errorf("order %s: %w", r.command.name(), err)
	}
	if err := json.NewEncoder(r.control).Encode(r.order); err != nil {
		return fmt.Errorf("order %s: %w", r.command.name(), err)
	}
	return nil
}

func (r *run) readReports(from *os.File) {
	defer close(r.reports)
	defer func() { _ = from.Close() }()
	dec := json.NewDecoder(from)
	for {
		var rep report
		if err := dec.Decode(&rep); err != nil {
			return
		}
		r.reports <- rep
	}
}

// copyOutputs copies each pipe to its sink until it ends. A sink that fails
// loses the rest, but the command is never blocked by it.
func (r *run) copyOutputs(sinks []io.Writer) {
	defer close(r.copied)
	var group sync.WaitGroup
	for i, sink := range sinks {
		group.Go(func() {
			if sink != nil {
				_, _ = io.Copy(sink, r.pipes[i])
			}
			_, _ = io.Copy(io.Discard, r.pipes[i])
			_ = r.pipes[i].Close()
		})
	}
	group.Wait()
}

// stoppingWriter ends the run with the first error of its writer.
type stoppingWriter struct {
	io.Writer
	stop func(error)
}

func (w stoppingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.stop(err)
	}
	return n, err
}

// wait waits for the run's end, and brings it about when ctx ends.
func (r *run) wait(ctx context.Context) (Exit, error) {
	ended := ctx.Done()
	var bound <-chan time.Time
	for {
		select {
		case rep, ok := <-r.reports:
			if !ok {
				// The supervisor is gone without a last word: killed.
				err := r.abandon(ctx)
				if ctx.Err() != nil {
					return Exit{}, errors.Join(fmt.Errorf("run %s: %w", r.command.name(), ending(ctx)), err)
				}
				return Exit{}, errors.Join(fmt.Errorf("run %s: its supervisor was killed", r.command.name()), err)
			}
			return r.finish(ctx, rep)
		case <-ended:
			ended = nil
			_ = r.control.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := io.WriteString(r.control, orderTerm); err != nil {
				_ = r.control.Close()
			}
			timer := time.NewTimer(r.order.Grace + killBound + time.Second)
			defer timer.Stop()
			bound = timer.C
		case <-bound:
			err := r.abandon(ctx)
			return Exit{}, errors.Join(fmt.Errorf("run %s: %w", r.command.name(), ending(ctx)), err)
		}
	}
}

// finish collects the supervisor and the rest of the output after its last report.
func (r *run) finish(ctx context.Context, rep report) (Exit, error) {
	_ = r.control.Close()
	_ = r.supervisor.Process.Kill() // after its last report it has nothing left to do
	_ = r.supervisor.Wait()
	drained := r.drain()
	exit := Exit{Code: rep.Code, Signal: rep.Signal, Leftovers: rep.Leftovers}
	switch {
	case rep.Late:
		return exit, errLate
	case rep.StartErrno != 0:
		return exit, &StartError{Program: r.command.name(), Err: syscall.Errno(rep.StartErrno)}
	case rep.Error != "":
		return exit, fmt.Errorf("run %s: %s", r.command.name(), rep.Error)
	case rep.Stopped && ctx.Err() != nil:
		return exit, fmt.Errorf("run %s: %w", r.command.name(), ending(ctx))
	case rep.Stopped:
		return exit, fmt.Errorf("run %s: its supervisor was told to stop", r.command.name())
	}
	if drained && r.refused != nil { // it may have refused the last bytes of a run that ended by itself
		return exit, fmt.Errorf("run %s: %w", r.command.name(), r.refused)
	}
	return exit, nil
}

// abandon ends a run whose supervisor does not do so: everything that carries
// the run's name or descends from it, the supervisor last.
func (r *run) abandon(ctx context.Context) error {
	err := EndRun(context.WithoutCancel(ctx), r.command.Run)
	_ = r.control.Close()
	_ = r.supervisor.Process.Kill()
	_ = r.supervisor.Wait()
	r.drain()
	return err
}

// drainBound is how long output may be awaited after the run's end: only a
// process that lives on (Detached, or handed the pipe by other ways) holds it.
const drainBound = 250 * time.Millisecond

// drain waits until what the run has written is copied; false if a write to
// one of the caller's writers hangs.
func (r *run) drain() bool {
	timer := time.NewTimer(drainBound)
	defer timer.Stop()
	select {
	case <-r.copied:
		return true
	case <-timer.C:
	}
	for _, p := range r.pipes {
		_ = p.SetReadDeadline(time.Now())
	}
	timer.Reset(drainBound)
	select {
	case <-r.copied:
		return true
	case <-timer.C:
		return false
	}
}

package proc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervisorArg is the argument that makes a program act as a supervisor.
const supervisorArg = "__supervise"

// order is what a supervisor is told to run: one line of JSON on its control
// pipe. Bytes instead of strings: arguments and variables need not be UTF-8.
type order struct {
	Path       string              `json:"path"`
	Argv       [][]byte            `json:"argv"`
	Env        [][]byte            `json:"env"`
	Dir        string              `json:"dir"`
	Grace      time.Duration       `json:"grace"`
	Detached   bool                `json:"detached,omitempty"`
	MaxTasks   int                 `json:"max_tasks"`
	Apart      bool                `json:"apart,omitempty"` // standard output has a pipe of its own
	Credential *syscall.Credential `json:"credential,omitempty"`
	// NotAfter is the boot time after which the command must not be started any
	// more: whoever ordered it may have been stopped before the order was sent.
	NotAfter time.Duration `json:"not_after,omitempty"`
}

// orderTerm follows the order on the control pipe: end the run, gently first.
// The pipe's closing means: kill it now.
const orderTerm = "term\n"

// report is what a supervisor says: Ready first, later exactly one other.
type report struct {
	Ready      bool   `json:"ready,omitempty"`
	StartErrno int    `json:"start_errno,omitempty"`
	Code       int    `json:"code,omitempty"`
	Signal     string `json:"signal,omitempty"`
	Stopped    bool   `json:"stopped,omitempty"` // it was told to end the run before the command had ended
	Leftovers  int    `json:"leftovers,omitempty"`
	Late       bool   `json:"late,omitempty"` // not started: it was too late
	Error      string `json:"error,omitempty"`
}

// errLate says that the lease in whose time the command was to be started ran
// out first, so that it was not started. It may have been renewed since.
var errLate = errors.New("the lease ran out before the start")

// The supervisor's inherited files.
const (
	fdControl = 3 + iota
	fdReports
	fdOutput
	fdStdout // only where standard output is apart
)

// SupervisorMain is the supervisor's whole life. Every program that calls Run
// calls it before anything else (a test binary in its TestMain), with os.Args:
//
//	if code, supervised := proc.SupervisorMain(os.Args); supervised {
//		os.Exit(code)
//	}
//
// It returns false at once in a process that was not started as a supervisor.
func SupervisorMain(args []string) (exitCode int, supervised bool) {
	if len(args) != 2 || args[1] != supervisorArg {
		return 0, false
	}
	if _, marked := os.LookupEnv(envSupervisor); !marked {
		fmt.Fprintln(os.Stderr, supervisorArg+" is started by backstay itself, never by hand")
		return 1, true
	}
	// The death signal of the command is tied to the thread that starts it.
	runtime.LockOSThread()
	for fd := fdControl; fd <= fdStdout; fd++ {
		unix.CloseOnExec(fd) // without a pipe of its own for stdout the last one is not ours, and has the flag anyway
	}
	reports := json.NewEncoder(os.NewFile(fdReports, "reports"))
	control := bufio.NewReader(os.NewFile(fdControl, "control"))
	last, err := supervise(reports, control)
	if err != nil {
		last.Error = err.Error()
	}
	if err := reports.Encode(last); err != nil {
		return 1, true // nobody listens any more; the run is over all the same
	}
	return 0, true
}

func supervise(reports *json.Encoder, control *bufio.Reader) (report, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return report{}, fmt.Errorf("become a child subreaper: %w", err)
	}
	if err := reports.Encode(report{Ready: true}); err != nil {
		return report{}, err
	}
	line, err := control.ReadBytes('\n')
	if err != nil {
		return report{}, fmt.Errorf("read the order: %w", err)
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return report{}, fmt.Errorf("read the order: %w", err)
	}
	if o.NotAfter > 0 && bootTime() > o.NotAfter {
		return report{Late: true}, nil
	}
	s := &supervisor{order: o, signals: signals}
	if !o.Detached {
		s.cgroup, s.pids = newCgroup(o.MaxTasks), newPidsGroup(o.MaxTasks)
		defer func() { s.cgroup.remove(); s.pids.remove() }()
	}
	s.pids.inside(func() { s.main, err = s.start() })
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return report{StartErrno: int(errno)}, nil
		}
		return report{}, err
	}
	commands := make(chan string)
	go readCommands(control, commands)
	exits := make(chan exit)
	go reap(exits)
	return s.watch(exits, commands)
}

// supervisor watches over one command.
type supervisor struct {
	order   order
	main    int // pid of the command
	cgroup  *cgroup
	pids    *pidsGroup
	signals chan os.Signal

	last     report
	mainDone bool
	stopping bool // the run is being ended
	killing  bool // with SIGKILL
	killed   map[Identity]bool
	deadline time.Time // of the killing
}

// exit is one child's end.
type exit struct {
	pid    int
	status syscall.WaitStatus
}

// start starts the command in a session of its own, to die with this thread.
func (s *supervisor) start() (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	stdout := uintptr(fdOutput)
	if s.order.Apart {
		stdout = fdStdout
	}
	attr := &syscall.ProcAttr{
		Dir: s.order.Dir, Env: text(s.order.Env),
		Files: []uintptr{null.Fd(), stdout, fdOutput},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Credential: s.order.Credential},
	}
	s.cgroup.use(attr.Sys)
	var pid int
	start := func() (err error) {
		pid, err = syscall.ForkExec(s.order.Path, text(s.order.Argv), attr)
		return err
	}
	err = whileBusy(start)
	if err != nil && s.cgroup != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EACCES) {
		// Not every kernel and policy lets a process be born into a cgroup.
		s.cgroup.remove()
		s.cgroup, attr.Sys.UseCgroupFD = nil, false
		err = whileBusy(start)
	}
	_ = unix.Close(fdOutput)
	if s.order.Apart {
		_ = unix.Close(fdStdout)
	}
	return pid, err
}

// bootTime is the time since boot, suspend included; 0 where it is not known.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func text(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

func readCommands(control *bufio.Reader, commands chan<- string) {
	defer close(commands)
	for {
		line, err := control.ReadString('\n')
		if err != nil {
			return
		}
		commands <- line
	}
}

// reap collects every child, also those that were re-parented to this process,
// and closes exits when the kernel says that there are none: because this
// process is a subreaper, the run has then no process left.
func reap(exits chan<- exit) {
	defer close(exits)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		exits <- exit{pid, status}
	}
}

const (
	// settleTime is what processes that outlive the command get to end by
	// themselves: the tail of a pipeline, a shell's process substitution.
	settleTime = 200 * time.Millisecond
	// killEvery is how often the tree is killed again while it is not gone.
	killEvery = 20 * time.Millisecond
)

// watch waits until nothing of the run is left and returns the last report.
func (s *supervisor) watch(exits <-chan exit, commands <-chan string) (report, error) {
	s.killed = map[Identity]bool{}
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		select {
		case e, more := <-exits:
			if !more {
				return s.last, nil
			}
			if e.pid != s.main {
				continue
			}
			s.note(e.status)
			if s.order.Detached && !s.stopping && s.last.Code == 0 {
				return s.last, nil
			}
			if !s.stopping {
				timer.Reset(settleTime)
			}
		case line, more := <-commands:
			if !more {
				commands = nil
				s.stop()
				timer.Reset(0)
				continue
			}
			if line == orderTerm && !s.stopping {
				s.stop()
				timer.Reset(s.order.Grace)
				s.terminate()
			}
		case <-s.signals:
			s.stop()
			timer.Reset(0)
		case <-timer.C:
			if err := s.kill(); err != nil {
				return s.last, err
			}
			timer.Reset(killEvery)
		}
	}
}

// note keeps how the command itself ended.
func (s *supervisor) note(status syscall.WaitStatus) {
	s.mainDone = true
	s.last.Code = status.ExitStatus()
	if status.Signaled() {
		s.last.Code, s.last.Signal = -1, unix.SignalName(status.Signal())
	}
}

// stop notes that the run is ended from outside.
func (s *supervisor) stop() {
	s.stopping = true
	s.last.Stopped = s.last.Stopped || !s.mainDone
}

// terminate asks the command's process group to end.
func (s *supervisor) terminate() {
	if !s.mainDone { // as long as it is not reaped its group is its own
		_ = syscall.Kill(-s.main, syscall.SIGTERM)
	}
}

// kill kills whatever lives below this process.
func (s *supervisor) kill() error {
	now := time.Now()
	if !s.killing {
		s.killing, s.deadline = true, now.Add(killBound)
	}
	left, err := below(os.Getpid())
	if err != nil {
		return fmt.Errorf("end the run: %w", err)
	}
	s.cgroup.kill()
	if err := killBelow(os.Getpid()); err != nil {
		return fmt.Errorf("end the run: %w", err)
	}
	for _, id := range left {
		if !s.killed[id] && id.PID != s.main {
			s.last.Leftovers++
		}
		s.killed[id] = true
	}
	if now.After(s.deadline) && len(left) > 0 {
		var pids []string
		for _, id := range left {
			pids = append(pids, fmt.Sprint(id.PID))
		}
		return fmt.Errorf("killed processes do not end: %s", strings.Join(pids, ", "))
	}
	return nil
}

// below lists the descendants of a process.
func below(root int) ([]Identity, error) {
	snap, err := takeSnapshot()
	if err != nil {
		return nil, err
	}
	set := map[int]bool{}
	snap.addDescendants(root, set)
	found := make([]Identity, 0, len(set))
	for pid := range set {
		found = append(found, snap.identity(pid))
	}
	return found, nil
}

// killBelow stops all descendants of a process until no new one shows up, then
// kills them.
func killBelow(root int) error {
	stopped := map[Identity]bool{}
	for range maxStopPasses {
		found, err := below(root)
		if err != nil {
			return err
		}
		fresh := false
		for _, id := range found {
			if !stopped[id] {
				stopped[id], fresh = true, true
				_ = id.Signal(unix.SIGSTOP) // killed below whatever comes of it
			}
		}
		if !fresh {
			break
		}
	}
	for id := range stopped {
		if err := id.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	return nil
}

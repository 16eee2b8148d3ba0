package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Detached is a process that lives on when its parent ends: in a session of
// its own, with the null device as input and a file as output.
type Detached struct {
	Identity
	// Run is the name that the process and what it forks carry.
	Run  string
	done chan struct{}
	exit Exit
}

// StartDetached starts a detached process whose output goes to log. Output,
// Stdout, Grace and Detached of the command mean nothing here. Nobody starts
// it again when it ends, and it does not survive the host.
//
// As long as the caller lives it collects the process when that ends (see
// Done); the goroutine that does so ends with the process.
func StartDetached(c Command, log *os.File) (*Detached, error) {
	o, err := c.order()
	if err != nil {
		return nil, err
	}
	var cmd *exec.Cmd
	err = whileBusy(func() error {
		cmd = &exec.Cmd{
			Path: o.Path, Args: c.Argv, Env: text(o.Env), Dir: c.Dir, Stdout: log, Stderr: log,
			SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: c.Credential},
		}
		return cmd.Start()
	})
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno // the rest of the message repeats the path
		}
		return nil, &StartError{Program: c.Argv[0], Err: err}
	}
	// Until Wait the pid is the process's, if only as a zombie's.
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.Argv[0], err), cmd.Process.Kill(), cmd.Wait())
	}
	d := &Detached{Identity: id, Run: c.Run, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		_ = cmd.Wait() // what it says is in the state
		d.exit = exitOf(cmd.ProcessState)
	}()
	return d, nil
}

// whileBusy starts a program that was written a moment ago. A process that was
// forked meanwhile may hold it open for writing until its own exec, and till
// then the kernel refuses to run it (ETXTBSY): that passes at once.
func whileBusy(start func() error) error {
	const tries, pause = 100, 10 * time.Millisecond
	err := start()
	for n := 1; n < tries && errors.Is(err, syscall.ETXTBSY); n++ {
		<-time.After(pause)
		err = start()
	}
	return err
}

// Done is closed when the process has ended and was collected.
func (d *Detached) Done() <-chan struct{} { return d.done }

// Exit says how the process ended; it waits for its end.
func (d *Detached) Exit() Exit {
	<-d.done
	return d.exit
}

func exitOf(state *os.ProcessState) Exit {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return Exit{Code: -1, Signal: unix.SignalName(status.Signal())}
	}
	return Exit{Code: state.ExitCode()}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/backstay-dev/backstay/internal/proc"
)

// TestMain lets the test binary be backstay (in scripts) and the supervisor
// that backstay runs itself as.
func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	testscript.Main(m, map[string]func(){"backstay": func() { os.Exit(run()) }})
}

// TestScripts runs the sessions in testdata/script: what users type, with what
// they see and the exit codes. Each has a state directory of its own. Commands
// beside testscript's own:
//
//	code N COMMAND…        run it; it must exit with N
//	spawn NAME COMMAND…    start it in the background; its output goes to NAME.out and NAME.err
//	send NAME SIGNAL       send a signal to it
//	await NAME N           wait for its end; it must exit with N
//	until FILE REGEXP      wait until the file has a line that matches
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("BACKSTAY_STATE", filepath.Join(env.WorkDir, "state"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TERM", "dumb")
			env.Values[spawned{}] = map[string]*child{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "spawn": spawn, "send": send, "await": await, "until": until,
		},
	})
}

// patience bounds every wait of a script.
const patience = 30 * time.Second

// spawned is the key of a script's background processes.
type spawned struct{}

// child is one background process.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	if got := exitCode(err); got != want {
		ts.Fatalf("%s exited with %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func exitCode(err error) int {
	var exited *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exited):
		return exited.ExitCode()
	}
	return -2
}

func children(ts *testscript.TestScript) map[string]*child {
	all, ok := ts.Value(spawned{}).(map[string]*child)
	if !ok {
		ts.Fatalf("the script has no children")
	}
	return all
}

func spawn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: spawn NAME COMMAND…")
	}
	program := args[1]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path := filepath.Join(dir, program); !strings.Contains(program, "/") && executable(path) {
			program = path
			break
		}
	}
	cmd := exec.Command(program, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{}
	for _, name := range []string{"PATH", "HOME", "TERM", "BACKSTAY_STATE", "WORK", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	// A group of its own: a terminal's Ctrl-C in the test's terminal is not its.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := os.Create(ts.MkAbs(args[0] + ".out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(ts.MkAbs(args[0] + ".err"))
	ts.Check(err)
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	ts.Check(cmd.Start())
	c := &child{cmd: cmd, done: make(chan struct{})}
	children(ts)[args[0]] = c
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		<-c.done
	})
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func send(ts *testscript.TestScript, neg bool, args []string) {
	names := map[string]syscall.Signal{
		"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
		"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
	}
	if neg || len(args) != 2 || names[args[1]] == 0 || children(ts)[args[0]] == nil {
		ts.Fatalf("usage: send NAME SIGNAL")
	}
	ts.Check(children(ts)[args[0]].cmd.Process.Signal(names[args[1]]))
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || children(ts)[args[0]] == nil {
		ts.Fatalf("usage: await NAME N")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	c := children(ts)[args[0]]
	select {
	case <-c.done:
	case <-time.After(patience):
		ts.Fatalf("%s did not end within %s\n%s", args[0], patience, shown(ts, args[0]))
	}
	if got := exitCode(c.err); got != want {
		ts.Fatalf("%s exited with %d, want %d\n%s", args[0], got, want, shown(ts, args[0]))
	}
}

// shown is what a child printed.
func shown(ts *testscript.TestScript, name string) string {
	out, _ := os.ReadFile(ts.MkAbs(name + ".out"))
	errs, _ := os.ReadFile(ts.MkAbs(name + ".err"))
	return fmt.Sprintf("[stdout]\n%s[stderr]\n%s", out, errs)
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: until FILE REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			ts.Check(err)
		}
		if re.Match(text) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("no line of %s matched %s within %s\n%s", args[0], args[1], patience, text)
		}
	}
}

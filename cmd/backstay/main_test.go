package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/backstay-dev/backstay/internal/parts"
	"github.com/backstay-dev/backstay/internal/proc"
	"github.com/backstay-dev/backstay/internal/sandbox"
)

// TestMain lets the test binary be backstay (in scripts) and the supervisor
// that backstay runs itself as.
var (
	longFlag  = flag.Bool("long", false, "also the sessions that take long: drills in hundreds of sandboxes")
	nightFlag = flag.Bool("night", false, "with -long: drill every fault on every kind of database")
)

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	// Sessions mostly wait: for leases, timers and processes.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"backstay": func() { os.Exit(run()) }})
}

// TestScripts runs the sessions in testdata/script: what users type, with what
// they see and the exit codes. Each has a state directory of its own. A line
// that is about one store begins with the condition [sqlite] or [postgres]; a
// session that is, with the comment "# SQLite only: why". [root] is the
// superuser, [sandbox] where drills may try real steps, [long] whether there is
// time. Commands beside testscript's own:
//
//	code N COMMAND…        run it; it must exit with N
//	spawn NAME COMMAND…    start it in the background; its output goes to NAME.out and NAME.err
//	send NAME SIGNAL       send a signal to it
//	await NAME N           wait for its end; it must exit with N
//	until FILE REGEXP      wait until the file has a line that matches
//	alarm …                see there
func TestScripts(t *testing.T) {
	t.Parallel()
	sessions(t, "sqlite", scripts(t), func(env *testscript.Env) {
		env.Setenv("BACKSTAY_STATE", filepath.Join(env.WorkDir, "state"))
	})
}

// TestScriptsOnPostgres runs the same sessions with their ledgers on one
// PostgreSQL server, each in a database of its own.
func TestScriptsOnPostgres(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	files := slices.DeleteFunc(scripts(t), func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.HasPrefix(text, []byte("# SQLite only: "))
	})
	var one sync.Mutex // the server's methods are for one at a time
	sessions(t, "postgres", files, func(env *testscript.Env) {
		one.Lock()
		defer one.Unlock()
		env.Setenv("BACKSTAY_STATE", pg.Database(t))
		env.Setenv("BACKSTAY_DATA_DIR", filepath.Join(env.WorkDir, "state"))
	})
}

func scripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	return files
}

// sessions runs files on a store, which setup names to each.
func sessions(t *testing.T, store string, files []string, setup func(*testscript.Env)) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Files:               files,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			setup(env)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TERM", "dumb")
			env.Values[spawned{}] = map[string]*child{}
			env.Values[alarmed{}] = new(http.Header)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "long":
				return *longFlag, nil
			case "sandbox":
				return sandbox.Available() == nil, nil
			case "sqlite", "postgres":
				return cond == store, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "spawn": spawn, "send": send, "await": await, "until": until, "backend": backend, "alarm": alarm,
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
	for _, name := range []string{"PATH", "HOME", "TERM", "BACKSTAY_STATE", "BACKSTAY_DATA_DIR", "WORK", "TMPDIR"} {
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

// backend serves its name on a loopback port of its own, which is then the
// variable of that name, and replaces @NAME@ in the files by it.
func backend(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: backend NAME [FILE…]")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, args[0]+"\n") }))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
	for _, name := range args[1:] {
		text, err := os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name), bytes.ReplaceAll(text, []byte("@"+args[0]+"@"), []byte(s.URL)), 0o600))
	}
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

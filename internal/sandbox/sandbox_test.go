//go:build linux

package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay/internal/sandbox"
)

// TestMain lets the test binary be what runs inside: it runs a script and tells
// what differs after it.
func TestMain(m *testing.M) {
	if failed, err := sandbox.Main(); failed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if sandbox.Inside() {
		os.Exit(inside(os.Args[1]))
	}
	os.Exit(m.Run())
}

func inside(script string) int {
	if err := sandbox.Seal(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := sandbox.Listen(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if at, ok := strings.CutPrefix(script, "ask "); ok {
		return ask(at)
	}
	c := exec.Command("/bin/sh", "-euc", script)
	c.Stdin, c.Stderr = os.Stdin, os.Stderr
	out, err := c.Output()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", out, err)
		return 1
	}
	changes, err := sandbox.Changes()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return map[bool]int{true: 0, false: 1}[json.NewEncoder(os.Stdout).Encode(answer{string(out), changes}) == nil]
}

// ask talks to a door three times at once, and prints what each was answered.
func ask(at string) int {
	var all [3]string
	var asking sync.WaitGroup
	for i := range all {
		asking.Go(func() {
			c, err := net.Dial("tcp", at)
			if err != nil {
				all[i] = err.Error()
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = fmt.Fprintf(c, "question %d\n", i)
			all[i], _ = bufio.NewReader(c).ReadString('\n')
		})
	}
	asking.Wait()
	return map[bool]int{true: 0, false: 1}[json.NewEncoder(os.Stdout).Encode(answer{Out: strings.Join(all[:], "")}) == nil]
}

// The doors lead to what the caller opens, and to nothing else.
func TestDoors(t *testing.T) {
	t.Parallel()
	needed(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				line, _ := bufio.NewReader(c).ReadString('\n')
				_, _ = io.WriteString(c, "answer to "+line)
				_ = c.Close()
			}()
		}
	}()
	dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
	for name, doors := range map[string][]sandbox.Door{
		"open":    {{At: "127.0.0.1:1", Dial: dial}, {At: "127.0.0.1:4711", Dial: dial}},
		"refused": {{At: "127.0.0.1:4711", Dial: func(context.Context) (io.ReadWriteCloser, error) { return nil, errors.New("nobody there") }}},
		"none":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := sandbox.Command(t.Context(), t.TempDir(), "ask 127.0.0.1:4711")
			shut, err := sandbox.Doors(t.Context(), c, doors...)
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			c.Stderr = &stderr
			out, err := c.Output()
			shut()
			var a answer
			if err := errors.Join(err, json.Unmarshal(out, &a)); err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			want := map[string]string{"open": "answer to question 0\nanswer to question 1\nanswer to question 2\n", "refused": ""}
			if w, ok := want[name]; ok && a.Out != w || !ok && !strings.Contains(a.Out, "connection refused") {
				t.Errorf("inside it was answered %q", a.Out)
			}
		})
	}
}

type answer struct {
	Out     string
	Changes []sandbox.Change
}

// try runs a script in a sandbox.
func try(t *testing.T, script string) (answer, error) {
	t.Helper()
	c := sandbox.Command(t.Context(), t.TempDir(), script)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatalf("%v: %s %s", err, out, stderr.String())
	}
	return a, nil
}

func needed(t *testing.T) {
	t.Helper()
	if err := sandbox.Available(); err != nil {
		t.Skip("no sandboxes here: ", err)
	}
}

// picture is everything about a tree that a program could see.
func picture(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `cd "$1" && find . -printf '%p %y %m %U %G %T@ %s %l\n' | sort && find . -type f -exec sha256sum {} + | sort`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestHostStaysAsItIs: whatever a script does to files, processes, sockets and
// the kernel's switches, nothing of it is seen outside.
func TestHostStaysAsItIs(t *testing.T) {
	t.Parallel()
	needed(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"changed": "old", "removed": "old", "sub/deep": "old", "moved/a": "old"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	victim := exec.CommandContext(t.Context(), "sleep", "300")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	before := picture(t, dir)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := try(t, fmt.Sprintf(`
cd %[1]s
echo new >changed; rm removed; chmod 600 sub/deep; mkdir -p more/and; echo x >more/and/more; mv moved gone
rm -rf sub; mkdir sub
echo hidden >/etc/backstay-sandbox-test
kill -9 %[2]d 2>/dev/null && echo killed
bash -c 'exec 3<>/dev/tcp/127.0.0.1/%[3]s' 2>/dev/null && echo connected
{ echo 1 >/proc/sys/kernel/printk; } 2>/dev/null && echo switched
mount -t tmpfs x /mnt 2>/dev/null && echo mounted
mknod disk b 8 0 2>/dev/null && echo device
hostname backstay-sandbox-test 2>/dev/null || true
ls /proc | grep -c '^[0-9]' >/dev/null
[ ! -e /dev/vda ] && [ ! -e /dev/sda ] && echo no disks
true
`, dir, victim.Process.Pid, port))
	if err != nil {
		t.Fatal(err)
	}
	if want := "no disks\n"; got.Out != want {
		t.Errorf("the script could do more than it should: got %q, want %q", got.Out, want)
	}
	if diff := cmp.Diff(picture(t, dir), before); diff != "" {
		t.Errorf("the host's files changed (-after +before):\n%s", diff)
	}
	if _, err := os.Stat("/etc/backstay-sandbox-test"); !os.IsNotExist(err) {
		t.Errorf("a file was left on the host: %v", err)
	}
	if host, err := os.Hostname(); err != nil || host == "backstay-sandbox-test" {
		t.Errorf("the host's name is %q (%v)", host, err)
	}
	if err := victim.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process outside is gone: %v", err)
	}
	_ = victim.Process.Kill()
	_ = victim.Wait()
	what := map[string]string{}
	for _, c := range got.Changes {
		if rel, ok := strings.CutPrefix(c.Path, dir+"/"); ok && c.What != "time" {
			what[rel] = c.What
		} else if strings.HasPrefix(c.Path, "/etc/backstay") {
			what[c.Path] = c.What
		}
	}
	want := map[string]string{
		"changed": "content", "removed": "removed", "sub/deep": "removed", "more": "added", "moved": "removed", "gone": "added",
		"/etc/backstay-sandbox-test": "added",
	}
	if diff := cmp.Diff(what, want); diff != "" {
		t.Errorf("what differs (-got +want):\n%s", diff)
	}
}

// TestNothingChanged: reading, and writing back what was there with its time,
// is no change.
func TestNothingChanged(t *testing.T) {
	t.Parallel()
	needed(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	got, err := try(t, fmt.Sprintf(`cd %s; cp -p file copy; echo new >file; cat file; cp -p copy file; rm copy`, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range got.Changes {
		if strings.HasPrefix(c.Path, dir) && !(c.Dir && c.What == "time") {
			t.Errorf("it says that %s differs (%s)", c.Path, c.What)
		}
	}
}

// TestUnixSocket: a socket of the host's can be seen and not be spoken to.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	needed(t)
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: nothing here speaks over unix sockets")
	}
	name := filepath.Join(t.TempDir(), "s")
	socket, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	got, err := try(t, fmt.Sprintf(`[ -S %[1]s ] || exit 3
%[2]s -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect("%[1]s")' 2>/dev/null && echo connected || echo refused`, name, python))
	if err != nil {
		t.Fatal(err)
	}
	if got.Out != "refused\n" {
		t.Errorf("got %q, want refused", got.Out)
	}
}

// TestBusyHost: what the host itself does meanwhile is not taken for a change
// that was made inside, and what was made inside is still told.
func TestBusyHost(t *testing.T) {
	t.Parallel()
	needed(t)
	dir := t.TempDir()
	shell := func(script string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "sh", "-euc", script)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	shell("mkdir sub anew; for f in log gone inside sub/gone anew/a anew/b anew/c; do echo old >$f; done")
	c := sandbox.Command(t.Context(), t.TempDir(), "cd "+dir+`
		ls -R . >/dev/null # what the view shows may be kept since
		echo x >own; echo x >sub/own; echo more >>log; echo x >>gone; rm inside sub/gone
		rm -r anew; mkdir anew; echo old >anew/a
		echo ready >&2; read _`)
	var stdout bytes.Buffer
	c.Stdout = &stdout
	in, errIn := c.StdinPipe()
	stderr, errOut := c.StderrPipe()
	if err := errors.Join(errIn, errOut, c.Start()); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	if line, err := said.ReadString('\n'); line != "ready\n" {
		t.Fatalf("it says %q (%v)", line, err)
	}
	shell("echo x >new; echo x >sub/new; rm log; rm -r anew/b; echo x >anew/new; echo x >>sub/gone; mv new newer")
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(said)
	if err := errors.Join(err, c.Wait()); err != nil {
		t.Fatalf("%v: %s", err, rest)
	}
	var got answer
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, change := range got.Changes {
		if name, ok := strings.CutPrefix(change.Path, dir+"/"); ok && !change.Dir {
			made = append(made, name+" "+change.What)
		}
	}
	if diff := cmp.Diff(made, []string{"anew/a time", "anew/c removed", "gone content", "inside removed", "log added", "own added", "sub/gone removed", "sub/own added"}); diff != "" {
		t.Errorf("what differs (-got +want):\n%s", diff)
	}
}

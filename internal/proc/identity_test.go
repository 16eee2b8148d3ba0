package proc

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/backstay-dev/backstay"
)

// started runs a sleeper that ends with the test.
func started(t *testing.T) Identity {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAnotherProcessIsNeverHit(t *testing.T) {
	t.Parallel()
	real := started(t)
	tests := []struct {
		name  string
		alter func(*Identity)
	}{
		{"started earlier", func(id *Identity) { id.Start-- }},
		{"of another boot", func(id *Identity) { id.BootID = "00000000-0000-0000-0000-000000000000" }},
		{"no pid", func(id *Identity) { id.PID = 0 }},
		{"a group", func(id *Identity) { id.PID = -id.PID }},
		{"everything", func(id *Identity) { id.PID = -1 }},
		{"unknown", func(id *Identity) { *id = Identity{} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fake := real
			tt.alter(&fake)
			if fake.Alive() {
				t.Errorf("%v is alive", fake)
			}
			for name, signal := range map[string]func() error{
				"Signal":      func() error { return fake.Signal(unix.SIGKILL) },
				"signalByPID": func() error { return fake.signalByPID(unix.SIGKILL) },
			} {
				if err := signal(); !errors.Is(err, ErrGone) {
					t.Errorf("%s: error %v, want ErrGone", name, err)
				}
			}
			if err := Stop(t.Context(), fake, "no-such-run", time.Minute); err != nil {
				t.Errorf("Stop: %v", err)
			}
			if !real.Alive() {
				t.Fatal("the other process was ended")
			}
		})
	}
}

func TestSignal(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(Identity) error{
		"by handle": func(id Identity) error { return id.Signal(unix.SIGKILL) },
		"by pid":    func(id Identity) error { return id.signalByPID(unix.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := started(t) // never collected before the test ends: it becomes a zombie
			if !id.Alive() {
				t.Fatal("it is not alive")
			}
			if err := send(id); err != nil {
				t.Fatal(err)
			}
			eventually(t, "its end", func() bool { return !id.Alive() })
			if err := send(id); !errors.Is(err, ErrGone) {
				t.Errorf("a zombie gives %v, want ErrGone", err)
			}
		})
	}
}

func TestStartDetached(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := Command{
		Argv: []string{"sh", "-c", `trap '' TERM; echo "$A"; (setsid sleep 1000 &); (env -i setsid sleep 20 &) ; sleep 1002 & cat; echo $$ > pid; wait`},
		Env:  map[string]string{"A": "a"}, Dir: dir, Token: Token{Deployment: newRunName(), Step: "s"}, Run: newRunName(),
	}
	p, err := StartDetached(c, log)
	if err != nil {
		t.Fatal(err)
	}
	if got := pidIn(t, filepath.Join(dir, "pid")); got != p.Identity {
		t.Errorf("it is %v, not %v", got, p.Identity)
	}
	found, err := Find(func(o Token) bool { return o == c.Token })
	if err != nil || len(found) != 3 {
		t.Errorf("found %v, %v; want the shell and two of its children", found, err)
	}
	for _, f := range found {
		if f.Run != c.Run {
			t.Errorf("%v carries the run %q", f.Identity, f.Run)
		}
	}
	if err := EndToken(t.Context(), func(o Token) bool { return o == c.Token }, c.Run); err != nil || !p.Alive() {
		t.Errorf("a run to be kept was ended: %v", err)
	}
	begun := time.Now()
	if err := Stop(t.Context(), p.Identity, c.Run, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if time.Since(begun) < 50*time.Millisecond {
		t.Errorf("it had no time to drain")
	}
	if exit := p.Exit(); exit.Signal != "SIGKILL" {
		t.Errorf("it %s", exit)
	}
	noneLeft(t, c.Token)
	if b, err := os.ReadFile(log.Name()); err != nil || string(b) != "a\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

func TestStartDetachedFails(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("\x7fELF nonsense"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := StartDetached(Command{Argv: []string{bad}, Dir: "/"}, nil)
	if start := new(StartError); !errors.As(err, &start) || !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("error %v", err)
	}
}

func TestParseToken(t *testing.T) {
	t.Parallel()
	full := Token{"0190a000-0000-7000-8000-000000000001", "stage/warm", backstay.Token{Generation: 2, Epoch: 3, Seq: 4}}
	tests := []struct {
		text string
		want Token
		ok   bool
	}{
		{"0190a000-0000-7000-8000-000000000001/stage/warm/2.3/4", full, true},
		{"//0.0/0", Token{}, true},
		{"", Token{}, false},
		{"a/b/c", Token{}, false},
		{"a/b/3/4", Token{}, false},
		{"a/b/1.3/x", Token{}, false},
		{"a/b/1.03/4", Token{}, false},
		{"a/b/1.+3/4", Token{}, false},
		{"a/b/1.99999999999999999999/4", Token{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			got, ok := ParseToken(tt.text)
			if ok != tt.ok {
				t.Fatalf("ok %v", ok)
			}
			if diff := cmp.Diff(tt.want, got); ok && diff != "" {
				t.Errorf("token (-want +got):\n%s", diff)
			}
			if ok && got.String() != tt.text {
				t.Errorf("it is written %q", got)
			}
		})
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("a/b/1.2/3")
	f.Add("///")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, ok := ParseToken(s); ok && tok.String() != s {
			t.Errorf("%q is written %q", s, tok)
		}
	})
}

func TestOlderActs(t *testing.T) {
	t.Parallel()
	now := backstay.Token{Generation: 2, Epoch: 5, Seq: 9}
	tests := []struct {
		name  string
		token Token
		want  bool
	}{
		{"older epoch", Token{"d", "s", backstay.Token{Generation: 2, Epoch: 4, Seq: 99}}, true},
		{"older generation", Token{"d", "s", backstay.Token{Generation: 1, Epoch: 7}}, true},
		{"same epoch", Token{"d", "s", backstay.Token{Generation: 2, Epoch: 5, Seq: 1}}, false},
		{"newer epoch", Token{"d", "s", backstay.Token{Generation: 2, Epoch: 6}}, false},
		{"newer generation", Token{"d", "s", backstay.Token{Generation: 3}}, false},
		{"another step", Token{"d", "t", backstay.Token{}}, false},
		{"another deployment", Token{"e", "s", backstay.Token{}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := OlderActs("d", "s", now)(tt.token); got != tt.want {
				t.Errorf("matched: %v", got)
			}
		})
	}
	if OlderActs("", "s", now)(Token{Step: "s"}) {
		t.Error("no deployment matches acts outside of any")
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	tail := " 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0"
	tests := []struct {
		name string
		line string
		want stat
		ok   bool
	}{
		{"plain", "12 (sleep) S" + tail, stat{pid: 12, state: 'S', ppid: 7, session: 9, start: 4711}, true},
		{"name that lies", "12 (a) Z 1 (b\n) R" + tail, stat{pid: 12, state: 'R', ppid: 7, session: 9, start: 4711}, true},
		{"cut off", "12 (sleep) S 7 8", stat{}, false},
		{"empty", "", stat{}, false},
		{"no name", "12 S" + tail, stat{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStat([]byte(tt.line))
			if (err == nil) != tt.ok || got != tt.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (sleep) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0"))
	f.Add([]byte(") ("))
	f.Fuzz(func(_ *testing.T, line []byte) { _, _ = parseStat(line) })
}

func TestLookupEnv(t *testing.T) {
	t.Parallel()
	block := []byte("A=1\x00NOVALUE\x00B=x=y\x00A=2\x00C=")
	for name, want := range map[string]string{"A": "1", "B": "x=y", "C": ""} {
		if got, ok := lookupEnv(block, name); !ok || got != want {
			t.Errorf("%s=%q, %v", name, got, ok)
		}
	}
	for _, name := range []string{"NOVALUE", "D", ""} {
		if got, ok := lookupEnv(block, name); ok {
			t.Errorf("%s=%q", name, got)
		}
	}
}

func TestOwnCgroup(t *testing.T) {
	t.Parallel()
	const mounts = "25 30 0:23 / /sys/fs/cgroup rw - cgroup2 none rw\n" +
		"26 30 0:25 / /sys/fs/cgroup/p rw - cgroup none rw,cpu,pids\n31 30 0:24 / /tmp rw - tmpfs none rw\n"
	tests := []struct {
		name, mounts, membership, controller, want string
	}{
		{"unified", mounts, "0::/user.slice/x\n", unified, "/sys/fs/cgroup/user.slice/x"},
		{"mixed", mounts, "4:memory:/a\n0::/b\n", unified, "/sys/fs/cgroup/b"},
		{"version 1 only", mounts, "4:memory:/a\n", unified, ""},
		{"not mounted", "31 30 0:24 / /tmp rw - tmpfs none rw\n", "0::/b\n", unified, ""},
		{"mounted in part", strings.Replace(mounts, " / /sys", " /part /sys", 1), "0::/b\n", unified, ""},
		{"outside of its namespace", mounts, "0::/../b\n", unified, ""},
		{"version 1 controller", mounts, "4:cpu,pids:/a\n0::/b\n", "pids", "/sys/fs/cgroup/p/a"},
		{"version 1 root", mounts, "4:pids:/\n0::/b\n", "pids", "/sys/fs/cgroup/p"},
		{"no such controller", mounts, "4:memory:/a\n0::/b\n", "pids", ""},
		{"a named hierarchy", mounts, "1:name=systemd:/a\n", unified, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range map[string]string{"mountinfo": tt.mounts, "cgroup": tt.membership} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, ok := ownCgroup(filepath.Join(dir, "mountinfo"), filepath.Join(dir, "cgroup"), tt.controller)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("%q, %v; want %q", got, ok, tt.want)
			}
		})
	}
}

func TestSupervisorMain(t *testing.T) {
	t.Parallel()
	if _, supervised := SupervisorMain([]string{"backstay", "deploy"}); supervised {
		t.Error("an ordinary verb became a supervisor")
	}
	var said bytes.Buffer
	cmd := exec.Command(os.Args[0], supervisorArg)
	cmd.Stderr = &said
	if err := cmd.Run(); err == nil || !strings.Contains(said.String(), "never by hand") {
		t.Errorf("by hand: %v, %q", err, said.String())
	}
}

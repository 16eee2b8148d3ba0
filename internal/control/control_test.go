package control

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// asker is the environment variable that makes the test binary a client: it
// holds the data directory.
const asker = "BACKSTAY_TEST_CONTROL_ASK"

func TestMain(m *testing.M) {
	dir, ask := os.LookupEnv(asker)
	if !ask {
		os.Exit(m.Run())
	}
	answer, err := Ask(context.Background(), dir, Request{Verb: "approve", Reason: "I am root, uid 0"})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	line, err := encode(answer)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	_, _ = os.Stdout.Write(line)
	os.Exit(0)
}

// start serves in a data directory until the test, or the returned function,
// ends it.
func start(t *testing.T, dataDir string, handle Handler) (end func()) {
	t.Helper()
	host, err := NewHost(dataDir, handle, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- host.Serve(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(end)
	return end
}

// echo answers with what it was asked and by whom.
func echo(_ context.Context, peer Peer, req Request) Answer {
	return Answer{Name: req.Ref, Step: req.Step, Plan: req.Plan, Why: req.Reason, Actor: fmt.Sprint(peer.UID), Accepted: true, Answered: true}
}

func ask(t *testing.T, dataDir string, req Request) Answer {
	t.Helper()
	a, err := Ask(t.Context(), dataDir, req)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAskedAndAnswered(t *testing.T) {
	t.Parallel()
	// Deeper than the 107 bytes that a socket's address holds.
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep", 30), "data")
	end := start(t, dir, echo)
	got := ask(t, dir, Request{Verb: "approve", Ref: "shop#1", Step: "go", Plan: "abc", Reason: "looks\ngood"})
	want := Answer{Format: Format, Name: "shop#1", Step: "go", Plan: "abc", Why: "looks\ngood", Actor: fmt.Sprint(os.Getuid()), Accepted: true, Answered: true}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("answer (-got +want):\n%s", diff)
	}
	for path, want := range map[string]os.FileMode{dir: 0o711, filepath.Dir(Socket(dir)): 0o711, Socket(dir): 0o666} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s: got %v, %v; want %o", path, info, err, want)
		}
	}
	end()
	if _, err := os.Lstat(Socket(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left at the end: %v", err)
	}
	if _, err := Ask(t.Context(), dir, Request{Verb: "approve"}); !errors.Is(err, ErrNobody) {
		t.Errorf("ask after the end: got %v, want ErrNobody", err)
	}
}

func TestNobody(t *testing.T) {
	t.Parallel()
	if _, err := Ask(t.Context(), filepath.Join(t.TempDir(), "data"), Request{Verb: "approve"}); !errors.Is(err, ErrNobody) {
		t.Errorf("got %v, want ErrNobody", err)
	}
}

// A socket that a dead process left is replaced; the one of a live process is
// not, and the next process takes over when it ends.
func TestOneListensAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, folder), 0o711); err != nil {
		t.Fatal(err)
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: Socket(dir)})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	says := func(word string) Handler {
		return func(context.Context, Peer, Request) Answer { return Answer{Why: word} }
	}
	endFirst := start(t, dir, says("first"))
	if got := ask(t, dir, Request{Verb: "pause"}); got.Why != "first" {
		t.Fatalf("over a stale socket: got %+v", got)
	}
	start(t, dir, says("second"))
	for range 3 {
		if got := ask(t, dir, Request{Verb: "pause"}); got.Why != "first" {
			t.Fatalf("while the first one lives: got %+v", got)
		}
	}
	endFirst()
	if got := ask(t, dir, Request{Verb: "pause"}); got.Why != "second" {
		t.Errorf("after the first one: got %+v", got)
	}
}

// exchange sends bytes and reads the answer's line. It returns when the other
// side counts the connection no more.
func exchange(t *testing.T, dir string, send []byte) Answer {
	t.Helper()
	conn, err := net.Dial("unix", Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, writeErr := conn.Write(send) // the other side may hang up on too much
	line, err := readLine(conn, maxAnswer)
	if err != nil {
		t.Fatal(errors.Join(err, writeErr))
	}
	a, err := decodeAnswer(line)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return a
}

func TestMalformedRequestsReachNoHandler(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, send, want string }{
		{"no JSON", "hello\n", "it is no request"},
		{"another format", `{"format":"backstay.control/v9","verb":"approve"}` + "\n", "speaks backstay.control/v1"},
		{"no format", `{"verb":"approve"}` + "\n", "speaks backstay.control/v1"},
		{"a verb that does not steer", `{"format":"backstay.control/v1","verb":"deploy"}` + "\n", `verb "deploy" is not one of approve`},
		{"a signal of nothing", `{"format":"backstay.control/v1","verb":"signal"}` + "\n", "do not go together"},
		{"a signal that steers", `{"format":"backstay.control/v1","verb":"signal","signal":"promote"}` + "\n", "do not go together"},
		{"an approval that fails", `{"format":"backstay.control/v1","verb":"approve","signal":"fail"}` + "\n", "do not go together"},
		{"a key that is not known", `{"format":"backstay.control/v1","verb":"approve","uid":0}` + "\n", `unknown field "uid"`},
		{"two requests in a line", `{"format":"backstay.control/v1","verb":"approve"}{}` + "\n", "something follows it"},
		{"not UTF-8", "{\"format\":\"backstay.control/v1\",\"verb\":\"approve\",\"ref\":\"\xff\"}\n", "not UTF-8"},
		{"an array as deep as it goes", strings.Repeat("[", maxRequest-1) + "\n", "it is no request"},
		{"too much", strings.Repeat("x", maxRequest+1), "without a newline"},
	}
	dir := t.TempDir()
	start(t, dir, func(context.Context, Peer, Request) Answer {
		t.Error("the handler was called")
		return Answer{}
	})
	_ = ask(t, dir, Request{Verb: "none"}) // it listens by now
	for _, tt := range tests {             // one after the other: their number at once is bounded
		got := exchange(t, dir, []byte(tt.send))
		if got.Refusal == nil || !strings.Contains(got.Refusal.Error, tt.want) {
			t.Errorf("%s: got %+v, want a refusal with %q", tt.name, got, tt.want)
		}
	}
}

// Connections and requests of one uid are bounded, and a connection without a
// request does not keep the process from ending.
func TestBounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := start(t, dir, echo)
	line, err := encode(Request{Format: Format, Verb: "pause"})
	if err != nil {
		t.Fatal(err)
	}
	_ = ask(t, dir, Request{Verb: "pause"}) // it listens by now
	for i := range mostAsked - 1 {
		if got := exchange(t, dir, line); got.Refusal != nil {
			t.Fatalf("request %d was refused: %+v", i+2, got.Refusal)
		}
	}
	if over := exchange(t, dir, line); over.Refusal == nil || !strings.Contains(over.Refusal.Error, "within 1m0s") {
		t.Errorf("request %d: got %+v, want a refusal", mostAsked+1, over)
	}
	for range mostConnsUID {
		idle, err := net.Dial("unix", Socket(dir))
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
	}
	if got := exchange(t, dir, nil); got.Refusal == nil || !strings.Contains(got.Refusal.Error, "are being answered") {
		t.Errorf("connection %d: got %+v, want a refusal", mostConnsUID+1, got)
	}
	end() // does not wait for the idle ones
}

// What is being answered when the process ends is answered.
func TestEndWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	asked, ended := make(chan struct{}), make(chan struct{})
	end := start(t, dir, func(context.Context, Peer, Request) Answer {
		close(asked)
		<-ended
		return Answer{Accepted: true}
	})
	got := make(chan Answer, 1)
	go func() {
		a, err := Ask(context.WithoutCancel(t.Context()), dir, Request{Verb: "approve"})
		if err != nil {
			t.Errorf("ask: %v", err)
		}
		got <- a
	}()
	<-asked
	var ending sync.WaitGroup
	ending.Go(end)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for gone := false; !gone; { // the end has begun when the socket is gone
		select {
		case <-tick.C:
			_, err := os.Lstat(Socket(dir))
			gone = errors.Is(err, os.ErrNotExist)
		case <-t.Context().Done():
			t.Fatal("the socket stays")
		}
	}
	close(ended)
	ending.Wait()
	if a := <-got; !a.Accepted {
		t.Errorf("got %+v, want it accepted", a)
	}
}

// The uid that counts is the kernel's, of a process that really has another.
func TestOtherUID(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	const nobody = 65534
	bin, dir := shared(t)
	start(t, dir, echo)
	out, err := askAs(t, bin, dir, nobody)
	if err != nil {
		t.Fatalf("ask as uid %d: %v\n%s", nobody, err, out)
	}
	got, err := decodeAnswer(out)
	if err != nil {
		t.Fatal(err)
	}
	if got.Actor != "65534" || got.Why != "I am root, uid 0" {
		t.Errorf("got %+v, want it asked by uid 65534", got)
	}

	// A way that is closed to it is named.
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err = askAs(t, bin, dir, nobody)
	if err == nil || !strings.Contains(string(out), "may not pass through "+dir) {
		t.Errorf("got %v, %s; want it to name %s", err, out, dir)
	}
}

// A listener in another user's directory, as when its mode was loosened, is
// not asked; nor does a process of ours listen where others could.
func TestImpostor(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, folder), 1, 1); err != nil {
		t.Fatal(err)
	}
	l := listenAs(t, Socket(dir), 65534)
	defer l.Close()
	_, err := Ask(t.Context(), dir, Request{Verb: "approve"})
	if err == nil || !strings.Contains(err.Error(), "uid 65534 listens in the directory of uid 1") {
		t.Errorf("got %v, want it not asked", err)
	}
	if _, err := NewHost(dir, echo, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "others could put a socket there") {
		t.Errorf("host in somebody else's directory: got %v, want a refusal", err)
	}
}

// shared is a copy of this test's binary and a data directory, both where every
// user can reach them.
func shared(t *testing.T) (bin, dataDir string) {
	t.Helper()
	root, err := os.MkdirTemp("", "backstay-control-") //nolint:usetesting // only this user can enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	bin = filepath.Join(root, "ask")
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(bin, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return bin, filepath.Join(root, "data")
}

func askAs(t *testing.T, bin, dataDir string, uid uint32) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin)
	cmd.Env = []string{asker + "=" + dataDir}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd.Output()
}

// listenAs listens as another uid: the kernel reports of a listener who called
// listen(2).
func listenAs(t *testing.T, path string, uid int) net.Listener {
	t.Helper()
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	asThread(t, uid, func() error { return syscall.Listen(fd, 1) })
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRequestAndAnswerAreGolden(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		v    any
	}{
		{"request-v1.json", Request{Format: Format, Verb: "approve", Ref: "shop#4", Step: "go", Plan: "9f8e", Reason: "looks good"}},
		{"request-least-v1.json", Request{Format: Format, Verb: "pause"}},
		{"answer-v1.json", Answer{
			Format: Format, Deployment: "0190c0de-0000-7000-8000-000000000000", Name: "shop#4", Signal: "approve", Step: "go", Plan: "9f8e",
			Actor: "ann (uid 1000)", Driver: "process 12 on web1, for 3m0s", Answered: true, Why: "too late",
		}},
		{"refusal-v1.json", Answer{Format: Format, Refusal: &Refusal{What: "choice", Error: "no deployment waits", Hint: "ask who deploys"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := encode(tt.v)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", tt.name)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got), string(want)); diff != "" {
				t.Errorf("encoded (-got +want):\n%s", diff)
			}
			line := bytes.TrimSuffix(want, []byte("\n"))
			var back any
			if _, isRequest := tt.v.(Request); isRequest {
				back, err = decodeRequest(line)
			} else {
				back, err = decodeAnswer(line)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(back, tt.v); diff != "" {
				t.Errorf("decoded (-got +want):\n%s", diff)
			}
		})
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"format":"backstay.control/v1","verb":"approve","ref":"shop#1"}`))
	f.Add([]byte(`{"format":"backstay.control/v1","verb":"approve","verb":"pause"}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, line []byte) {
		req, err := decodeRequest(line)
		if err == nil && (req.Format != Format || !known(req.Verb)) {
			t.Errorf("accepted %+v", req)
		}
	})
}

// A slow request is ended by its deadline, wherever it stands.
func TestSlowRequestEnds(t *testing.T) {
	t.Parallel()
	r, w := net.Pipe()
	defer w.Close()
	if err := r.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := readLine(r, maxRequest); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

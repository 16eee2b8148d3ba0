package kill_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// serviceSpec exchanges a running service and a file, and ends well or not.
const serviceSpec = `backstay: v1
release: killed-service
version: "%[1]d"
environment: dev
artifacts:
  web: {file: "web-%[1]d"}
services:
  web:
    artifact: web
    command: ["{artifact}", "127.0.0.1:{port}"]
    ready: {http: /healthz, within: 20s}
    drain: 1s
steps:
  - name: conf
    file: {path: "${WORLD}/app.conf", content: "version = %[1]d\n"}
  - name: web
    service: web
  - name: last
    run: %[2]s
    undo: "true"
    idempotent: true
`

// serve is the service: test-binary serve ADDRESS VERSION MARKER.
func serve(address, version string) int {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, version) })
	server := http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := server.ListenAndServe(); err != nil && err != http.ErrServerClosed { //nolint:errorlint // the server's own
		fmt.Println(err)
		return 1
	}
	return 0
}

// stageService writes a folder with two versions of the service, the first of
// which is deployed and runs.
func stageService(t *testing.T, last string) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		for pid := range services(dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for v := 1; v <= 2; v++ {
		write(fmt.Sprintf("web-%d", v), fmt.Sprintf("#!/bin/sh\nexec '%s' serve \"$1\" %d '%s'\n", os.Args[0], v, dir), 0o700)
	}
	write("world/app.conf", "version = 0\n", 0o600)
	write("world/neighbour", "not in scope", 0o600)
	write("backstay.yaml", fmt.Sprintf(serviceSpec, 1, lastStep(false)), 0o600)
	if out, _ := spawn(t, "deploy", dir, filepath.Join(dir, "state"), "", 0); strings.TrimSpace(out) != "proven" {
		t.Fatalf("the first version ended %q", out)
	}
	write("backstay.yaml", fmt.Sprintf(serviceSpec, 2, last), 0o600)
	return dir
}

// services are the live processes of the service, with their address and version.
func services(dir string) map[int][2]string {
	found := map[int][2]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || len(line) == 0 { // a zombie's is empty
			continue
		}
		if f := bytes.Split(line, []byte{0}); len(f) > 4 && string(f[1]) == "serve" && string(f[4]) == dir {
			found[pid] = [2]string{string(f[2]), string(f[3])}
		}
	}
	return found
}

// judgeService: exactly one version runs and answers, the one that the ledger
// says; the file is of the same.
func judgeService(t *testing.T, dir string, before map[string]string, failing bool) {
	t.Helper()
	store, err := openStore(t.Context(), filepath.Join(dir, "state"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	deps, err := store.List(t.Context(), ledger.Filter{}) // the newest first
	if err != nil {
		t.Fatal(err)
	}
	want := "1"
	switch newest := deps[0]; {
	case len(deps) == 1 || newest.State == backstay.RolledBack:
		for path, line := range picture(t, filepath.Join(dir, "world")) {
			if line != before[path] {
				t.Errorf("rolled back, but %s is %s, not %s", path, line, before[path])
			}
		}
	case newest.State == backstay.Proven && !failing:
		want = "2"
		if text := contents(picture(t, filepath.Join(dir, "world")))["app.conf"]; !strings.Contains(text, "version = 2") {
			t.Errorf("proven, but the file says %s", text)
		}
	default:
		t.Errorf("ended %s", newest.State)
	}
	running := services(dir)
	if len(running) != 1 {
		t.Errorf("%d processes of the service run, want one: %v", len(running), running)
	}
	for pid, s := range running {
		if got := answer(t, "http://"+s[0]+"/"); s[1] != want || got != want {
			t.Errorf("process %d is version %s and answers %q, want %s", pid, s[1], got, want)
		}
	}
	entries, err := store.Entries(t.Context(), deps[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	grammar(t, entries)
}

func answer(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// TestKilledWithService kills a deployment that exchanges a running service. In
// the end exactly one version runs and answers, and it is the ledger's.
func TestKilledWithService(t *testing.T) {
	t.Parallel()
	at := kills.Load()
	t.Run("kills", func(t *testing.T) {
		for i, point := range points() {
			back := backwards(point)
			if !full() && i%9 != 3 {
				continue
			}
			for _, nth := range []int{1, 2} {
				if nth == 2 && !full() {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/failing=%v", point, nth, back), func(t *testing.T) {
					t.Parallel()
					dir := stageService(t, lastStep(back))
					state := filepath.Join(dir, "state")
					before := picture(t, filepath.Join(dir, "world"))
					at := fmt.Sprintf("%s:%d", point, nth)
					if _, killed := spawn(t, "deploy", dir, state, at, 0); killed {
						spawn(t, "recover", dir, state, at, 0)
						settle(t, dir, state)
					}
					judgeService(t, dir, before, back)
					settle(t, dir, state)
					judgeService(t, dir, before, back)
				})
			}
		}
	})
	if n := kills.Load() - at; n < 2 || full() && n < 30 {
		t.Errorf("only %d kills landed", n)
	}
}

// TestStoppedOwnerOfService stops the process that exchanges a service past its
// lease; who takes over ends it, and the first one, woken, changes nothing.
func TestStoppedOwnerOfService(t *testing.T) {
	t.Parallel()
	for i, point := range []string{"do.before:2", "do.after:2", "outcome.before:2", "undo.before:1"} {
		if !full() && i != 1 {
			continue
		}
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			back := backwards(point)
			dir := stageService(t, lastStep(back))
			state := filepath.Join(dir, "state")
			before := picture(t, filepath.Join(dir, "world"))
			first, out := launch(t, "deploy", dir, state, envStop+"="+point)
			waitStopped(t, first.Process.Pid)
			settle(t, dir, state)
			judgeService(t, dir, before, back)
			settled := services(dir)
			_ = first.Process.Signal(syscall.SIGCONT) // it may be gone
			err := first.Wait()
			if err == nil || (!strings.Contains(out.String(), "fenced") && !strings.Contains(out.String(), "lapsed") && !signaled(err)) {
				t.Errorf("the stopped process ended with %v and said %q; it must be told that it is fenced", err, out.String())
			}
			if now := services(dir); fmt.Sprint(now) != fmt.Sprint(settled) {
				t.Errorf("the stale process changed what runs: %v, then %v", settled, now)
			}
			judgeService(t, dir, before, back)
		})
	}
}

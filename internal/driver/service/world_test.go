package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

const canary = "canary-4711-secret"

type secrets map[string]string

func (s secrets) Resolve(ref string) (string, error) {
	if v, ok := s[ref]; ok {
		return v, nil
	}
	return "", &backstay.Error{Class: backstay.NotFound, Op: "resolve", Subject: ref, Err: fs.ErrNotExist}
}

// world is one host directory with the artifacts of the service "web".
type world struct {
	spec, data string
	blobs      *drivertest.Blobs
}

func newWorld(t *testing.T) world {
	t.Helper()
	root := t.TempDir()
	w := world{filepath.Join(root, "spec"), filepath.Join(root, "data"), drivertest.NewBlobs()}
	for _, d := range []string{w.spec, w.data} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for pid := range w.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = removeTree(filepath.Join(w.data, "releases"))
	})
	return w
}

// artifact is a script that becomes the test binary's server.
func (w world) artifact(tb testing.TB, version, behaviour string) backstay.Artifact {
	tb.Helper()
	return w.file(tb, "web-"+version, fmt.Appendf(nil, "#!/bin/sh\nexec '%s' serve \"$1\" %s %s '%s'\n", os.Args[0], version, behaviour, w.data))
}

func (w world) file(tb testing.TB, name string, content []byte) backstay.Artifact {
	tb.Helper()
	path := filepath.Join(w.spec, name)
	if err := os.WriteFile(path, content, 0o755); err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return backstay.Artifact{Name: "web", File: path, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

func webConfig() map[string]any {
	return map[string]any{
		"artifact": "web", "command": []string{"{artifact}", "127.0.0.1:{port}"}, "instances": 2,
		"ready": map[string]any{"http": "/healthz", "within": "20s"}, "drain": "5s",
		"env": map[string]string{"TOKEN": "secret:env/TOKEN"},
	}
}

func (w world) request(a backstay.Artifact, config map[string]any) backstay.Request {
	return backstay.Request{
		ID: "service-1", Config: backstay.Canonical(map[string]string{"service": "web"}),
		Sections:  map[string]json.RawMessage{"services": backstay.Canonical(map[string]any{"web": config})},
		Artifacts: map[string]backstay.Artifact{"web": a},
		Dir:       w.spec, DataDir: w.data, Release: "shop", Blobs: w.blobs,
		Secrets: secrets{"secret:env/TOKEN": canary},
	}
}

// deployment drives one step as the engine does, under a deployment's name.
type deployment struct {
	*drivertest.Trial
	name  string
	epoch int64
}

func (w world) plan(tb testing.TB, name, version, behaviour string) *deployment {
	tb.Helper()
	f := drivertest.Fixture{Kind: New(), Request: w.request(w.artifact(tb, version, behaviour), webConfig())}
	return &deployment{drivertest.NewTrial(tb, f), name, 1}
}

func (d *deployment) call() backstay.Call {
	c := d.Call()
	// Deployments have unique names; reaping goes by them, across all tests.
	c.Deployment, c.Token.Epoch = d.name+strings.ReplaceAll(c.DataDir, "/", "-"), d.epoch
	return c
}

func (d *deployment) begin(tb testing.TB) {
	tb.Helper()
	image, err := New().Observe(tb.Context(), d.call())
	if err != nil {
		tb.Fatal(err)
	}
	d.Before = image
}

func (d *deployment) do(tb testing.TB) error {
	tb.Helper()
	_, err := New().Do(tb.Context(), d.call())
	return err
}

func (d *deployment) undo(tb testing.TB) {
	tb.Helper()
	c := d.call()
	now, err := New().Observe(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	c.Restore = drivertest.Differing(d.Before, now)
	if _, err := New().Undo(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
}

func (d *deployment) settle(tb testing.TB, proven bool) {
	tb.Helper()
	c := d.call()
	c.Proven = proven
	if err := New().Settle(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
}

// deploy begins and does, and wants success.
func (w world) deploy(tb testing.TB, name, version string) *deployment {
	tb.Helper()
	d := w.plan(tb, name, version, "ok")
	d.begin(tb)
	if err := d.do(tb); err != nil {
		tb.Fatal(err)
	}
	return d
}

// processes are the running servers of this world, pid to version, found
// without the code under test.
func (w world) processes() map[int]string {
	found := map[int]string{}
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
		if f := bytes.Split(line, []byte{0}); len(f) > 5 && string(f[1]) == "serve" && string(f[5]) == w.data {
			found[pid] = string(f[3])
		}
	}
	return found
}

func (w world) running() string {
	var versions []string
	for _, v := range w.processes() {
		versions = append(versions, v)
	}
	slices.Sort(versions)
	return strings.Join(versions, "+")
}

func (w world) endpoints(tb testing.TB) []string {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(w.data, "services", "web", "current"))
	if os.IsNotExist(err) {
		return nil
	}
	var c struct {
		Endpoints []string `json:"endpoints"`
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return c.Endpoints
}

func get(url string) (string, error) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url) //nolint:noctx // the client has a timeout
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return string(b), err
}

// read is an independent look: who answers on the published endpoints, and
// what runs.
func (w world) read(tb testing.TB) map[string]string {
	tb.Helper()
	state := map[string]string{"running": w.running()}
	for i, e := range w.endpoints(tb) {
		version, err := get("http://" + e + "/")
		if err != nil {
			version = "no answer"
		}
		state["endpoint "+strconv.Itoa(i)] = version
	}
	return state
}

package parts

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed testdata/unleash
var unleashFiles embed.FS

// Unleash is a running Unleash server of a test.
type Unleash struct {
	URL             string
	Admin, Frontend string // its tokens
}

// StartUnleash starts the server from npm on a database of its own, and stops it
// with the test.
func StartUnleash(t testing.TB, db *Postgres) *Unleash {
	t.Helper()
	files, err := fs.Sub(unleashFiles, "testdata/unleash")
	if err != nil {
		t.Fatalf("start Unleash: %v", err)
	}
	from := t.TempDir()
	if err := os.CopyFS(from, files); err != nil {
		t.Fatalf("start Unleash: %v", err)
	}
	dir := Node(t, from)
	port, err := freePort()
	if err != nil {
		t.Fatalf("start Unleash: %v", err)
	}
	u := &Unleash{URL: "http://127.0.0.1:" + strconv.Itoa(port), Admin: "*:*.admin-canary-of-unleash", Frontend: "default:development.frontend-of-unleash"}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "node", "start.mjs", strconv.Itoa(port), u.Admin, u.Frontend)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DATABASE_URL="+db.Database(t), "NODE_ENV=production")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(from, "log"))
	if err != nil {
		t.Fatalf("start Unleash: %v", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Unleash: %v", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its end is the news; the log says why
		close(done)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		_ = log.Close()
	})
	err = until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		select {
		case <-done:
			return errors.New("it ended")
		default:
		}
		return u.ask(ctx, http.MethodGet, "/health", "", nil)
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name()) // what there is of it
		t.Fatalf("start Unleash: %v\n%s", err, text)
	}
	return u
}

// Ask sends a request to the admin API and returns the answer.
func (u *Unleash) Ask(t testing.TB, method, path, body string) string {
	t.Helper()
	var out bytes.Buffer
	if err := u.ask(context.WithoutCancel(t.Context()), method, path, body, &out); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return out.String()
}

func (u *Unleash) ask(ctx context.Context, method, path, body string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, method, u.URL+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", u.Admin)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err == nil && out != nil {
		_, err = out.Write(text)
	}
	return err
}

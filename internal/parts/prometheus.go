package parts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Prometheus is a running Prometheus of a test. Methods are for one goroutine at
// a time.
type Prometheus struct {
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd ended
}

// StartPrometheus starts a server that scrapes the targets (host:port, /metrics)
// at the interval, and stops it with the test. It skips the test unless
// BACKSTAY_REAL=1.
func StartPrometheus(t testing.TB, scrape time.Duration, targets ...string) *Prometheus {
	t.Helper()
	Real(t)
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("find Prometheus (apt install prometheus): %v", err)
	}
	p := &Prometheus{dir: t.TempDir()}
	if p.port, err = freePort(); err != nil {
		t.Fatalf("start Prometheus: %v", err)
	}
	config := fmt.Sprintf("global: {scrape_interval: %dms, scrape_timeout: %dms}\nscrape_configs:\n- job_name: app\n  static_configs: [{targets: ['%s']}]\n",
		scrape.Milliseconds(), scrape.Milliseconds(), strings.Join(targets, "','"))
	if err := os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatalf("start Prometheus: %v", err)
	}
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatalf("start Prometheus: %v", err)
	}
	defer log.Close()
	var own *account
	p.cmd = own.command(context.WithoutCancel(t.Context()), p.dir, bin, "--config.file=prometheus.yml",
		"--storage.tsdb.path=data", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", p.port), "--log.level=warn")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start Prometheus: %v", err)
	}
	p.done = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // its end is the news; the log says why
		close(p.done)
	}()
	t.Cleanup(func() { p.Kill(t) })
	if err := until(t.Context(), 30*time.Second, p.ready); err != nil {
		text, _ := os.ReadFile(filepath.Join(p.dir, "log"))
		t.Fatalf("start Prometheus: %v\n%s", err, text)
	}
	return p
}

func (p *Prometheus) ready(ctx context.Context) error {
	select {
	case <-p.done:
		return errors.New("it ended")
	default:
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+"/-/ready", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// URL is where the server answers.
func (p *Prometheus) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", p.port) }

// Pause stops the process without ending it: it takes connections and says
// nothing.
func (p *Prometheus) Pause(t testing.TB) { p.signal(t, syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Prometheus) Resume(t testing.TB) { p.signal(t, syscall.SIGCONT) }

func (p *Prometheus) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal Prometheus: %v", err)
	}
}

// Kill ends it with SIGKILL. Nothing happens when it does not run.
func (p *Prometheus) Kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill Prometheus: %v", err)
	}
	<-p.done
}

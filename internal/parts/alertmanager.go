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
	"testing"
	"time"
)

// Alertmanager is a running Alertmanager of a test. Methods are for one goroutine.
type Alertmanager struct{ port int }

// StartAlertmanager starts a server that hands every alert to the webhook with the
// bearer token, at once, and stops it with the test. It skips the test unless
// BACKSTAY_REAL=1.
func StartAlertmanager(t testing.TB, webhook, token string) *Alertmanager {
	t.Helper()
	Real(t)
	bin, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		t.Fatalf("find Alertmanager (apt install prometheus-alertmanager): %v", err)
	}
	a, dir := &Alertmanager{}, t.TempDir()
	if a.port, err = freePort(); err != nil {
		t.Fatalf("start Alertmanager: %v", err)
	}
	config := fmt.Sprintf(`route: {receiver: backstay, group_wait: 50ms, group_interval: 100ms, group_by: [alertname]}
receivers:
- name: backstay
  webhook_configs:
  - url: %s
    http_config: {authorization: {credentials_file: token}}
`, webhook)
	for name, text := range map[string]string{"alertmanager.yml": config, "token": token} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatalf("start Alertmanager: %v", err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatalf("start Alertmanager: %v", err)
	}
	defer log.Close()
	var own *account
	cmd := own.command(context.WithoutCancel(t.Context()), dir, bin, "--config.file=alertmanager.yml", "--storage.path=data",
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", a.port), "--cluster.listen-address=", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Alertmanager: %v", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its end is the news; the log says why
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
	})
	ready := func(ctx context.Context) error {
		select {
		case <-done:
			return errors.New("it ended")
		default:
			return a.do(ctx, http.MethodGet, "/-/ready", "")
		}
	}
	if err := until(t.Context(), 30*time.Second, ready); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("start Alertmanager: %v\n%s", err, text)
	}
	return a
}

// Post gives it alerts, as its API takes them (a JSON list).
func (a *Alertmanager) Post(t testing.TB, alerts string) {
	t.Helper()
	if err := a.do(t.Context(), http.MethodPost, "/api/v2/alerts", alerts); err != nil {
		t.Fatalf("post alerts: %v", err)
	}
}

func (a *Alertmanager) do(ctx context.Context, method, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", a.port, path), strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s (%w)", resp.Status, text, err)
	}
	return nil
}

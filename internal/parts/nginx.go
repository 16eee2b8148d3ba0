package parts

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Nginx is a running nginx with an upstream "shop" in a file of its own, as a
// person writes it: blue has the traffic, green is down.
type Nginx struct {
	Daemon
	File   string // of the upstream
	Status string // host:port of the status server in that file
	Front  string // http://host:port
	Test   []string
	Reload []string
}

// StartNginx starts one in front of two addresses (host:port). It skips the test
// unless BACKSTAY_REAL=1.
func StartNginx(t testing.TB, blue, green string) *Nginx {
	t.Helper()
	Real(t)
	const path = "/usr/sbin/nginx"
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find nginx (apt install nginx-light): %v", err)
	}
	n := &Nginx{}
	n.path = path
	n.Dir = n.as.directory(t, "nginx")
	if err := os.Chmod(n.Dir, 0o755); err != nil {
		t.Fatalf("start nginx: %v", err)
	}
	n.File = filepath.Join(n.Dir, "shop.conf")
	ports := make([]int, 2)
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			t.Fatalf("start nginx: %v", err)
		}
	}
	n.Front, n.Status = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	upstream := fmt.Sprintf(`# The shop.
upstream shop {
    server %s max_fails=0; # side blue
    server %s down; # side green
    keepalive 32;
}
server {
    listen %s;
    location / { return 200 "backstay 0"; }
}
`, blue, green, n.Status)
	config := fmt.Sprintf(`daemon off;
pid %[1]s/nginx.pid;
error_log stderr warn;
worker_processes 2;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 10m;
    client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
    include %[2]s;
    server {
        listen 127.0.0.1:%[3]d;
        location / { proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
    }
}
`, n.Dir, n.File, ports[0])
	main := filepath.Join(n.Dir, "nginx.conf")
	for file, text := range map[string]string{n.File: upstream, main: config} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatalf("start nginx: %v", err)
		}
	}
	n.args = []string{"-p", n.Dir, "-c", main}
	n.Test = append([]string{path, "-t", "-q"}, n.args...)
	n.Reload = append([]string{path, "-s", "reload"}, n.args...)
	startDaemon(t, &n.Daemon, n.answers)
	return n
}

func (n *Nginx) answers(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Status+"/", nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Restart ends it as a crash does and starts it again.
func (n *Nginx) Restart(t testing.TB) {
	t.Helper()
	n.Kill(t)
	n.run(t, n.answers)
}

// Mark is what its status server answers.
func (n *Nginx) Mark(t testing.TB) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, "http://"+n.Status+"/", nil)
	if err != nil {
		t.Fatalf("ask nginx: %v", err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("ask nginx: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("ask nginx: %v", err)
	}
	return string(body)
}

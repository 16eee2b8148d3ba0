package flag

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/parts"
)

// TestJavaScriptClients reads flags with the OpenFeature SDKs for JavaScript: on
// servers by single evaluations, in pages by all flags and the change stream.
func TestJavaScriptClients(t *testing.T) {
	t.Parallel()
	dir := parts.Node(t, "testdata/openfeature")
	l := memory(t)
	s := New(l, ann(), time.Now)
	set(t, s, "new-checkout", booleanFlag)
	set(t, s, "theme", `{"key": "theme", "on": true, "variations": ["red", "blue"], "fallthrough": {"variation": 0}, "offVariation": 0}`)
	move := func(m model.Move) {
		t.Helper()
		if _, err := s.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Move: &m}); err != nil {
			t.Fatal(err)
		}
	}
	move(model.Move{Share: share(50_000)})
	url := start(t, Server{Open: opening(l)})
	cmd := exec.CommandContext(t.Context(), "node", "clients.mjs", url)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait() // it ends by its input's end
	}()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	read := func(want string) string {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("the clients ended before they said %q", want)
				}
				if strings.HasPrefix(line, want) {
					return line
				}
				t.Logf("the clients say %s", line)
			case <-deadline:
				t.Fatalf("the clients did not say %q", want)
			}
		}
	}
	count := strings.TrimPrefix(read("server "), "server ")
	if on, err := strconv.Atoi(count); err != nil || on < 200 || on > 300 {
		t.Errorf("the server SDK has it on for %s of 500 users at 50%%", count)
	}
	move(model.Move{Share: share(100_000)})
	read("web true red")
	began := time.Now()
	if _, err := s.Kill(t.Context(), checkout, "orders fail"); err != nil {
		t.Fatal(err)
	}
	read("web false red")
	t.Logf("the page saw the kill after %s", time.Since(began).Round(time.Millisecond))
	if _, err := s.Restore(t.Context(), checkout, 0, "fixed"); err != nil {
		t.Fatal(err)
	}
	read("web true red")
}

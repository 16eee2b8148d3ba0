package flag

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	"github.com/open-feature/go-sdk/openfeature"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// shared is a ledger that the server must not close.
type shared struct{ *ledger.Store }

func (shared) Close() error { return nil }

// start runs a server on a ledger and returns its address.
func start(tb testing.TB, s Server) string {
	tb.Helper()
	url, _ := startIn(tb, s)
	return url
}

func startIn(tb testing.TB, s Server) (url string, stop func()) {
	tb.Helper()
	serving := make(chan string, 1)
	s.Listen = []string{"127.0.0.1:0"}
	s.Serving = func(addresses []string, _ int) { serving <- "http://" + addresses[0] }
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				tb.Errorf("serve: %v", err)
			}
		}
	}
	tb.Cleanup(stop)
	select {
	case url := <-serving:
		return url, stop
	case err := <-done:
		ended = true
		tb.Fatalf("serve: %v", err)
	case <-time.After(20 * time.Second):
		tb.Fatal("the server does not serve")
	}
	return "", nil
}

func opening(l *ledger.Store) func(context.Context) (Source, error) {
	return func(context.Context) (Source, error) { return shared{l}, nil }
}

func post(tb testing.TB, url, body string, header ...string) (int, http.Header, string) {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, resp.Header, strings.TrimSpace(string(data))
}

// until waits for a condition.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatal("waited in vain: " + what)
		}
		<-tick.C
	}
}

func TestOFREP(t *testing.T) {
	t.Parallel()
	l := memory(t)
	s := New(l, ann(), time.Now)
	set(t, s, "new-checkout", booleanFlag)
	set(t, s, "theme", `{"key": "theme", "on": false, "variations": ["red"], "offVariation": null}`)
	url := start(t, Server{Open: opening(l), Options: Options{Origins: []string{"https://shop.example"}}})
	for name, c := range map[string]struct {
		path, body string
		status     int
		want       string
	}{
		"one":               {"/new-checkout", `{"context": {"targetingKey": "x"}}`, 200, `{"key":"new-checkout","value":true,"reason":"STATIC","variant":"true","metadata":{"version":1,"evaluation":"FALLTHROUGH"}}`},
		"the program's own": {"/theme", `{"context": {"targetingKey": "x"}}`, 200, `{"key":"theme","reason":"DISABLED","metadata":{"version":1,"evaluation":"OFF"}}`},
		"none":              {"/none", `{"context": {"targetingKey": "x"}}`, 404, `{"key":"none","errorCode":"FLAG_NOT_FOUND","errorDetails":"there is no flag \"none\""}`},
		"odd key":           {"/a%2Fb%00", `{"context": {"targetingKey": "x"}}`, 404, `{"key":"a/b\u0000","errorCode":"FLAG_NOT_FOUND","errorDetails":"there is no flag \"a/b\\x00\""}`},
		"nobody":            {"/new-checkout", `{"context": {}}`, 400, `{"key":"new-checkout","errorCode":"TARGETING_KEY_MISSING","errorDetails":"the context has no targetingKey"}`},
		"nothing":           {"/new-checkout", `{}`, 400, `{"key":"new-checkout","errorCode":"TARGETING_KEY_MISSING","errorDetails":"the context has no targetingKey"}`},
		"a wrong context":   {"", `{"context": 7}`, 400, `{"errorCode":"INVALID_CONTEXT","errorDetails":"the context is not an object"}`},
		"not JSON":          {"", `{`, 400, `{"errorCode":"PARSE_ERROR","errorDetails":"the request is not JSON: unexpected end of JSON input"}`},
		"large":             {"", `{"context": {"targetingKey": "` + strings.Repeat("x", maxRequest) + `"}}`, 413, `{"errorCode":"PARSE_ERROR","errorDetails":"the request is too large"}`},
	} {
		status, _, got := post(t, url+"/ofrep/v1/evaluate/flags"+c.path, c.body)
		if status != c.status || got != c.want {
			t.Errorf("%s: got %d %s, want %d %s", name, status, got, c.status, c.want)
		}
	}
	_, head, _ := post(t, url+"/ofrep/v1/evaluate/flags", `{"context": {"targetingKey": "x"}}`, "Origin", "https://shop.example")
	if head.Get("Access-Control-Allow-Origin") != "https://shop.example" || head.Get("Access-Control-Expose-Headers") != "ETag" {
		t.Errorf("a page of ours is not let in: %v", head)
	}
	if _, head, _ := post(t, url+"/ofrep/v1/evaluate/flags", `{}`, "Origin", "https://evil.example"); head.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a page of others is let in: %v", head)
	}
}

func TestETag(t *testing.T) {
	t.Parallel()
	l := memory(t)
	s := New(l, ann(), time.Now)
	set(t, s, "new-checkout", booleanFlag)
	url := start(t, Server{Open: opening(l)}) + "/ofrep/v1/evaluate/flags"
	const x, y = `{"context": {"targetingKey": "x"}}`, `{"context": {"targetingKey": "y"}}`
	status, head, body := post(t, url, x)
	tag := head.Get("ETag")
	if status != 200 || !strings.Contains(body, `"eventStreams":[{"type":"sse","endpoint":{"requestUri":"/ofrep/v1/events"}}]`) || tag == "" {
		t.Fatalf("got %d, %s, %s", status, tag, body)
	}
	if status, _, body := post(t, url, x, "If-None-Match", "W/"+tag); status != http.StatusNotModified || body != "" {
		t.Errorf("the same again: got %d %s", status, body)
	}
	if status, other, _ := post(t, url, y, "If-None-Match", tag); status != 200 || other.Get("ETag") == tag {
		t.Errorf("for somebody else: got %d %s", status, other.Get("ETag"))
	}
	if _, err := s.Kill(t.Context(), checkout, "test"); err != nil {
		t.Fatal(err)
	}
	until(t, "the kill is served", func() bool {
		status, _, body := post(t, url, x, "If-None-Match", tag)
		return status == 200 && strings.Contains(body, `"value":false`)
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	l := memory(t)
	set(t, New(l, ann(), time.Now), "new-checkout", booleanFlag)
	url := start(t, Server{Open: opening(l), Options: Options{Tokens: []string{"s3cret", "next"}}})
	const x = `{"context": {"targetingKey": "x"}}`
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"none":   {nil, 401},
		"wrong":  {[]string{"Authorization", "Bearer s3cre"}, 401},
		"bearer": {[]string{"Authorization", "Bearer s3cret"}, 200},
		"key":    {[]string{"X-API-Key", "next"}, 200},
	} {
		if status, _, body := post(t, url+"/ofrep/v1/evaluate/flags", x, c.header...); status != c.status || strings.Contains(body, "s3cret") {
			t.Errorf("%s: got %d %s", name, status, body)
		}
	}
	for path, status := range map[string]int{"/ofrep/v1/events": 401, "/ofrep/v1/events?ticket=s3cret": 401, "/healthz": 200} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, status)
		}
	}
}

// listen opens the change stream and returns the tags it tells.
func listen(tb testing.TB, url, last string) <-chan string {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url+"/ofrep/v1/events", http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Last-Event-ID", last)
	resp, err := http.DefaultClient.Do(r) //nolint:bodyclose // closed below
	if err != nil || resp.StatusCode != 200 {
		tb.Fatal(resp, err)
	}
	tags, open := make(chan string, 100), make(chan struct{})
	go func() {
		defer resp.Body.Close()
		defer close(tags)
		lines := bufio.NewScanner(resp.Body)
		for first := true; lines.Scan(); first = false {
			if first {
				close(open)
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var e refetch
				if json.Unmarshal([]byte(data), &e) == nil && e.Type == "refetchEvaluation" {
					tags <- e.ETag
				}
			}
		}
	}()
	<-open
	return tags
}

func next(tb testing.TB, tags <-chan string) string {
	tb.Helper()
	select {
	case tag, ok := <-tags:
		if !ok {
			return "closed"
		}
		return tag
	case <-time.After(20 * time.Second):
		tb.Fatal("the stream says nothing")
	}
	return ""
}

func TestEvents(t *testing.T) {
	t.Parallel()
	l := memory(t)
	s := New(l, ann(), time.Now)
	set(t, s, "new-checkout", booleanFlag)
	url, stop := startIn(t, Server{Open: opening(l)})
	old := listen(t, url, "an-older-tag")
	first := next(t, old) // a client that missed something is told at once
	tags := listen(t, url, first)
	if _, err := s.Kill(t.Context(), checkout, "test"); err != nil {
		t.Fatal(err)
	}
	second := next(t, tags)
	if second == first || next(t, old) != second {
		t.Errorf("the streams do not tell the same: %s, %s", first, second)
	}
	// Who was told of a set that this server does not know yet waits for it a moment.
	began := time.Now()
	if status, _, _ := post(t, url+"/ofrep/v1/evaluate/flags?flagConfigEtag="+first, `{"context": {"targetingKey": "x"}}`); status != 200 || time.Since(began) > catchUp {
		t.Errorf("an own, older set was waited for: %d, %s", status, time.Since(began))
	}
	began = time.Now()
	if status, _, _ := post(t, url+"/ofrep/v1/evaluate/flags?flagConfigEtag=unknown", `{"context": {"targetingKey": "x"}}`); status != 200 || time.Since(began) < catchUp {
		t.Errorf("an unknown set was not waited for: %d, %s", status, time.Since(began))
	}
	stop()
	if got := next(t, tags); got != "closed" {
		t.Errorf("after the end the stream says %s", got)
	}
}

// failing is a ledger that can go away.
type failing struct {
	shared
	down *atomic.Bool
}

func (f failing) FlagLeaf(ctx context.Context) (int64, error) {
	if f.down.Load() {
		return 0, errors.New("the ledger is gone")
	}
	return f.Store.FlagLeaf(ctx)
}

// TestServesWithoutLedger: the flags are served when the ledger dies, after a
// restart without it, and follow again when it is back.
func TestServesWithoutLedger(t *testing.T) {
	t.Parallel()
	l := memory(t)
	s := New(l, ann(), time.Now)
	set(t, s, "new-checkout", booleanFlag)
	var down atomic.Bool
	dir := t.TempDir()
	server := Server{Dir: dir, Open: func(context.Context) (Source, error) {
		if down.Load() {
			return nil, errors.New("the ledger is gone")
		}
		return failing{shared{l}, &down}, nil
	}}
	value := func(url string) string {
		_, _, body := post(t, url+"/ofrep/v1/evaluate/flags/new-checkout", `{"context": {"targetingKey": "x"}}`)
		var got struct{ Value any }
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err, body)
		}
		return fmt.Sprint(got.Value)
	}
	url, stop := startIn(t, server)
	if _, err := s.Kill(t.Context(), checkout, "orders fail"); err != nil {
		t.Fatal(err)
	}
	until(t, "the kill is served", func() bool { return value(url) == "false" })
	down.Store(true)
	if got := value(url); got != "false" {
		t.Errorf("the ledger is gone: got %s", got)
	}
	stop()
	url, stop = startIn(t, server)
	if got := value(url); got != "false" {
		t.Errorf("started again without the ledger: got %s, want what was killed to stay so", got)
	}
	if _, err := s.Restore(t.Context(), checkout, 0, "fixed"); err != nil {
		t.Fatal(err)
	}
	down.Store(false)
	until(t, "the ledger's change is served", func() bool { return value(url) == "true" })
	stop()
}

func TestCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, flags, err := openCopy(dir, "ledger-1")
	if err != nil || len(flags) != 0 {
		t.Fatal(flags, err)
	}
	state := func(n int) backstay.ResourceState {
		return backstay.ResourceState{Parts: map[string]json.RawMessage{backstay.FlagDefinition: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}}
	}
	all := map[backstay.Key]backstay.Flag{}
	everything := func() ([]backstay.Flag, error) {
		var out []backstay.Flag
		for _, f := range all {
			out = append(out, f)
		}
		return out, nil
	}
	for n := 1; n <= 3*slack; n++ {
		f := backstay.Flag{Key: backstay.Key(fmt.Sprintf("flag:f%d", n%7)), Version: int64(n), State: state(n)}
		all[f.Key] = f
		if err := c.add([]backstay.Flag{f}, len(all), everything); err != nil {
			t.Fatal(err)
		}
		if c.lines > 2*7+slack+1 {
			t.Fatalf("%d lines for 7 flags", c.lines)
		}
	}
	if _, _, err := openCopy(dir, "ledger-1"); err == nil || backstay.HintOf(err) == "" {
		t.Errorf("two servers on one copy: got %v", err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "flags.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, cut := range map[string]int{"whole": 0, "torn": 5} {
		if err := os.WriteFile(path, whole[:len(whole)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		c, flags, err := openCopy(dir, "")
		if err != nil || c.ledger != "ledger-1" {
			t.Fatal(name, err)
		}
		got := map[backstay.Key]backstay.Flag{}
		for _, f := range flags {
			got[f.Key] = f
		}
		lastKey := backstay.Key(fmt.Sprintf("flag:f%d", (3*slack)%7))
		if cut > 0 && got[lastKey].Version != 3*slack-7 && got[lastKey].Version != 0 {
			t.Errorf("torn: the last line counts: %+v", got[lastKey])
		}
		if diff := cmp.Diff(all, got); cut == 0 && diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	}
	c, flags, err = openCopy(dir, "ledger-2")
	if err != nil || len(flags) != 0 {
		t.Errorf("the copy of another ledger: got %d flags, %v", len(flags), err)
	}
	_ = c.close()
	for name, text := range map[string]string{"other format": `{"format":"backstay.flags/v9"}` + "\n", "damaged": strings.Replace(string(whole), `"version"`, `"version`, 1), "empty": ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, _, err := openCopy(dir, "ledger-1"); err == nil {
			t.Errorf("%s: no error", name)
			_ = c.close()
		}
	}
}

// TestOpenFeatureClient reads every move with the OpenFeature SDK for Go.
func TestOpenFeatureClient(t *testing.T) {
	t.Parallel()
	l, err := sqlite.Open(t.Context(), t.TempDir(), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := New(l, ann(), time.Now)
	set(t, s, "new-checkout", booleanFlag)
	set(t, s, "theme", `{"key": "theme", "on": true, "variations": ["red", "blue"], "fallthrough": {"variation": 0}, "offVariation": 0}`)
	url := start(t, Server{Open: opening(l), Dir: t.TempDir()})
	const domain = "flags-of-backstay"
	if err := openfeature.SetNamedProviderWithContextAndWait(t.Context(), domain, ofrep.NewProvider(url)); err != nil {
		t.Fatal(err)
	}
	client := openfeature.NewClient(domain)
	count := func() (on int) {
		const users = 200
		for i := range users {
			got, err := client.BooleanValue(t.Context(), "new-checkout", false, openfeature.NewEvaluationContext(fmt.Sprintf("user-%d", i), nil))
			if err != nil {
				t.Fatal(err)
			}
			if got {
				on++
			}
		}
		return on
	}
	var version int64
	for _, c := range []struct {
		move     model.Move
		from, to int
	}{
		{model.Move{Share: share(10_000)}, 5, 40}, {model.Move{Share: share(50_000)}, 70, 130}, {model.Move{Share: share(100_000)}, 200, 200}, {model.Move{Off: true}, 0, 0},
	} {
		e, err := s.Set(t.Context(), Edit{Kind: model.FlagKind, Key: "new-checkout", Move: &c.move})
		if err != nil {
			t.Fatal(err)
		}
		version = e.Version
		until(t, "the move is served", func() bool {
			d, err := client.BooleanValueDetails(t.Context(), "new-checkout", false, openfeature.NewEvaluationContext("x", nil))
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.FlagMetadata.GetFloat("version")
			return err == nil && int64(got) == version
		})
		if on := count(); on < c.from || on > c.to {
			t.Errorf("%+v: %d of 200 users have it", c.move, on)
		}
	}
	d, err := client.StringValueDetails(t.Context(), "theme", "plain", openfeature.NewEvaluationContext("x", map[string]any{"plan": "gold"}))
	if err != nil || d.Value != "red" || d.Variant != "red" || d.Reason != "STATIC" {
		t.Errorf("theme: got %+v, %v", d, err)
	}
	if d, err := client.StringValueDetails(t.Context(), "none", "plain", openfeature.NewEvaluationContext("x", nil)); err == nil || d.Value != "plain" || d.ErrorCode != openfeature.FlagNotFoundCode {
		t.Errorf("none: got %+v, %v", d, err)
	}
}

func share(n int) *int { return &n }

package alert

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	signingKey = "0123456789abcdef0123456789abcdef"
	token      = "a-token-of-alertmanager-0123456789"
)

// desk is a handler that keeps what it is told.
type desk struct {
	*Handler
	mu        sync.Mutex
	now       time.Time
	got       []Report
	strangers []int
	result    Result
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC), result: Taken}
	h, err := NewHandler(Options{
		Keys:   []Secret{{"secret:env/OLD", "whsec_" + base64.StdEncoding.EncodeToString([]byte("another-key-that-is-still-good"))}, {"secret:env/KEY", signingKey}},
		Tokens: []Secret{{"secret:env/TOKEN", token}}, Log: slog.New(slog.DiscardHandler),
		Deliver: func(_ context.Context, r Report) Answer {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.got = append(d.got, r)
			return Answer{Deployment: "id", Name: "shop#1", Result: d.result}
		},
		Strangers: func(_ context.Context, n int) { d.strangers = append(d.strangers, n) },
		Now: func() time.Time {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.now
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Handler = h
	return d
}

// request makes a POST of a JSON document.
func request(path, body string, edits ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for _, edit := range edits {
		edit(r)
	}
	return r
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func bearer(token string) func(*http.Request) { return header("Authorization", "Bearer "+token) }

// signedAt signs what the body of the request is.
func signedAt(key, id string, at time.Time) func(*http.Request) {
	return func(r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		stamp := strconv.FormatInt(at.Unix(), 10)
		r.Header.Set(headerID, id)
		r.Header.Set(headerTimestamp, stamp)
		r.Header.Set(headerSignature, "v1,"+base64.StdEncoding.EncodeToString(sign([]byte(key), id, stamp, body)))
	}
}

// post answers a request and returns its status and what it says.
func (d *desk) post(r *http.Request) (int, answers) {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	var a answers
	_ = json.Unmarshal(w.Body.Bytes(), &a)
	return w.Code, a
}

const fires = `{"format":"backstay.alert/v1","deployment":"shop#1","status":"firing","name":"Errors","summary":"5 % fail"}`

// The signature of the standard's own example.
func TestStandardWebhooks(t *testing.T) {
	t.Parallel()
	keys, err := keysOf([]Secret{{"k", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}})
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set(headerID, "msg_p5jXN8AQM9LWM0D4loKWxJek")
	h.Set(headerTimestamp, "1614265330")
	h.Set(headerSignature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	if ref, err := signed(keys, h, []byte(`{"test": 2432232314}`)); ref != "k" || err != nil {
		t.Errorf("got %q, %v", ref, err)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	good := signedAt(signingKey, "m1", now)
	for name, tt := range map[string]struct {
		path  string
		edits []func(*http.Request)
		want  int
		says  string
	}{
		"signed":            {"/v1/alerts", []func(*http.Request){good}, 200, ""},
		"by the second key": {"/v1/alerts", []func(*http.Request){signedAt("another-key-that-is-still-good", "m1", now)}, 200, ""},
		"several signatures": {"/v1/alerts", []func(*http.Request){good, func(r *http.Request) {
			r.Header.Set(headerSignature, "v1a,AAAA v1,AAAA "+r.Header.Get(headerSignature))
		}}, 200, ""},
		"unsigned":              {"/v1/alerts", nil, 401, "not authenticated"},
		"another key":           {"/v1/alerts", []func(*http.Request){signedAt(strings.ToUpper(signingKey), "m1", now)}, 401, "not authenticated"},
		"empty signature":       {"/v1/alerts", []func(*http.Request){good, header(headerSignature, "")}, 401, "not authenticated"},
		"empty v1":              {"/v1/alerts", []func(*http.Request){good, header(headerSignature, "v1,")}, 401, "not authenticated"},
		"another version":       {"/v1/alerts", []func(*http.Request){good, func(r *http.Request) { r.Header.Set(headerSignature, "v0"+r.Header.Get(headerSignature)[2:]) }}, 401, "not authenticated"},
		"another body":          {"/v1/alerts", []func(*http.Request){good, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(strings.Replace(fires, "#1", "#2", 1))) }}, 401, "not authenticated"},
		"another ID":            {"/v1/alerts", []func(*http.Request){good, header(headerID, "m2")}, 401, "not authenticated"},
		"another time":          {"/v1/alerts", []func(*http.Request){good, header(headerTimestamp, strconv.FormatInt(now.Unix()+1, 10))}, 401, "not authenticated"},
		"no time":               {"/v1/alerts", []func(*http.Request){good, header(headerTimestamp, "")}, 401, "not authenticated"},
		"a bearer token":        {"/v1/alerts", []func(*http.Request){bearer(token)}, 401, "not authenticated"},
		"late":                  {"/v1/alerts", []func(*http.Request){signedAt(signingKey, "m1", now.Add(-10*time.Minute))}, 401, "signed 10m0s ago"},
		"early":                 {"/v1/alerts", []func(*http.Request){signedAt(signingKey, "m1", now.Add(10*time.Minute))}, 401, "set the clocks"},
		"alertmanager's token":  {"/v1/alerts/alertmanager", []func(*http.Request){bearer(token)}, 400, "version"},
		"alertmanager, signed":  {"/v1/alerts/alertmanager", []func(*http.Request){good}, 400, "version"},
		"another token":         {"/v1/alerts/alertmanager", []func(*http.Request){bearer(token + "x")}, 401, "not authenticated"},
		"a beginning of it":     {"/v1/alerts/alertmanager", []func(*http.Request){bearer(token[:10])}, 401, "not authenticated"},
		"no token":              {"/v1/alerts/alertmanager", nil, 401, "not authenticated"},
		"another scheme":        {"/v1/alerts/alertmanager", []func(*http.Request){header("Authorization", "Basic "+token)}, 401, "not authenticated"},
		"token, bad signature":  {"/v1/alerts/alertmanager", []func(*http.Request){bearer(token), header(headerSignature, "v1,AAAA")}, 401, "not authenticated"},
		"compressed":            {"/v1/alerts", []func(*http.Request){good, header("Content-Encoding", "gzip")}, 415, "not compressed"},
		"a form":                {"/v1/alerts", []func(*http.Request){good, header("Content-Type", "text/plain")}, 415, "application/json"},
		"said to be a gigabyte": {"/v1/alerts", []func(*http.Request){good, func(r *http.Request) { r.ContentLength = 1 << 30 }}, 413, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			status, a := d.post(request(tt.path, fires, tt.edits...))
			if status != tt.want || !strings.Contains(a.Error, tt.says) {
				t.Errorf("got %d %+v, want %d %q", status, a, tt.want, tt.says)
			}
			if want := map[bool]int{true: 1}[tt.want == 200]; len(d.got) != want {
				t.Errorf("%d reports were delivered", len(d.got))
			}
			if strangers := tt.says == "not authenticated"; strangers != (len(d.strangers) == 1) {
				t.Errorf("strangers %v", d.strangers)
			}
		})
	}
}

// endless is a body that never ends, and counts what was read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

// A body without a length is read as far as the bound; without a token not at all.
func TestEndlessBody(t *testing.T) {
	t.Parallel()
	d, body := newDesk(t), &endless{}
	r := httptest.NewRequest(http.MethodPost, "/v1/alerts", body)
	r.ContentLength = -1
	header("Content-Type", "application/json")(r)
	header(headerSignature, "v1,AAAA")(r)
	if status, _ := d.post(r); status != 413 || body.read > 2*maxBody {
		t.Errorf("status %d after %d bytes", status, body.read)
	}
	body.read = 0
	r = httptest.NewRequest(http.MethodPost, "/v1/alerts/alertmanager", body)
	header("Content-Type", "application/json")(r)
	if status, _ := d.post(r); status != 401 || body.read > 0 {
		t.Errorf("without a token: status %d after %d bytes", status, body.read)
	}
}

// A signed request is taken once, however many come at once; the ID with another body
// is refused, the same with a later time is a retry.
func TestReplay(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	now := d.now
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for range 100 {
		wg.Go(func() {
			status, _ := d.post(request("/v1/alerts", fires, signedAt(signingKey, "m1", now)))
			mu.Lock()
			defer mu.Unlock()
			counts[status]++
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[int]int{200: 1, 409: 99}, counts); diff != "" {
		t.Errorf("a hundred at once (-want +got):\n%s", diff)
	}
	if status, a := d.post(request("/v1/alerts", strings.Replace(fires, "#1", "#2", 1), signedAt(signingKey, "m1", now))); status != 409 || !strings.Contains(a.Error, "another body") {
		t.Errorf("another body: %d %+v", status, a)
	}
	if status, _ := d.post(request("/v1/alerts", fires, signedAt(signingKey, "m1", now.Add(time.Minute)))); status != 200 || d.got[0].ID != d.got[1].ID {
		t.Errorf("a retry: %d, IDs %s and %s", status, d.got[0].ID, d.got[1].ID)
	}
	// What could not be handled may come again as it is.
	d.result = Failed
	retry := func() int {
		status, _ := d.post(request("/v1/alerts", fires, signedAt(signingKey, "m9", now)))
		return status
	}
	if status := retry(); status != 503 {
		t.Errorf("failed: %d", status)
	}
	d.result = Taken
	if status := retry(); status != 200 {
		t.Errorf("sent again after it failed: %d", status)
	}
	// After its window it is late instead.
	d.mu.Lock()
	d.now = now.Add(10 * time.Minute)
	d.mu.Unlock()
	if status := retry(); status != 401 {
		t.Errorf("ten minutes later: %d", status)
	}
	if d.memory.take("x", "y", "z", nil, now.Add(time.Hour)); len(d.memory.taken) != 1 {
		t.Errorf("it remembers %d requests", len(d.memory.taken))
	}
}

// One sender's flood is refused, and does not keep another one out; strangers are told
// of once a minute.
func TestFlood(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	counts := map[int]int{}
	for i := range mostRequests + 30 {
		status, _ := d.post(request("/v1/alerts", fires, signedAt(signingKey, fmt.Sprint(i), d.now)))
		counts[status]++
	}
	if counts[200] != mostRequests || counts[429] != 30 {
		t.Errorf("of one sender: %v", counts)
	}
	for range 500 {
		d.post(request("/v1/alerts", fires))
	}
	if status, _ := d.post(request("/v1/alerts/alertmanager", `{"version":"4","alerts":[{"status":"firing","labels":{"backstay_release":"shop"}}]}`, bearer(token))); status != 200 {
		t.Errorf("another sender: %d", status)
	}
	d.now = d.now.Add(time.Minute)
	d.post(request("/v1/alerts", fires))
	d.post(request("/v1/alerts", fires))
	d.Close(t.Context())
	if diff := cmp.Diff([]int{1, 500, 1}, d.strangers); diff != "" {
		t.Errorf("strangers (-want +got):\n%s", diff)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/healthz", 200},
		{"GET", "/v1/alerts", 405},
		{"PUT", "/v1/alerts", 405},
		{"POST", "/v1/alerts/other", 404},
		{"POST", "/", 404},
		{"POST", "/v1/alerts/../../v1/alerts", 301 + 6},
	} {
		w := httptest.NewRecorder()
		d.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
		if w.Code != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, w.Code, tt.want)
		}
	}
}

func TestWeakSecrets(t *testing.T) {
	t.Parallel()
	deliver := func(context.Context, Report) Answer { return Answer{} }
	for name, o := range map[string]Options{
		"none":            {},
		"a short key":     {Keys: []Secret{{"k", "short"}}},
		"a short whsec":   {Keys: []Secret{{"k", "whsec_c2hvcnQ="}}},
		"no base64":       {Keys: []Secret{{"k", "whsec_%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%"}}},
		"a short token":   {Tokens: []Secret{{"t", "short"}}},
		"a token's space": {Tokens: []Secret{{"t", token + " "}}},
	} {
		o.Deliver, o.Log = deliver, slog.New(slog.DiscardHandler)
		if _, err := NewHandler(o); err == nil {
			t.Errorf("%s: it is taken", name)
		} else if strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

package httpcall

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// flags is a server with one value that honours idempotency keys.
type flags struct {
	*httptest.Server
	mu      sync.Mutex
	value   string
	effects int
	keys    map[string]bool
}

func newFlags(tb testing.TB) *flags {
	tb.Helper()
	f := &flags{value: "off", keys: map[string]bool{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	tb.Cleanup(f.Close)
	return f
}

func (f *flags) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Header.Get("Authorization") != canary {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodGet {
		_, _ = fmt.Fprintf(w, `{"flag": {"value": %q, "seen": %d}}`, f.value, len(f.keys))
		return
	}
	body, _ := io.ReadAll(r.Body)
	key := r.Header.Get("Idempotency-Key") + " " + string(body)
	if r.Header.Get("Idempotency-Key") != "" && f.keys[key] {
		return
	}
	f.keys[key] = true
	f.effects++
	f.value = string(body)
}

func (f *flags) read(testing.TB) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return map[string]string{"value": f.value}
}

func (f *flags) config() map[string]any {
	return map[string]any{
		"url": f.URL + "/flag", "body": "on", "headers": map[string]string{"Authorization": "secret:env/AUTH"},
		"undo": map[string]any{"url": f.URL + "/flag", "body": "off"},
	}
}

func stepRequest(config map[string]any) backstay.Request {
	return backstay.Request{
		ID: "flag", Config: backstay.Canonical(map[string]any{"http": config}), Release: "shop",
		Blobs: drivertest.NewBlobs(), Secrets: secrets{"secret:env/AUTH": canary},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	shapes := map[string]func(config map[string]any, f *flags){
		"undo": func(map[string]any, *flags) {},
		"undo and read": func(c map[string]any, f *flags) {
			c["read"] = map[string]any{"url": f.URL + "/flag", "pointer": "/flag/value"}
		},
		"irreversible": func(c map[string]any, _ *flags) {
			delete(c, "undo")
			c["irreversible"] = "mails are sent"
		},
		"no key": func(c map[string]any, _ *flags) { c["idempotency-header"] = "" },
		"get": func(c map[string]any, _ *flags) {
			delete(c, "undo")
			delete(c, "body")
			c["method"] = "GET"
		},
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drivertest.Run(t, drivertest.Suite{MaxCuts: 15, New: func(t *testing.T) drivertest.Fixture {
				t.Helper()
				f := newFlags(t)
				config := f.config()
				shape(config, f)
				fx := drivertest.Fixture{Kind: New(), Request: stepRequest(config), World: f.read, Canaries: []string{canary}}
				if config["read"] != nil {
					fx.Mutations = []drivertest.Mutation{{Name: "value", Apply: func(testing.TB) {
						f.mu.Lock()
						defer f.mu.Unlock()
						f.value = "theirs"
					}}}
				}
				return fx
			}})
		})
	}
}

// trial prepares a step against a handler.
func trial(t *testing.T, handler http.HandlerFunc, alter func(config map[string]any)) (*drivertest.Trial, *bytes.Buffer) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	config := map[string]any{"url": server.URL + "/path?token=" + canary, "irreversible": "a test"}
	if alter != nil {
		alter(config)
	}
	return drivertest.NewTrial(t, drivertest.Fixture{Kind: New(), Request: stepRequest(config)}), &bytes.Buffer{}
}

func do(tr *drivertest.Trial, ctx context.Context, out io.Writer) error { //nolint:revive // the trial comes first
	call := tr.Call()
	call.Output = out
	_, err := New().Do(ctx, call)
	return err
}

func TestStatusesAndClasses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		config map[string]any
		class  backstay.ErrorClass // "" is success
	}{
		{200, nil, ""},
		{204, nil, ""},
		{200, map[string]any{"expect": []int{201}}, backstay.Permanent},
		{404, map[string]any{"expect": []int{204, 404}}, ""},
		{302, nil, backstay.Permanent},
		{302, map[string]any{"expect": []int{302}}, ""},
		{400, nil, backstay.Permanent},
		{404, nil, backstay.Permanent},
		{409, nil, backstay.Conflict},
		{412, nil, backstay.Conflict},
		{429, nil, backstay.Transient},
		{500, nil, backstay.Transient},
		{503, nil, backstay.Transient},
		{503, map[string]any{"idempotency-header": ""}, backstay.Permanent},
		{503, map[string]any{"idempotency-header": "", "method": "GET"}, backstay.Transient},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.config), func(t *testing.T) {
			t.Parallel()
			asked := 0
			tr, _ := trial(t, func(w http.ResponseWriter, _ *http.Request) {
				asked++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
			}, func(c map[string]any) {
				for k, v := range tt.config {
					c[k] = v
				}
			})
			err := do(tr, t.Context(), nil)
			if (err == nil) != (tt.class == "") || err != nil && backstay.ClassOf(err) != tt.class {
				t.Errorf("error %v of class %q, want class %q", err, backstay.ClassOf(err), tt.class)
			}
			if asked != 1 {
				t.Errorf("%d requests, want 1: nothing is followed or repeated", asked)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the error shows the query: %v", err)
			}
		})
	}
}

func TestConnectionErrors(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + closed.Addr().String() + "/?token=" + canary
	_ = closed.Close()
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	tests := []struct {
		name   string
		config map[string]any
		class  backstay.ErrorClass
		says   string
	}{
		{"refused", map[string]any{"url": address}, backstay.Transient, "nothing was sent"},
		{"refused without a key", map[string]any{"url": address, "idempotency-header": ""}, backstay.Transient, "nothing was sent"},
		{"lost with a key", nil, backstay.Transient, "EOF"},
		{"lost without a key", map[string]any{"idempotency-header": ""}, backstay.Permanent, "not known whether"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tr, _ := trial(t, hangUp, func(c map[string]any) {
				for k, v := range tt.config {
					c[k] = v
				}
			})
			err := do(tr, t.Context(), nil)
			if err == nil || backstay.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v of class %q, want class %q and %q", err, backstay.ClassOf(err), tt.class, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the error shows the query: %v", err)
			}
		})
	}
}

// A process that was stopped while it connected wakes after its lease.
func TestNothingIsSentAfterTheLease(t *testing.T) {
	t.Parallel()
	f := newFlags(t)
	tr := drivertest.NewTrial(t, drivertest.Fixture{Kind: New(), Request: stepRequest(f.config())})
	lapsed, looks := errors.New("lapsed"), 0
	ctx := backstay.WithLease(t.Context(), func() (time.Duration, error) {
		if looks++; looks > 1 {
			return 0, lapsed
		}
		return time.Second, nil
	})
	if err := tr.Do(ctx); !errors.Is(err, lapsed) {
		t.Errorf("got %v", err)
	}
	if got := f.read(t)["value"]; got != "off" {
		t.Errorf("the value is %q: the request was sent", got)
	}
}

func TestSlowAnswersAreCut(t *testing.T) {
	t.Parallel()
	drip := func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for r.Context().Err() == nil {
			<-tick.C
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
	}
	t.Run("by their own timeout", func(t *testing.T) {
		t.Parallel()
		tr, _ := trial(t, drip, func(c map[string]any) { c["timeout"] = "100ms" })
		err := do(tr, t.Context(), nil)
		if err == nil || backstay.ClassOf(err) != backstay.Transient || !strings.Contains(err.Error(), "within 100ms") {
			t.Errorf("error %v of class %q", err, backstay.ClassOf(err))
		}
	})
	t.Run("by the step's end", func(t *testing.T) {
		t.Parallel()
		tr, _ := trial(t, drip, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := do(tr, ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	endless := func(w http.ResponseWriter, r *http.Request) {
		block := bytes.Repeat([]byte("x"), 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	tr, out := trial(t, endless, nil)
	if err := do(tr, t.Context(), out); err != nil {
		t.Errorf("a long answer with a good status is a success: %v", err)
	}
	if out.Len() > maxOutput+1<<10 {
		t.Errorf("%d bytes of output are kept", out.Len())
	}
	if strings.Contains(out.String(), canary) {
		t.Errorf("the output shows the query")
	}
}

func TestRequestCarriesWhatIsDeclared(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body string
	tr, _ := trial(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
	}, func(c map[string]any) {
		c["method"], c["body"] = "PUT", map[string]any{"paths": []string{"/a<b"}}
		c["headers"] = map[string]string{"Authorization": "secret:env/AUTH", "X-Plain": "plain"}
	})
	if err := do(tr, t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	h := map[string]string{}
	for _, name := range []string{"Authorization", "X-Plain", "Content-Type", "Idempotency-Key", "Accept-Encoding"} {
		h[name] = got.Header.Get(name)
	}
	want := map[string]string{
		"Authorization": canary, "X-Plain": "plain", "Content-Type": "application/json",
		"Idempotency-Key": tr.Call().IdempotencyKey, "Accept-Encoding": "",
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got.Method != "PUT" || body != `{"paths":["/a<b"]}` {
		t.Errorf("%s with body %q", got.Method, body)
	}
}

// No request may leave for a guarded address: the connection is refused before
// it is made, whatever name led there.
func TestGuard(t *testing.T) {
	t.Parallel()
	tests := []struct {
		address string
		refused bool
	}{
		{"169.254.169.254:80", true},
		{"[::ffff:169.254.169.254]:80", true},
		{"[fe80::1%eth0]:80", true},
		{"[fd00:ec2::254]:80", true},
		{"100.100.100.200:80", true},
		{"224.0.0.1:80", true},
		{"127.0.0.1:80", false},
		{"[::1]:80", false},
		{"10.0.0.1:443", false},
		{"93.184.215.14:443", false},
	}
	for _, tt := range tests {
		t.Run(tt.address, func(t *testing.T) {
			t.Parallel()
			err := guard("tcp", tt.address, nil)
			if refused := errors.As(err, new(*guardError)); refused != tt.refused || err != nil != refused {
				t.Errorf("guard says %v", err)
			}
		})
	}
	t.Run("in the client", func(t *testing.T) {
		t.Parallel()
		r := request{Method: "GET", URL: "http://169.254.169.254/latest"}
		_, err := r.send(t.Context(), backstay.Call{}, true)
		if backstay.ClassOf(err) != backstay.Permanent || !errors.As(err, new(*guardError)) || backstay.HintOf(err) != linkLocalHint {
			t.Errorf("error %v of class %q", err, backstay.ClassOf(err))
		}
	})
	t.Run("allowed", func(t *testing.T) {
		t.Parallel()
		r := request{LinkLocal: true}
		tr, ok := r.client(t.Context()).Transport.(*http.Transport)
		if !ok || tr.Proxy != nil {
			t.Fatalf("transport %v", tr)
		}
	})
	if !guarded(netip.MustParseAddr("169.254.0.1")) {
		t.Error("169.254.0.1 is not guarded")
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		answer  answer
		pointer string
		expect  []int
		want    string // canonical value; "" is absent
		why     string
	}{
		{"JSON", answer{status: 200, body: []byte(`{"b": 1.10, "a": [true]}`)}, "", nil, `{"a":[true],"b":1.10}`, ""},
		{"text", answer{status: 200, body: []byte("v1\n")}, "", nil, `"v1"`, ""},
		{"pointer", answer{status: 200, body: []byte(`{"a/b": {"~": [0, {"x": null}]}}`)}, "/a~1b/~0/1/x", nil, `null`, ""},
		{"pointer to nothing", answer{status: 200, body: []byte(`{"a": 1}`)}, "/b", nil, "", ""},
		{"pointer past a leaf", answer{status: 200, body: []byte(`{"a": 1}`)}, "/a/b", nil, "", ""},
		{"pointer with a leading zero", answer{status: 200, body: []byte(`[1]`)}, "/00", nil, "", ""},
		{"pointer into text", answer{status: 200, body: []byte("v1")}, "/a", nil, "", "not JSON"},
		{"absent", answer{status: 404}, "", nil, "", ""},
		{"404 that is expected", answer{status: 404, body: []byte("none")}, "", []int{404}, `"none"`, ""},
		{"failed", answer{status: 500}, "", nil, "", "status 500"},
		{"too large", answer{status: 200, more: true}, "", nil, "", "larger"},
		{"binary", answer{status: 200, body: []byte{0xff, 0xfe}}, "", nil, "", "neither"},
		{"repeats a secret", answer{status: 200, body: []byte("x" + canary), values: []string{canary}}, "", nil, "", "secret"},
		{"two JSON values", answer{status: 200, body: []byte(`{} {}`)}, "", nil, `"{} {}"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := body{Read: &request{Expect: tt.expect}, Pointer: tt.pointer}
			state, why := b.state(tt.answer)
			if (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) {
				t.Errorf("why %q, want %q", why, tt.why)
			}
			if got := string(state.Parts[""]); got != tt.want {
				t.Errorf("state %s, want %s", got, tt.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, _ = zip.Write(bytes.Repeat([]byte{'A'}, 8<<20))
	_ = zip.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "all well") })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	tests := []struct {
		name string
		http any
		want backstay.Verdict
		says string
	}{
		{"URL", server.URL + "/ok", backstay.Pass, "status 200"},
		{"contains", map[string]any{"url": server.URL + "/ok", "contains": "well"}, backstay.Pass, ""},
		{"does not contain", map[string]any{"url": server.URL + "/ok", "contains": "ill"}, backstay.Fail, "does not contain"},
		{"broken", server.URL + "/broken", backstay.Fail, "status 500"},
		{"expected to be broken", map[string]any{"url": server.URL + "/broken", "expect": []int{500}}, backstay.Pass, ""},
		{"moved", server.URL + "/moved", backstay.Fail, "status 302"},
		{"compressed bomb", map[string]any{"url": server.URL + "/bomb", "contains": "AAAAAAAA"}, backstay.Fail, "does not contain"},
		{"nobody there", "http://127.0.0.1:1/", backstay.Fail, "nothing was sent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := New().PrepareCheck(t.Context(), backstay.Request{ID: "http-1", Config: backstay.Canonical(map[string]any{"http": tt.http})})
			if err != nil {
				t.Fatal(drivertest.Explain(err))
			}
			got, err := New().Check(t.Context(), backstay.Call{Step: backstay.Step{ID: "http-1", Prepared: p}})
			if err != nil || got.Verdict != tt.want || !strings.Contains(got.Reason, tt.says) {
				t.Errorf("%+v, %v; want %s and %q", got, err, tt.want, tt.says)
			}
		})
	}
	t.Run("ended context is undecided", func(t *testing.T) {
		t.Parallel()
		p, err := New().PrepareCheck(t.Context(), backstay.Request{Config: backstay.Canonical(map[string]any{"http": server.URL})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		got, err := New().Check(ctx, backstay.Call{Step: backstay.Step{Prepared: p}})
		if !errors.Is(err, context.Canceled) || got.Verdict != backstay.Undecided {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	const good = "https://example.test/x"
	tests := []struct {
		name   string
		config map[string]any
		path   string
		says   string
	}{
		{"no undo", map[string]any{"url": good}, "http", "take this request back"},
		{"undo and irreversible", map[string]any{"url": good, "irreversible": "x", "undo": map[string]any{"url": good}}, "http.irreversible", "not irreversible"},
		{"blank reason", map[string]any{"url": good, "irreversible": " "}, "http.irreversible", "blank"},
		{"file", map[string]any{"url": "file:///etc/passwd", "irreversible": "x"}, "http.url", "scheme"},
		{"gopher", map[string]any{"url": "gopher://example.test/", "irreversible": "x"}, "http.url", "scheme"},
		{"unix socket", map[string]any{"url": "unix:///run/x.sock", "irreversible": "x"}, "http.url", "scheme"},
		{"no host", map[string]any{"url": "http:///x", "irreversible": "x"}, "http.url", "no host"},
		{"password", map[string]any{"url": "https://a:" + canary + "@example.test/", "irreversible": "x"}, "http.url", "password"},
		{"unparsable", map[string]any{"url": "https://a b/" + canary, "irreversible": "x"}, "http.url", "not a URL"},
		{"metadata", map[string]any{"url": "http://169.254.169.254/", "irreversible": "x"}, "http.url", "metadata"},
		{"mapped metadata", map[string]any{"url": "http://[::ffff:169.254.169.254]/", "irreversible": "x"}, "http.url", "metadata"},
		{"undo elsewhere", map[string]any{"url": good, "undo": map[string]any{"url": "ftp://x/"}}, "http.undo.url", "scheme"},
		{"method", map[string]any{"url": good, "method": "post it", "irreversible": "x"}, "http.method", "not a method"},
		{"status", map[string]any{"url": good, "expect": []int{99}, "irreversible": "x"}, "http.expect[0]", "99"},
		{"header name", map[string]any{"url": good, "headers": map[string]string{"a b": "x"}, "irreversible": "x"}, "http.headers", "not the name"},
		{"header injection", map[string]any{"url": good, "headers": map[string]string{"A": "x\r\nB: y"}, "irreversible": "x"}, "http.headers.A", "line end"},
		{"host header", map[string]any{"url": good, "headers": map[string]string{"host": "x"}, "irreversible": "x"}, "http.headers.host", "client itself"},
		{"unknown secret", map[string]any{"url": good, "headers": map[string]string{"A": "secret:env/NONE"}, "irreversible": "x"}, "http.headers.A", "secret:env/NONE"},
		{"pointer", map[string]any{"url": good, "irreversible": "x", "read": map[string]any{"url": good, "pointer": "a"}}, "http.read.pointer", "JSON pointer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := New().Prepare(t.Context(), stepRequest(tt.config))
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) || !slices.ContainsFunc(refused.Problems, func(p backstay.Problem) bool {
				return p.Path == tt.path && strings.Contains(p.Message, tt.says)
			}) {
				t.Errorf("problems %s, want one at %s that says %q", drivertest.Explain(err), tt.path, tt.says)
			}
			if err != nil && strings.Contains(drivertest.Explain(err), canary) {
				t.Errorf("the refusal shows a secret: %s", drivertest.Explain(err))
			}
		})
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`"a text"`, `{"b":[1,2],"a":"x"}`} {
		var b Body
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(b); err != nil || string(got) != text {
			t.Errorf("%s became %s, %v", text, got, err)
		}
	}
}

// FuzzPointer looks for pointers and answers that panic.
func FuzzPointer(f *testing.F) {
	f.Add([]byte(`{"a":[0,{"b~/":1}]}`), "/a/1/b~0~1")
	f.Add([]byte(`[]`), "/-1")
	f.Add([]byte(`1`), "x")
	f.Fuzz(func(t *testing.T, data []byte, pointer string) {
		v, err := decodeJSON(data)
		if err != nil {
			return
		}
		if got, found := lookup(v, pointer); found {
			if !json.Valid(backstay.Canonical(got)) {
				t.Errorf("%q in %q is no JSON", pointer, data)
			}
		}
	})
}

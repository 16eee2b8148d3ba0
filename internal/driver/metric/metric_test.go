package metric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/proc"
)

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// kinds by name.
func kinds(now func() time.Time) map[string]driver.Check {
	all := map[string]driver.Check{}
	for _, k := range Kinds(now) {
		all[k.Name()] = k
	}
	return all
}

const sections = `{
	"here": {"proxy": "/run/p.sock"},
	"prom": {"prometheus": "http://127.0.0.1:9090"},
	"own": {"exec": ["cat", "/dev/null"]},
	"two": {"proxy": "/run/p.sock", "prometheus": "http://127.0.0.1:9090"},
	"leaky": {"prometheus": "http://u:p@h:1", "token": "written out"},
	"odd": {"proxy": "/run/p.sock", "scrape": "5s"},
	"gone": {"exec": ["./no-such-program"]}
}`

func prepare(t *testing.T, kind, id, config string) (backstay.Prepared, error) {
	t.Helper()
	return kinds(time.Now)[kind].PrepareCheck(t.Context(), backstay.Request{
		ID: id, Config: json.RawMessage(config), Dir: t.TempDir(), Sections: map[string]json.RawMessage{"sources": json.RawMessage(sections)},
	})
}

// What is wrong is refused when the plan is made, with the place.
func TestRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ kind, config, path, text string }{
		"no source named":       {"compare", `{"compare":"error-rate"}`, "source", "does not say which"},
		"unknown source":        {"compare", `{"compare":"error-rate","source":"prod"}`, "source", `no source is named "prod"`},
		"two sources in one":    {"compare", `{"compare":"error-rate","source":"two"}`, "source", "exactly one of"},
		"password in a URL":     {"query", `{"query":"up","source":"leaky","max":1}`, "source", "user name or password"},
		"token written out":     {"query", `{"query":"up","source":"leaky","max":1}`, "source", "token is written out"},
		"scrape of a proxy":     {"query", `{"query":"p99","source":"odd","max":1}`, "source", "belongs to prometheus"},
		"no such program":       {"query", `{"query":"x","source":"gone","max":1}`, "source", "cannot be read"},
		"margin and budget":     {"compare", `{"compare":"error-rate","source":"here","margin":0.01,"budget":0.01}`, "budget", "instead of a margin"},
		"no margin of a rate":   {"compare", `{"compare":"rate","source":"own"}`, "margin", "is missing"},
		"margin of all":         {"compare", `{"compare":"error-rate","source":"here","margin":"100%"}`, "margin", "below 100%"},
		"quantile of errors":    {"compare", `{"compare":"error-rate","source":"here","quantiles":[50]}`, "quantiles", "belong to latency"},
		"unknown quantile":      {"compare", `{"compare":"latency","source":"here","quantiles":[51]}`, "quantiles", "not among"},
		"ratio of latency":      {"compare", `{"compare":"latency","source":"here","ratio":2}`, "margin", "are of rates"},
		"alpha of one":          {"compare", `{"compare":"latency","source":"here","false-rollback":1}`, "false-rollback", "below 50%"},
		"proxy counts itself":   {"compare", `{"compare":"error-rate","source":"here","total":"x{side=\"{side}\"}"}`, "total", "counts by itself"},
		"proxy has no rate":     {"compare", `{"compare":"rate","source":"here","margin":0.1}`, "compare", "does not know"},
		"selector without side": {"compare", `{"compare":"error-rate","source":"prom","total":"x","bad":"y{side=\"{side}\"}"}`, "total", "{side}"},
		"prometheus, no total":  {"compare", `{"compare":"error-rate","source":"prom"}`, "total", "are missing"},
		"no durations":          {"compare", `{"compare":"latency","source":"prom"}`, "durations", "is missing"},
		"no bound":              {"query", `{"query":"p99","source":"here"}`, "query", "no bound"},
		"max below min":         {"query", `{"query":"p99","source":"here","max":1,"min":2}`, "max", "below min"},
		"proxy does not know":   {"query", `{"query":"sum(x)","source":"here","max":1}`, "query", "does not know"},
		"objective of all":      {"burn", `{"burn":"error-rate","source":"here","slo":1}`, "slo", "between 0 and 100%"},
		"one window":            {"burn", `{"burn":"error-rate","source":"here","slo":0.9,"windows":["5m"]}`, "windows", "short and a long"},
		"no window in it":       {"burn", `{"burn":"x","source":"prom","slo":0.9}`, "burn", "{window}"},
		"probe of a file":       {"probe", `{"probe":"file:///etc/passwd"}`, "probe", "not tcp"},
		"probe without a port":  {"probe", `{"probe":"tcp://h"}`, "probe", "no port"},
		"no time":               {"initialise", `{"initialise":{"probe":"tcp://h:1"}}`, "initialise.within", "above 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := prepare(t, tt.kind, "gates.g", tt.config)
			var refused *backstay.RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("not refused: %v", err)
			}
			for _, p := range refused.Problems {
				if p.Path == tt.path && strings.Contains(p.Message, tt.text) {
					return
				}
			}
			t.Errorf("problems %v, want one at %s with %q", refused.Problems, tt.path, tt.text)
		})
	}
	if _, err := prepare(t, "compare", "compare-1", `{"compare":"error-rate","source":"here"}`); err == nil {
		t.Error("a comparison in verify is accepted")
	}
}

func TestAmounts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Amount{`0.5`: 0.5, `"50%"`: 0.5, `"0.2%"`: 0.002, `"250ms"`: 0.25, `"3"`: 3, `12`: 12} {
		var a Amount
		if err := json.Unmarshal([]byte(text), &a); err != nil || a < want-1e-12 || a > want+1e-12 {
			t.Errorf("%s is %v, %v; want %v", text, a, err, want)
		}
	}
	for _, text := range []string{`"NaN"`, `"inf"`, `"much"`, `"%"`, `""`} {
		var a Amount
		if err := json.Unmarshal([]byte(text), &a); err == nil {
			t.Errorf("%s is %v", text, a)
		}
	}
}

// shell prepares a check whose source is a shell script.
func shell(t *testing.T, kind, script, keys string) backstay.Call {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	source := fmt.Sprintf(`{"own":{"exec":[%q]}}`, path)
	prepared, err := kinds(time.Now)[kind].PrepareCheck(t.Context(), backstay.Request{
		ID: "gates.g", Config: json.RawMessage(keys), Dir: "/", Sections: map[string]json.RawMessage{"sources": json.RawMessage(source)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return backstay.Call{Step: backstay.Step{ID: "g", Prepared: prepared}, Gate: &backstay.GateView{Since: time.Now()}, Slots: map[string]string{"side": "green"}}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		kind, script, keys string
		want               backstay.Verdict
		why                string
	}{
		"within":         {"query", "echo 0.5", `{"query":"x","min":0.4,"max":"60%"}`, backstay.Pass, "0.5"},
		"at the bound":   {"query", "echo 0.6", `{"query":"x","max":"60%"}`, backstay.Pass, "0.6"},
		"above":          {"query", "echo 0.7", `{"query":"x","max":"60%"}`, backstay.Fail, "above 0.6"},
		"below":          {"query", "echo 0.3", `{"query":"x","min":0.4}`, backstay.Fail, "below 0.4"},
		"nothing":        {"query", "exit 2", `{"query":"x","max":1}`, backstay.Undecided, "there is none"},
		"not a number":   {"query", "echo NaN", `{"query":"x","max":1}`, backstay.Undecided, "NaN"},
		"fails":          {"query", "exit 1", `{"query":"x","max":1}`, backstay.Undecided, "exit"},
		"old":            {"query", `echo '{"value":1,"at":"2020-01-01T00:00:00Z"}'`, `{"query":"x","max":1}`, backstay.Undecided, "old"},
		"slow burn":      {"burn", "echo 0.002", `{"burn":"{window}","slo":"99.9%"}`, backstay.Pass, "2 times"},
		"fast burn":      {"burn", "echo 0.0144", `{"burn":"{window}","slo":"99.9%"}`, backstay.Fail, "14.4 times over 1h"},
		"short one only": {"burn", `case $BACKSTAY_QUESTION in *300000000000*) echo 0.5;; *) echo 0.001;; esac`, `{"burn":"{window}","slo":"99.9%"}`, backstay.Pass, "500 times over 5m"},
		"one is missing": {"burn", `case $BACKSTAY_QUESTION in *300000000000*) echo 0.5;; *) exit 2;; esac`, `{"burn":"{window}","slo":"99.9%"}`, backstay.Undecided, "there is none"},
		"not a share":    {"burn", "echo 7", `{"burn":"{window}","slo":"99.9%"}`, backstay.Undecided, "not from 0 to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call := shell(t, tt.kind, tt.script, tt.keys)
			res, err := kinds(time.Now)[tt.kind].Check(t.Context(), call)
			if err != nil || res.Verdict != tt.want || !strings.Contains(res.Reason, tt.why) {
				t.Errorf("%v %q, %v; want %v with %q", res.Verdict, res.Reason, err, tt.want, tt.why)
			}
		})
	}
}

// A program that was changed after the plan is not run.
func TestPinned(t *testing.T) {
	t.Parallel()
	call := shell(t, "query", "echo 1", `{"query":"x","max":2}`)
	var b queryBody
	if err := json.Unmarshal(call.Step.Body, &b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Source.Exec[0], []byte("#!/bin/sh\necho 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if res, err := kinds(time.Now)["query"].Check(t.Context(), call); err == nil {
		t.Errorf("it is run: %+v", res)
	}
}

// A source that fails again and again is left alone, and asked again later. One
// that says "no data" is not at fault.
func TestBreaker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	call := shell(t, "query", "echo x >>"+dir+"/asked; exit $(cat "+dir+"/code)", `{"query":"x","max":2}`)
	k := kinds(time.Now)["query"]
	ask := func(code string, times int) int {
		if err := os.WriteFile(dir+"/code", []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		for range times {
			if res, err := k.Check(t.Context(), call); err != nil || res.Verdict != backstay.Undecided {
				t.Fatalf("%+v, %v", res, err)
			}
		}
		data, err := os.ReadFile(dir + "/asked")
		if err != nil {
			t.Fatal(err)
		}
		return len(data) / 2
	}
	if n := ask("2", 8); n != 8 {
		t.Errorf("a source without data was asked %d times, want 8", n)
	}
	if n := ask("1", 20); n != 8+breakerFailures {
		t.Errorf("a broken source was asked %d times more, want %d", n-8, breakerFailures)
	}
}

// grpcServer is a real server of gRPC with its health service.
func grpcServer(t *testing.T) (string, *health.Server) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, h := grpc.NewServer(), health.NewServer()
	healthv1.RegisterHealthServer(s, h)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String(), h
}

func TestProbes(t *testing.T) {
	t.Parallel()
	address, h := grpcServer(t)
	h.SetServingStatus("up", healthv1.HealthCheckResponse_SERVING)
	h.SetServingStatus("down", healthv1.HealthCheckResponse_NOT_SERVING)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(web.Close)
	for target, want := range map[string]backstay.Verdict{
		"grpc://" + address: backstay.Pass, "grpc://" + address + "/up": backstay.Pass, "grpc://" + address + "/down": backstay.Fail,
		"grpc://" + address + "/unknown": backstay.Fail, "grpc://{endpoint}": backstay.Fail,
		"tcp://" + address: backstay.Pass, "tcp://127.0.0.1:1": backstay.Fail, "tcp://{endpoint}": backstay.Pass,
		web.URL: backstay.Pass, web.URL + "/down": backstay.Fail,
	} {
		prepared, err := prepare(t, "probe", "gates.g", fmt.Sprintf(`{"probe":%q}`, target))
		if err != nil {
			t.Fatal(err)
		}
		call := backstay.Call{Step: backstay.Step{ID: "g", Prepared: prepared}, Slots: map[string]string{"endpoint": strings.TrimPrefix(web.URL, "http://")}}
		res, err := (&Probe{}).Check(t.Context(), call)
		if err != nil || res.Verdict != want {
			t.Errorf("%s: %v %q, %v; want %v", target, res.Verdict, res.Reason, err, want)
		}
		if call.Slots = nil; strings.Contains(target, "{endpoint}") {
			if res, _ := (&Probe{}).Check(t.Context(), call); res.Verdict != backstay.Undecided {
				t.Errorf("%s without an address: %v", target, res.Verdict)
			}
		}
	}
	prepared, err := prepare(t, "probe", "gates.g", `{"probe":"tcp://127.0.0.1:1"}`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	res, err := (&Probe{}).Check(ctx, backstay.Call{Step: backstay.Step{Prepared: prepared}})
	if err != nil || res.Verdict != backstay.Undecided {
		t.Errorf("called off: %v, %v", res, err)
	}
}

func TestInitialise(t *testing.T) {
	t.Parallel()
	address, h := grpcServer(t)
	h.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	now := time.Now()
	k := &Initialise{now: func() time.Time { return now }}
	prepared, err := prepare(t, "initialise", "gates.g", fmt.Sprintf(`{"initialise":{"probe":"grpc://%s","within":"60s"}}`, address))
	if err != nil {
		t.Fatal(err)
	}
	call := backstay.Call{Step: backstay.Step{ID: "g", Prepared: prepared}, Gate: &backstay.GateView{Since: now}}
	var got []string
	ask := func(after time.Duration) {
		now = now.Add(after)
		res, err := k.Check(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		call.Gate.State = res.State
		call.Gate.Since = now // the next gate; the time goes on
		got = append(got, res.Verdict.String())
	}
	ask(0)
	ask(59 * time.Second)
	ask(time.Second)
	h.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	ask(0)
	h.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	ask(0)
	if diff := cmp.Diff([]string{"undecided", "undecided", "fail", "pass", "fail"}, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// traffic makes one slice of both sides a second.
type traffic struct {
	rand             *rand.Rand
	at               time.Time
	canary, baseline float64 // bad rates
	share            int
}

func (x *traffic) batch(seconds, requests int) signal.Batch {
	var b signal.Batch
	for range seconds {
		sides := [2]signal.Signal{}
		for i := range sides {
			sides[i] = signal.Signal{
				Name: signal.Errors, Unit: "request", Stratum: "shop", Start: x.at, End: x.at.Add(time.Second), Canary: i == 1, Share: float64(x.share),
			}
		}
		for range requests {
			arm, rate := &sides[0], x.baseline
			if x.rand.IntN(100) < x.share {
				arm, rate = &sides[1], x.canary
			}
			if x.rand.Float64() < rate {
				arm.Bad++
			} else {
				arm.Good++
			}
		}
		b.Signals = append(b.Signals, sides[:]...)
		x.at = x.at.Add(time.Second)
	}
	b.Fresh, b.Cursor = x.at, backstay.Canonical(x.at.Unix())
	return b
}

func comparison(t *testing.T, config string) backstay.Call {
	t.Helper()
	prepared, err := prepare(t, "compare", "gates.g", config)
	if err != nil {
		t.Fatal(err)
	}
	return backstay.Call{Step: backstay.Step{ID: "g", Prepared: prepared}, Slots: map[string]string{"side": "green"}}
}

// answerTo gives a batch to the comparison as Check does, by way of its state.
func answerTo(t *testing.T, call *backstay.Call, b signal.Batch) backstay.CheckResult {
	t.Helper()
	s, err := resume(*call, b.Fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.take(b); err != nil {
		t.Fatal(err)
	}
	res := s.answer(*call, s.judge(*call, b.Fresh))
	view := *call.Gate
	view.State = res.State
	call.Gate = &view
	return res
}

func TestCompare(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	for name, tt := range map[string]struct {
		canary, baseline float64
		want             string
		within           int // seconds
	}{
		"no worse":        {0.01, 0.01, "pass", 600},
		"broken":          {1, 0.01, "convicted", 30},
		"five times":      {0.05, 0.01, "convicted", 300},
		"both break down": {0.5, 0.5, "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call := comparison(t, `{"compare":"error-rate","source":"here","margin":"1%"}`)
			call.Gate = &backstay.GateView{Weight: 20, Shares: []int{20, 100}, Since: start}
			x := &traffic{rand.New(rand.NewPCG(1, 2)), start.Add(-60 * time.Second), tt.baseline, tt.baseline, 0}
			answerTo(t, &call, x.batch(60, 100))
			x.share, x.canary = 20, tt.canary
			for range tt.within {
				res := answerTo(t, &call, x.batch(1, 100))
				switch {
				case backstay.Weigh([]backstay.Evidence{deref(res.Evidence)}, 0) >= 1:
					if tt.want != "convicted" {
						t.Fatalf("convicted: %s", res.Reason)
					}
					return
				case res.Verdict == backstay.Pass:
					if tt.want != "pass" {
						t.Fatalf("passed: %s", res.Reason)
					}
					return
				case res.Verdict == backstay.Fail:
					t.Fatal("a comparison fails by itself")
				}
			}
			if tt.want != "" {
				t.Errorf("undecided after %d s", tt.within)
			}
		})
	}
}

func deref(e *backstay.Evidence) backstay.Evidence {
	if e == nil {
		return backstay.Evidence{}
	}
	return *e
}

// The first release of a route has nobody to be compared with, and is not held up.
func TestCompareFirst(t *testing.T) {
	t.Parallel()
	call := comparison(t, `{"compare":"error-rate","source":"here","margin":"1%"}`)
	call.Gate = &backstay.GateView{Weight: 20, Since: time.Unix(1_800_000_000, 0)}
	call.Slots[backstay.SlotFirst] = "true"
	res, err := (&Compare{newOpener(time.Now)}).Check(t.Context(), call)
	if err != nil || res.Verdict != backstay.Pass || !strings.Contains(res.Reason, "first release") {
		t.Errorf("got %+v, %v", res, err)
	}
}

// However the slices come in, one by one or after a crash all at once, the
// answer is the same, to the bit.
func TestCompareGoesOn(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	play := func(batches []int) backstay.CheckResult {
		call := comparison(t, `{"compare":"error-rate","source":"here","margin":"1%"}`)
		call.Gate = &backstay.GateView{Weight: 20, Shares: []int{20, 100}, Since: start}
		x := &traffic{rand.New(rand.NewPCG(3, 4)), start, 0.02, 0.01, 20}
		var last backstay.CheckResult
		for _, n := range batches {
			last = answerTo(t, &call, x.batch(n, 37))
		}
		return last
	}
	ones := make([]int, 130)
	for i := range ones {
		ones[i] = 1
	}
	if diff := cmp.Diff(play(ones), play([]int{10, 50, 1, 69})); diff != "" {
		t.Errorf("the answers differ (-one by one +at once):\n%s", diff)
	}
}

func TestCompareSaysNothing(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	x := &traffic{rand.New(rand.NewPCG(5, 6)), start, 0.9, 0.01, 20}
	call := comparison(t, `{"compare":"error-rate","source":"here","warm-up":"1m"}`)
	call.Gate = &backstay.GateView{Weight: 20, Since: start}
	res := answerTo(t, &call, x.batch(59, 100))
	if res.Verdict != backstay.Undecided || !strings.Contains(res.Reason, "warming up") {
		t.Errorf("while it warms up: %+v", res.Reason)
	}
	half := x.batch(30, 100)
	half.Signals = half.Signals[:len(half.Signals)-1] // the last report of the new side is missing
	res = answerTo(t, &call, half)
	if res.Evidence == nil || res.Evidence.Canary == 0 || !strings.Contains(res.Reason, "left out") {
		t.Errorf("with a report missing: %s", res.Reason)
	}
	s, err := resume(call, x.at)
	if err != nil {
		t.Fatal(err)
	}
	if res := s.judge(call, x.at.Add(10*time.Minute)); res.Verdict != backstay.Undecided || res.Evidence != nil {
		t.Errorf("ten minutes later: %+v", res)
	}
}

// Latencies need to know the running side first.
func TestCompareLatency(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	call := comparison(t, `{"compare":"latency","source":"here"}`)
	call.Gate = &backstay.GateView{Weight: 20, Shares: []int{20, 100}, Since: start}
	r := rand.New(rand.NewPCG(7, 8))
	at := start.Add(-30 * time.Second)
	batch := func(canary, baseline int, slower float64) signal.Batch {
		var b signal.Batch
		for i, n := range []int{baseline, canary} {
			s := signal.Signal{Name: signal.Latency, Unit: "request", Stratum: "shop", Start: at, End: at.Add(time.Second), Canary: i == 1, Share: 20, Good: uint64(n)}
			for range n {
				took := 20_000 * (1 + r.ExpFloat64())
				if i == 1 {
					took *= slower
				}
				s.Durations = append(s.Durations, [2]uint64{uint64(took), 1})
			}
			b.Signals = append(b.Signals, s)
		}
		at = at.Add(time.Second)
		b.Fresh = at
		return b
	}
	for range 30 {
		answerTo(t, &call, batch(0, 20, 1))
	}
	res := answerTo(t, &call, batch(20, 80, 1))
	if res.Evidence != nil || !strings.Contains(res.Reason, "1000") {
		t.Errorf("with 600 requests of history: %s", res.Reason)
	}
	for range 20 {
		answerTo(t, &call, batch(20, 80, 1))
	}
	for i := range 300 {
		res = answerTo(t, &call, batch(20, 80, 1.6))
		if backstay.Weigh([]backstay.Evidence{deref(res.Evidence)}, 0) >= 1 {
			if res.Evidence.Low <= 1 {
				t.Errorf("convicted with an interval of %s", res.Evidence.Interval())
			}
			t.Logf("convicted after %d s", i)
			return
		}
	}
	t.Errorf("60 %% slower is not seen: %s", res.Reason)
}

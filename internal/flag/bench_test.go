package flag

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
)

// BenchmarkOFREP asks flag servers that scripts/bench-flags.sh started, each a
// process of its own with the same 100 flags: BACKSTAY_FLAG_SERVERS is NAME=URL,
// separated by spaces. 16 clients on kept connections.
func BenchmarkOFREP(b *testing.B) {
	servers := strings.Fields(os.Getenv("BACKSTAY_FLAG_SERVERS"))
	if len(servers) == 0 {
		b.Skip("run scripts/bench-flags.sh")
	}
	for _, path := range []string{"/flag-7", ""} {
		for _, server := range servers {
			name, url, _ := strings.Cut(server, "=")
			kind := "single"
			if path == "" {
				kind = "bulk"
			}
			b.Run(kind+"/"+name, func(b *testing.B) { ask(b, url+"/ofrep/v1/evaluate/flags"+path, "") })
		}
	}
}

func ask(b *testing.B, url, token string) {
	b.Helper()
	const clients = 16
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		wg.Go(func() {
			for n := c; n < b.N; n += clients {
				body := fmt.Sprintf(`{"context":{"targetingKey":"user-%[1]d","userId":"user-%[1]d"}}`, n)
				began := time.Now()
				req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body)) //nolint:noctx // a benchmark
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", token)
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Errorf("status %d, %v", resp.StatusCode, err)
					return
				}
				took[c] = append(took[c], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	report(b, slices.Concat(took...))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func report(b *testing.B, all []time.Duration) {
	b.Helper()
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "ms-p50")
	b.ReportMetric(at(0.99), "ms-p99")
}

// BenchmarkKillToSeen measures from the call of kill, on a ledger on disk, until
// the last of 50 clients with a change stream has the new value.
func BenchmarkKillToSeen(b *testing.B) {
	l, err := sqlite.Open(b.Context(), b.TempDir(), ledger.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	s := New(l, ann(), time.Now)
	set(b, s, "new-checkout", booleanFlag)
	url := start(b, Server{Open: opening(l), Dir: b.TempDir()})
	const clients = 50
	streams := make([]<-chan string, clients)
	for i := range streams {
		streams[i] = listen(b, url, "")
		next(b, streams[i])
	}
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := s.Kill(b.Context(), checkout, "measured"); err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, stream := range streams {
			wg.Go(func() {
				next(b, stream)
				if _, _, body := post(b, url+"/ofrep/v1/evaluate/flags", `{"context":{"targetingKey":"x"}}`); !strings.Contains(body, `"value":false`) {
					b.Errorf("told of the kill, and got %s", body)
				}
			})
		}
		wg.Wait()
		took = append(took, time.Since(began))
		b.StopTimer()
		if _, err := s.Restore(b.Context(), checkout, 0, "measured"); err != nil {
			b.Fatal(err)
		}
		for _, stream := range streams {
			next(b, stream)
		}
		b.StartTimer()
	}
	report(b, took)
}

// many is a file of flags with rules.
func many(flags, rules int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"flags":{`)
	for f := range flags {
		if f > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"flag-%d":{"key":"flag-%d","on":true,"salt":"s%d","variations":[true,false],"offVariation":1,
			"fallthrough":{"rollout":{"variations":[{"variation":0,"weight":10000},{"variation":1,"weight":90000}]}},"rules":[`, f, f, f)
		for r := range rules {
			if r > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"id":"r%d","variation":%d,"clauses":[{"attribute":"tenant","op":"in","values":["t-%d-%d","u-%d"]}]}`, r, r%2, f, r, r)
		}
		b.WriteString(`]}`)
	}
	b.WriteString(`}}`)
	return b.Bytes()
}

// TestManyFlags loads flags with 50 rules each, all of them or none.
func TestManyFlags(t *testing.T) {
	t.Parallel()
	l := memory(t)
	s := New(l, ann(), time.Now)
	out, _, err := s.Import(t.Context(), model.Source{Data: many(300, 50)}, "load", false)
	if err != nil || len(out) != 300 {
		t.Fatalf("got %d, %v", len(out), err)
	}
	url := start(t, Server{Open: opening(l), Dir: t.TempDir()})
	status, _, body := post(t, url+"/ofrep/v1/evaluate/flags", `{"context":{"targetingKey":"x","tenant":"u-48"}}`)
	if status != 200 || strings.Count(body, `"rule":"r48"`) != 300 {
		t.Errorf("status %d, %d flags by rule r48", status, strings.Count(body, `"rule":"r48"`))
	}
}

// BenchmarkLoad imports 10,000 flags with 50 rules each into a ledger on disk, and
// reads them into a server's set: seconds of each, and the set's memory.
func BenchmarkLoad(b *testing.B) {
	const flags, rules = 10_000, 50
	data := many(flags, rules)
	for b.Loop() {
		l, err := sqlite.Open(b.Context(), b.TempDir(), ledger.Options{})
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if _, _, err := New(l, ann(), time.Now).Import(b.Context(), model.Source{Data: data}, "load", false); err != nil {
			b.Fatal(err)
		}
		imported := time.Since(began)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		began = time.Now()
		all, err := l.Flags(b.Context(), -1)
		if err != nil {
			b.Fatal(err)
		}
		set, err := model.NewSet().With(all)
		if err != nil {
			b.Fatal(err)
		}
		read := time.Since(began)
		began = time.Now()
		if _, err := set.With([]backstay.Flag{all[0]}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms/change")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(imported.Seconds(), "s/import")
		b.ReportMetric(read.Seconds(), "s/read")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
		runtime.KeepAlive(set)
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

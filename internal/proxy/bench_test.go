package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// barePeer is what other Go proxies are at their core: a ReverseProxy with
// enough idle connections, and nothing else. Arguments: address, backend.
func barePeer() error {
	to, err := url.Parse(os.Args[2])
	if err != nil {
		return err
	}
	rp := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024},
	}
	return (&http.Server{Addr: os.Args[1], Handler: rp, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}

// idlePeer opens connections, makes one request on each, and holds them until
// its input ends. Arguments: address, how many.
func idlePeer() error {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	held := make([]net.Conn, 0, n)
	for range n {
		conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", os.Args[1])
		if err != nil {
			return fmt.Errorf("after %d connections: %w", len(held), err)
		}
		held = append(held, conn)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return fmt.Errorf("on connection %d: %w", len(held), err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	fmt.Println("held", len(held))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// BenchmarkSwitch measures what a switch costs users: the 99th percentile
// without and with ten moves a second, and the time from asking for a move to
// 100 until the first request is served by the new side. One iteration is one
// second of each.
func BenchmarkSwitch(b *testing.B) {
	blue, green := backend(b, "blue"), backend(b, "green")
	p, front := newProxy(b, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	load := func(ctx context.Context) (took []time.Duration) {
		var workers sync.WaitGroup
		var mu sync.Mutex
		var failed atomic.Int64
		for range 16 {
			workers.Go(func() {
				var mine []time.Duration
				c := client(b)
				for ctx.Err() == nil {
					start := time.Now()
					resp, err := c.Do(request(b, front, "shop.test", "/").WithContext(context.WithoutCancel(ctx)))
					if err != nil || resp.StatusCode != http.StatusOK {
						failed.Add(1)
						continue
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					mine = append(mine, time.Since(start))
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, mine...)
			})
		}
		workers.Wait()
		if failed.Load() > 0 {
			b.Errorf("%d requests failed", failed.Load())
		}
		return took
	}
	second := func() context.Context {
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		b.Cleanup(cancel)
		return ctx
	}
	var quiet, moving, first []time.Duration
	seq, moves := int64(0), 0
	for b.Loop() {
		quiet = append(quiet, load(second())...)
		ctx := second()
		var mover sync.WaitGroup
		mover.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				seq++
				if _, err := move(b, p, writer("a", 1, seq), int(seq%101)); err != nil {
					b.Error(err)
				}
				moves++
				<-tick.C
			}
		})
		moving = append(moving, load(ctx)...)
		mover.Wait()
		seq++
		if _, err := move(b, p, writer("a", 1, seq), 0); err != nil {
			b.Fatal(err)
		}
		c := client(b)
		get(b, c, request(b, front, "shop.test", "/"))
		start := time.Now()
		seq++
		if _, err := move(b, p, writer("a", 1, seq), 100); err != nil {
			b.Fatal(err)
		}
		if _, body, _ := get(b, c, request(b, front, "shop.test", "/")); body != "green" {
			b.Fatalf("served by %s after the switch", body)
		}
		first = append(first, time.Since(start))
	}
	at := func(list []time.Duration, q float64) float64 {
		slices.Sort(list)
		return float64(list[int(q*float64(len(list)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(quiet, 0.99), "quiet-p99-ms")
	b.ReportMetric(at(moving, 0.99), "moving-p99-ms")
	b.ReportMetric(at(first, 0.5), "first-request-ms")
	b.ReportMetric(float64(len(moving)+len(quiet)), "requests")
	b.ReportMetric(float64(moves), "moves")
}

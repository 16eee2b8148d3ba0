package proxy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Under load of every kind (kept and new connections, posts, slow streams,
// upgraded connections), 200 random moves, with instances leaving and coming
// back and sides taken away, fail no request; and at every status read between
// them I15 holds.
func TestMovesUnderLoad(t *testing.T) {
	t.Parallel()
	slow := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/stream" {
			return false
		}
		for range 20 {
			_, _ = io.WriteString(w, "part\n")
			_ = http.NewResponseController(w).Flush()
		}
		return true
	}
	echo := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		_ = http.NewResponseController(w).EnableFullDuplex() // it answers while it reads
		_, _ = io.Copy(w, r.Body)
		return true
	}
	blue, blue2, green := backend(t, "blue", slow, echo), backend(t, "blue", slow, echo), backend(t, "green", slow, echo)
	socket := upgrader(t)
	shop := twoSides(blue.URL, green.URL, 100)
	shop.Sides[1].Instances = append(shop.Sides[1].Instances, wire.Instance{URL: blue2.URL})
	ws := twoSides(socket.URL, socket.URL, 100)
	ws.Name, ws.Match.Hosts = "ws", []string{"ws.test"}
	p, front := newProxy(t, Options{Routes: []wire.Route{shop, ws}})

	ctx, stop := context.WithCancel(t.Context())
	var served, failed atomic.Int64
	var workers sync.WaitGroup
	fail := func(what string, err error) {
		if ctx.Err() == nil {
			failed.Add(1)
			t.Errorf("%s: %v", what, err)
		}
	}
	work := func(what string, once func(c *http.Client) error) {
		c := client(t)
		workers.Go(func() {
			for ctx.Err() == nil && failed.Load() < 10 {
				if err := once(c); err != nil {
					fail(what, err)
				}
				served.Add(1)
			}
		})
	}
	do := func(c *http.Client, method, path, body, want string, fresh bool) error {
		req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), method, front.URL+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Host, req.Close = "shop.test", fresh
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || want != "" && string(got) != want {
			return fmt.Errorf("status %d, %d bytes, %w", resp.StatusCode, len(got), err)
		}
		return nil
	}
	for range 4 {
		work("kept connection", func(c *http.Client) error { return do(c, "GET", "/", "", "", false) })
	}
	work("new connection", func(c *http.Client) error { return do(c, "GET", "/", "", "", true) })
	work("post", func(c *http.Client) error {
		return do(c, "POST", "/", strings.Repeat("x", 300_000), strings.Repeat("x", 300_000), false)
	})
	work("stream", func(c *http.Client) error { return do(c, "GET", "/stream", "", strings.Repeat("part\n", 20), false) })
	work("upgraded", func(*http.Client) error {
		conn, r, err := dialUpgraded(context.WithoutCancel(ctx), front.Listener.Addr().String(), "ws.test")
		if conn != nil {
			defer conn.Close()
		}
		if err != nil {
			return err
		}
		for range 20 {
			if _, err := io.WriteString(conn, "ping\n"); err != nil {
				return err
			}
			if got, err := r.ReadString('\n'); err != nil || got != "ping\n" {
				return fmt.Errorf("echo %q, %w", got, err)
			}
		}
		return nil
	})

	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		for _, name := range []string{"shop", "ws"} {
			if name == "ws" && i%8 > 0 {
				continue
			}
			now, err := p.Route(name)
			if err != nil {
				t.Fatal(err)
			}
			next, err := wire.FromState(name, now.Route.State())
			if err != nil {
				t.Fatal(err)
			}
			w := random.IntN(101)
			next.Sides[0].Weight, next.Sides[1].Weight = w, 100-w
			if name == "shop" { // an instance leaves and comes back
				next.Sides[1].Instances = shop.Sides[1].Instances[:1+i%2]
			}
			s, err := p.Change(t.Context(), name, wire.Change{Writer: writer("load", 1, int64(i)), Expect: now.Digest, Route: next})
			if err != nil {
				t.Fatalf("move %d: %v", i, err)
			}
			sum := s.Unplaced
			for _, side := range s.Sides {
				sum += side.Share
				if side.Share > side.ReadyCapacity {
					t.Errorf("side %s has share %d and is ready for %d", side.Name, side.Share, side.ReadyCapacity)
				}
			}
			if sum != 100 {
				t.Errorf("shares sum to %d", sum)
			}
		}
		// Each move sees some load: it waits for requests, not for a time.
		for goal := served.Load() + 5; served.Load() < goal && failed.Load() == 0; {
			if _, err := p.Route("shop"); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop()
	workers.Wait()
	if failed.Load() > 0 {
		t.Fatalf("%d of %d requests failed", failed.Load(), served.Load())
	}
	t.Logf("%d requests, none failed", served.Load())
}

// After a move to 0 is answered, no request reaches the side, however many are
// being sent at that moment; and when it says drained, none is under way.
func TestNothingAfterMoveToZero(t *testing.T) {
	t.Parallel()
	var off atomic.Bool
	late := make(chan string, 100)
	watch := func(_ http.ResponseWriter, r *http.Request) bool {
		if off.Load() && r.URL.Path != "/healthz" {
			select {
			case late <- r.URL.Path:
			default:
			}
		}
		return false
	}
	blue, green := backend(t, "blue", watch), backend(t, "green")
	p, front := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for range 8 {
		c := client(t)
		workers.Go(func() {
			for ctx.Err() == nil {
				req := request(t, front, "shop.test", "/").WithContext(context.WithoutCancel(ctx))
				if resp, err := c.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		})
	}
	for i := range 20 {
		if _, err := move(t, p, writer("a", 1, int64(2*i)), 100); err != nil {
			t.Fatal(err)
		}
		for n, _ := p.activeOn("shop", "blue"); n > 0; n, _ = p.activeOn("shop", "blue") {
			if t.Context().Err() != nil {
				t.Fatal("never drained")
			}
		}
		off.Store(true)
		for range 50 {
			if _, err := p.Route("shop"); err != nil {
				t.Fatal(err)
			}
		}
		off.Store(false)
		if _, err := move(t, p, writer("a", 1, int64(2*i+1)), 0); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	workers.Wait()
	if len(late) > 0 {
		t.Errorf("%d requests reached the drained side", len(late))
	}
}

// A request that chose its side by a table that was swapped before it took its
// place chooses again; so does one that waited for its place during the swap.
func TestChoosesAgain(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	blue := backend(t, "blue", func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/" {
			arrived <- struct{}{}
			<-release
		}
		return false
	})
	green := backend(t, "green")
	r := twoSides(blue.URL, green.URL, 100)
	r.Settings.Queue = wire.Queue{Active: 1}
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})

	was := p.table.Load()
	early := &exchange{proxy: p, table: was, route: was.routes["shop"], req: request(t, front, "shop.test", "/"), flowing: -1}
	early.choice.side = early.route.sides[1]

	answers := make(chan string, 2)
	send := func() {
		_, body, _ := get(t, client(t), request(t, front, "shop.test", "/"))
		answers <- body
	}
	go send()
	<-arrived
	go send()
	eventually(t, "one waits for its place at blue", func() bool {
		s, err := p.Route("shop")
		return err == nil && s.Sides[1].Waiting == 1
	})
	if _, err := move(t, p, writer("a", 1, 1), 100); err != nil {
		t.Fatal(err)
	}
	if _, ok := early.take(); ok || early.inst != nil {
		t.Error("a request took its place by a table that is no more")
	}
	close(release)
	got := map[string]int{<-answers: 1}
	got[<-answers]++
	if got["blue"] != 1 || got["green"] != 1 {
		t.Errorf("answers %v; want the one in flight by blue, and the waiting one by green", got)
	}
	eventually(t, "nothing is held at blue", func() bool { n, _ := p.activeOn("shop", "blue"); return n == 0 })
}

package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/parts"
)

// TestMain turns this binary into a child process that tests kill.
func TestMain(m *testing.M) {
	dsn := os.Getenv("BACKSTAY_TEST_LEDGER")
	if dsn == "" {
		os.Exit(m.Run())
	}
	s, err := postgres.Open(context.Background(), dsn, ledger.Options{})
	if err == nil {
		err = ledgertest.Write(context.Background(), s, os.Stdout)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

func TestKilledWriterLosesNothing(t *testing.T) {
	t.Parallel()
	dsn := parts.StartPostgres(t).Database(t)
	ledgertest.KillWriter(t, 4, []string{"BACKSTAY_TEST_LEDGER=" + dsn}, func() *ledger.Store { return mustOpen(t, dsn) })
}

func mustOpen(t *testing.T, dsn string) *ledger.Store {
	t.Helper()
	s, err := open(t)(postgres.Open(t.Context(), dsn, ledger.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServerGoesAwayUnderLoad(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	for _, trouble := range []func(){
		func() { pg.Restart(t) },
		func() { pg.Kill(t); pg.Start(t) },
	} {
		ledgertest.Disturb(t, mustOpen(t, pg.Database(t)), trouble)
	}
}

// TestLostAnswers cuts the connection around a commit: after the server did it
// and before the client hears of it, and before the server hears of it. The
// write must be there once either way, and its caller must learn it. A guess is
// cut, and then, as it did not hold, a transaction that asks.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	for _, c := range []struct {
		name      string
		delivered bool
	}{{"answer lost", true}, {"request lost", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dsn, err := url.Parse(pg.Database(t))
			if err != nil {
				t.Fatal(err)
			}
			p := newProxy(t, dsn.Host)
			dsn.Host = p.Addr().String()
			s := mustOpen(t, dsn.String())
			lease := ledgertest.Create(t, s, ledgertest.New(t, "shop"))
			const rounds = 5
			for i := range rounds {
				for range 2 { // until the head is known to be steady
					ledgertest.Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Outcome("b")}})
				}
				guessed := p.guessed.Load()
				p.cut(c.delivered)
				ack := ledgertest.Append(t, s, &lease, ledger.Update{Entries: []backstay.Entry{ledgertest.Intent("a")}})
				if p.armed.Load() != disarmed {
					t.Fatal("the connection was not cut")
				}
				if want := int64(4*i + 4); ack.Head.Size != want {
					t.Errorf("head: got %d, want %d", ack.Head.Size, want)
				}
				if p.guessed.Load() == guessed {
					t.Error("the write was not guessed")
				}
				// Nothing but its salt tells a free entry from another like it.
				p.cut(c.delivered)
				if _, err := s.Record(t.Context(), backstay.Entry{Kind: backstay.EntryNote}); err != nil {
					t.Errorf("record: %v", err)
				}
			}
			if n, err := ledgertest.CheckTree(t.Context(), s); err != nil || n != 1+4*rounds {
				t.Errorf("entries: got %d, %v; want %d", n, err, 1+4*rounds)
			}
		})
	}
}

const (
	disarmed int32 = iota
	cutBefore
	cutAfter
)

// proxy is a TCP proxy in front of PostgreSQL that cuts one connection at its
// next COMMIT, or at the next guess, which commits by itself.
type proxy struct {
	net.Listener
	to      string
	armed   atomic.Int32
	guess   atomic.Pointer[[]byte] // how a guess begins on the wire, once one was prepared
	guessed atomic.Int64
	wait    sync.WaitGroup
	done    chan struct{}
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to, done: make(chan struct{})}
	p.wait.Go(p.serve)
	t.Cleanup(func() {
		close(p.done)
		_ = l.Close()
		p.wait.Wait()
	})
	return p
}

// cut arms the proxy; delivered says whether the server gets the COMMIT.
func (p *proxy) cut(delivered bool) {
	if delivered {
		p.armed.Store(cutAfter)
		return
	}
	p.armed.Store(cutBefore)
}

func (p *proxy) serve() {
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		var mute atomic.Bool
		end := func() { _ = client.Close(); _ = server.Close() }
		p.wait.Go(func() { <-p.done; end() })
		p.wait.Go(func() { defer end(); p.requests(server, client, &mute) })
		p.wait.Go(func() { defer end(); answers(client, server, &mute) })
	}
}

func (p *proxy) requests(server, client net.Conn, mute *atomic.Bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if p.commits(buf[:n]) {
			switch p.armed.Swap(disarmed) {
			case cutBefore:
				return
			case cutAfter:
				mute.Store(true)
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// commits reports whether a request ends a transaction.
func (p *proxy) commits(request []byte) bool {
	if parse := guessParsed.FindSubmatch(request); parse != nil {
		bind := slices.Concat([]byte{0}, parse[1], []byte{0})
		p.guess.Store(&bind)
	}
	if bind := p.guess.Load(); bind != nil && bytes.Contains(request, *bind) {
		p.guessed.Add(1)
		return true
	}
	return bytes.Contains(bytes.ToLower(request), []byte("commit\x00"))
}

// guessParsed finds the name under which the first statement of a guess is prepared.
var guessParsed = regexp.MustCompile(`(stmtcache_[0-9a-f]+)\x00WITH q AS \(SELECT version FROM head`)

// answers passes on what the server says; once mute, its next word is lost and
// the connection with it.
func answers(client, server net.Conn, mute *atomic.Bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil || mute.Load() {
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

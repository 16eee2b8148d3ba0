// A shop that keeps its orders in PostgreSQL, and its customers.
//
// The shop answers /healthz, / with its version, and takes orders: POST
// /orders?id=7&item=tea. A build with -ldflags "-X main.gifts=yes" also writes
// the column gift, which comes with the second migration; one with "-X
// main.failing=3" fails that many of ten orders, without taking them.
// GET /orders says with status 500 that too many failed.
//
// With -customers it orders from a shop without a pause until it is told to stop
// (SIGTERM), writes the number of each order that the shop took to -taken, and
// counts. What a bad version refused itself (status 500 with its name) is that
// version's fault and counted apart; any other answer is a failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Set by the build.
var (
	version = "dev"
	gifts   = ""
	failing = "0"
)

func main() {
	listen := flag.String("listen", "", "serve on this address")
	customers := flag.String("customers", "", "order from the shop at this URL")
	taken := flag.String("taken", "taken.txt", "where the numbers of taken orders go")
	first := flag.Int64("first", 1, "the number of the first order")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := errors.New("say -listen or -customers")
	switch {
	case *listen != "":
		err = serve(ctx, *listen, os.Getenv("DATABASE_URL"))
	case *customers != "":
		err = order(ctx, *customers, *taken, *first)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// shop takes orders.
type shop struct {
	db            *pgxpool.Pool
	tenths        int64
	asked, failed atomic.Int64
}

func serve(ctx context.Context, listen, url string) error {
	tenths, err := strconv.ParseInt(failing, 10, 64)
	if err != nil {
		return err
	}
	db, err := pgxpool.New(ctx, url)
	if err != nil {
		return errors.New("DATABASE_URL is no URL of PostgreSQL") // it holds a password: not shown
	}
	defer db.Close()
	s := &shop{db: db, tenths: tenths}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "shop", version) })
	mux.HandleFunc("GET /orders", s.orders)
	mux.HandleFunc("POST /orders", s.take)
	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		ended <- server.Shutdown(quiet)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

func (s *shop) health(w http.ResponseWriter, r *http.Request) {
	if err := s.db.Ping(r.Context()); err != nil {
		http.Error(w, "no database", http.StatusServiceUnavailable)
	}
}

// orders says how they go.
func (s *shop) orders(w http.ResponseWriter, _ *http.Request) {
	const enough, most = 10, 10 // orders; percent
	asked, failed := s.asked.Load(), s.failed.Load()
	text := fmt.Sprintf("%d of %d orders failed", failed, asked)
	if asked >= enough && failed*100 > asked*most {
		http.Error(w, text, http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, text)
}

// take writes one order. Its number is the customer's: taken twice is taken once.
func (s *shop) take(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Shop-Version", version)
	if s.asked.Add(1)%10 < s.tenths {
		s.failed.Add(1)
		http.Error(w, "shop "+version+": no wrapping paper", http.StatusInternalServerError)
		return
	}
	statement, values := "INSERT INTO orders (id, item) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", []any{r.FormValue("id"), r.FormValue("item")}
	if gifts != "" {
		statement, values = "INSERT INTO orders (id, item, gift) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING", append(values, "paper")
	}
	if _, err := s.db.Exec(r.Context(), statement, values...); err != nil {
		s.failed.Add(1)
		http.Error(w, "the order was not taken: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "taken")
}

// tally is what customers count. Its mutex guards it.
type tally struct {
	sync.Mutex
	numbers io.Writer
	taken   map[string]int // by version
	refused map[string]int // by version: answers with status 500
	failed  map[string]int // by reason
}

func order(ctx context.Context, url, path string, first int64) error {
	numbers, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer numbers.Close()
	t := &tally{numbers: numbers, taken: map[string]int{}, refused: map[string]int{}, failed: map[string]int{}}
	next := atomic.Int64{}
	next.Store(first - 1)
	const customers = 4
	var group sync.WaitGroup
	for range customers {
		client := &http.Client{Timeout: 30 * time.Second}
		group.Go(func() {
			for ctx.Err() == nil {
				if err := t.order(client, url, next.Add(1)); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	group.Wait() // each finishes the order it has begun
	return t.tell()
}

// order orders once, and never stops half-way.
func (t *tally) order(client *http.Client, url string, number int64) error {
	resp, err := client.Post(fmt.Sprintf("%s/orders?id=%d&item=tea", url, number), "text/plain", nil)
	t.Lock()
	defer t.Unlock()
	if err != nil {
		t.failed[err.Error()]++
		return nil
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	by := resp.Header.Get("X-Shop-Version")
	switch {
	case err != nil:
		t.failed[err.Error()]++
	case resp.StatusCode == http.StatusOK:
		t.taken[by]++
		_, err := fmt.Fprintln(t.numbers, number)
		return err
	case resp.StatusCode == http.StatusInternalServerError && by != "":
		t.refused[by]++
	default:
		t.failed[fmt.Sprintf("status %d: %.60q", resp.StatusCode, text)]++
	}
	return nil
}

func (t *tally) tell() error {
	for _, by := range slices.Sorted(maps.Keys(t.taken)) {
		fmt.Printf("customers: %s took %d orders\n", by, t.taken[by])
	}
	for _, by := range slices.Sorted(maps.Keys(t.refused)) {
		fmt.Printf("customers: %s refused %d orders itself\n", by, t.refused[by])
	}
	for _, why := range slices.Sorted(maps.Keys(t.failed)) {
		fmt.Printf("customers: %d failed: %s\n", t.failed[why], why)
	}
	if len(t.failed) > 0 {
		return errors.New("orders failed because of how the release was made")
	}
	return nil
}

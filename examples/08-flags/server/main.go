// A shop with two checkouts: which one a user gets is a feature flag's say, asked
// by OFREP for every request. It answers /healthz, /checkout?user=U, and /errors
// with the error rate of the new checkout in the last two seconds (204: too few
// requests to say). With -load it is the shop's users instead.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Set by the build: version, and how many percent of the new checkout's answers fail.
var (
	version = "dev"
	failing = "0"
)

const (
	window = 2 * time.Second
	enough = 20 // requests, to speak of a rate
)

// recent are the answers of the new checkout in the window.
type recent struct {
	mu  sync.Mutex
	all []answer
}

type answer struct {
	at  time.Time
	bad bool
}

func (r *recent) add(bad bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, answer{time.Now(), bad})
}

func (r *recent) rate() (rate float64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := time.Now().Add(-window)
	for len(r.all) > 0 && r.all[0].at.Before(from) {
		r.all = r.all[1:]
	}
	bad := 0
	for _, a := range r.all {
		if a.bad {
			bad++
		}
	}
	return float64(bad) / float64(max(len(r.all), 1)), len(r.all)
}

// newCheckout asks the flag server. Without an answer it is the old one: the
// program's own default.
func newCheckout(ctx context.Context, flags, user string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	body, _ := json.Marshal(map[string]any{"context": map[string]string{"targetingKey": user}})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, flags+"/ofrep/v1/evaluate/flags/new-checkout", bytes.NewReader(body))
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	var got struct {
		Value bool `json:"value"`
	}
	return json.NewDecoder(response.Body).Decode(&got) == nil && got.Value
}

func serve(ctx context.Context, listen, flags string) error {
	percent, err := strconv.ParseInt(failing, 10, 64)
	if err != nil {
		return err
	}
	var asked atomic.Int64
	var seen recent
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /checkout", func(w http.ResponseWriter, r *http.Request) {
		if !newCheckout(r.Context(), flags, r.URL.Query().Get("user")) {
			fmt.Fprintln(w, "old checkout of", version)
			return
		}
		w.Header().Set("X-Checkout", "new")
		bad := (asked.Add(1)*37+23)%100 < percent // spread evenly; the first one is right
		seen.add(bad)
		if bad {
			http.Error(w, "new checkout of "+version+": the card was charged twice", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "new checkout of", version)
	})
	mux.HandleFunc("GET /errors", func(w http.ResponseWriter, _ *http.Request) {
		rate, n := seen.rate()
		if n < enough {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprintf(w, "%.4f\n", rate)
	})
	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(quiet)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// users ask all the time until the context ends, and are counted by checkout.
func users(ctx context.Context, shop string) error {
	var mu sync.Mutex
	var asked, old, fresh, oldBad, freshBad int
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := worker; ctx.Err() == nil; n += 8 {
				response, err := http.Get(fmt.Sprintf("%s/checkout?user=user-%d", shop, n%1000))
				mu.Lock()
				asked++
				switch {
				case err != nil:
					oldBad++
				case response.Header.Get("X-Checkout") == "new":
					fresh++
					if response.StatusCode != http.StatusOK {
						freshBad++
					}
				default:
					old++
					if response.StatusCode != http.StatusOK {
						oldBad++
					}
				}
				mu.Unlock()
				if err == nil {
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	fmt.Printf("%d requests: old checkout %d, of them failed %d; new checkout %d, of them failed %d\n", asked, old, oldBad, fresh, freshBad)
	if oldBad > 0 || asked < 500 {
		return fmt.Errorf("%d requests of the old checkout failed, %d were asked", oldBad, asked)
	}
	return nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flags := flag.String("flags", "", "URL of the flag server")
	load := flag.String("load", "", "URL of a shop: be its users")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	do := func() error { return serve(ctx, *listen, *flags) }
	if *load != "" {
		do = func() error { return users(ctx, *load) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A small web shop for the examples. It answers /healthz, / with its version,
// and /stream with ten lines in one second. Builds differ in -ldflags: version,
// how many percent of answers to / fail, and a path that always fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// Set by the build: -ldflags "-X main.version=v3 -X main.failing=20 -X main.broken=/cart".
var (
	version = "dev"
	failing = "0"
	broken  = ""
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	percent, err := strconv.ParseInt(failing, 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Shop-Version", version)
		if r.URL.Path == broken || percent > 0 && asked.Add(1)%100 < percent {
			http.Error(w, "shop "+version+": out of stock everywhere", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "shop", version)
	})
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(quiet)
	}()
	fmt.Println("shop", version, "listens on", *listen)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-ended
}

// stream is an answer that is still on its way when traffic moves.
func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Shop-Version", version)
	for i := range 10 {
		fmt.Fprintln(w, version, "line", i)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
	fmt.Fprintln(w, "end")
}

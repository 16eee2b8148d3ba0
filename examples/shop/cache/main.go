// A cache before the shop, as a CDN is: it keeps each good answer for an hour.
// POST /purge empties it.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

type answer struct {
	body    []byte
	version string
	until   time.Time
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8090", "address to listen on")
	shop := flag.String("shop", "http://127.0.0.1:8080", "what it stands before")
	flag.Parse()
	var mu sync.Mutex
	kept := map[string]answer{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /purge", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		clear(kept)
		fmt.Fprintln(w, "empty")
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		a, ok := kept[r.URL.Path]
		mu.Unlock()
		if !ok || time.Now().After(a.until) {
			resp, err := http.Get(*shop + r.URL.Path)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				http.Error(w, resp.Status, http.StatusBadGateway)
				return
			}
			a = answer{body, resp.Header.Get("X-Shop-Version"), time.Now().Add(time.Hour)}
			mu.Lock()
			kept[r.URL.Path] = a
			mu.Unlock()
		}
		w.Header().Set("X-Shop-Version", a.version)
		_, _ = w.Write(a.body)
	})
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if err := server.ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

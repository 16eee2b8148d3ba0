// Asks a shop without a pause until it is told to stop (SIGINT or SIGTERM) and
// then counts: every request, by the version that answered, and every one that
// failed. A request fails if it got no whole answer, or an answer that the shop
// did not give. What a bad version answers itself (status 500 with its name) is
// counted apart: that is the release's fault, and not of how traffic was moved.
//
// Exit code 1 if any failed, or if fewer than -least were asked.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tally is what is counted. Its mutex guards it.
type tally struct {
	sync.Mutex
	asked, failed int
	served        map[string]int // by version
	bad           map[string]int // by version: answers with status 500
	reasons       map[string]int // of failures
}

func main() {
	url := flag.String("url", "http://127.0.0.1:8080", "the shop, as its users come to it")
	clients := flag.Int("clients", 8, "how many ask at once; half of them keep their connections")
	streams := flag.Int("streams", 2, "how many read /stream all the time")
	pause := flag.Duration("pause", time.Millisecond, "between two requests of a client")
	least := flag.Int("least", 100, "fewer requests are no evidence")
	header := flag.String("header", "", "send this header too, as Name: value")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &tally{served: map[string]int{}, bad: map[string]int{}, reasons: map[string]int{}}
	var group sync.WaitGroup
	for i := range *clients + *streams {
		path, transport := "/", &http.Transport{DisableKeepAlives: i%2 == 1}
		if i >= *clients {
			path = "/stream"
		}
		client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
		group.Go(func() {
			for ctx.Err() == nil {
				t.ask(client, *url+path, *header)
				select {
				case <-time.After(*pause):
				case <-ctx.Done():
				}
			}
		})
	}
	group.Wait() // each finishes the request it has begun
	os.Exit(t.tell(*least))
}

// ask asks once, and never stops half-way.
func (t *tally) ask(client *http.Client, url, header string) {
	version, status, why := fetch(client, url, header)
	t.Lock()
	defer t.Unlock()
	t.asked++
	switch {
	case why != "":
		t.failed++
		t.reasons[why]++
	case status == http.StatusInternalServerError:
		t.bad[version]++
	default:
		t.served[version]++
	}
}

// fetch reads one whole answer and says why it is none.
func fetch(client *http.Client, url, header string) (version string, status int, why string) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err.Error()
	}
	if name, value, ok := strings.Cut(header, ":"); ok {
		req.Header.Set(name, strings.TrimSpace(value))
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	version, status = resp.Header.Get("X-Shop-Version"), resp.StatusCode
	switch {
	case err != nil:
		return version, status, err.Error()
	case version == "":
		return version, status, fmt.Sprintf("status %d, not from the shop: %.60q", status, body)
	case strings.HasSuffix(url, "/stream") && !strings.HasSuffix(string(body), "end\n"):
		return version, status, "a stream that was cut"
	}
	return version, status, ""
}

// tell prints the counts and returns the exit code.
func (t *tally) tell(least int) int {
	t.Lock()
	defer t.Unlock()
	fmt.Printf("client: %d requests, %d failed\n", t.asked, t.failed)
	for _, version := range slices.Sorted(maps.Keys(t.served)) {
		fmt.Printf("  %s answered %d\n", version, t.served[version])
	}
	for _, version := range slices.Sorted(maps.Keys(t.bad)) {
		fmt.Printf("  %s itself answered %d with status 500\n", version, t.bad[version])
	}
	for _, why := range slices.Sorted(maps.Keys(t.reasons)) {
		fmt.Printf("  failed %d: %s\n", t.reasons[why], why)
	}
	if t.failed > 0 || t.asked < least {
		return 1
	}
	return 0
}

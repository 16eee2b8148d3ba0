package release_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// users ask the shop all the time: over kept and new connections, with and without
// the cookie that keeps them on a side, and by streams.
// Every request that got no whole answer of the shop is a failure.
type users struct {
	mu       sync.Mutex
	asked    int
	served   map[string]int // by version
	failures []string
}

const (
	asking    = 6 // of them every second one with new connections
	streaming = 2
)

// begin lets users ask until end is called, which returns what they saw.
func begin(t *testing.T, url string) (u *users, end func()) {
	t.Helper()
	u = &users{served: map[string]int{}}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var group sync.WaitGroup
	for i := range asking + streaming {
		path := "/"
		if i >= asking {
			path = "/stream"
		}
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 1}}
		if i%3 == 0 { // who keeps the cookie is sent to its side, and anew when that is gone
			client.Jar, _ = cookiejar.New(nil)
		}
		group.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				u.ask(client, url+path)
				<-tick.C
			}
			client.CloseIdleConnections()
		})
	}
	var once sync.Once
	end = func() { once.Do(func() { stop(); group.Wait() }) }
	t.Cleanup(end)
	return u, end
}

// ask asks once, and never stops half-way.
func (u *users) ask(client *http.Client, url string) {
	version, why := fetch(client, url)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	if why != "" {
		u.failures = append(u.failures, why)
		return
	}
	u.served[version]++
}

func fetch(client *http.Client, url string) (version, why string) {
	resp, err := client.Get(url) //nolint:noctx // the client has a timeout
	if err != nil {
		return "", err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	text := string(body)
	switch {
	case err != nil:
		return "", err.Error()
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Sprintf("status %d: %.80q", resp.StatusCode, text)
	case strings.HasSuffix(url, "/stream"):
		rest, whole := strings.CutSuffix(text, "end")
		version, _, _ = strings.Cut(rest, " ")
		if !whole {
			return "", fmt.Sprintf("a stream that was cut: %.80q", text)
		}
		return version, ""
	}
	return text, ""
}

// seen are the versions that answered since the last call.
func (u *users) seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	versions := slices.Sorted(maps.Keys(u.served))
	u.served = map[string]int{}
	return versions
}

func (u *users) count() (asked int, failures []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked, slices.Clone(u.failures)
}

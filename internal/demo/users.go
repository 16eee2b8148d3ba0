package demo

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// Users ask a shop all the time, at a steady rate, until Leave.
type Users struct {
	url    string
	stop   context.CancelFunc
	asking sync.WaitGroup

	mu    sync.Mutex
	count Count
}

// Count is what users saw.
type Count struct {
	Asked int
	// Good and Bad are whole answers by the version that gave them; a bad one has
	// status 500.
	Good, Bad map[string]int
	// Failed are requests without a whole answer of any version, by why.
	Failed map[string]int
}

// crowd is how many users there are.
const crowd = 16

// Come lets users ask a URL, rate times a second together.
func Come(ctx context.Context, url string, rate int) *Users {
	ctx, stop := context.WithCancel(ctx)
	u := &Users{url: url, stop: stop, count: Count{Good: map[string]int{}, Bad: map[string]int{}, Failed: map[string]int{}}}
	pause := crowd * time.Second / time.Duration(max(rate, 1))
	for i := range crowd {
		// Half of them keep their connection, as browsers do.
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: i%2 == 1}}
		u.asking.Go(func() {
			wait(ctx, pause*time.Duration(i)/crowd)
			turn := time.NewTicker(pause)
			defer turn.Stop()
			for ctx.Err() == nil {
				u.ask(client)
				select {
				case <-turn.C:
				case <-ctx.Done():
				}
			}
			client.CloseIdleConnections()
		})
	}
	return u
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// ask asks once, and never stops half-way.
func (u *Users) ask(client *http.Client) {
	version, status, err := fetch(client, u.url)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count.Asked++
	switch {
	case err != nil:
		u.count.Failed[err.Error()]++
	case status == http.StatusOK:
		u.count.Good[version]++
	default:
		u.count.Bad[version]++
	}
}

func fetch(client *http.Client, url string) (version string, status int, err error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", 0, fmt.Errorf("an answer that was cut: %w", err)
	}
	if version = resp.Header.Get(VersionHeader); version == "" {
		return "", 0, fmt.Errorf("status %d, not from the shop", resp.StatusCode)
	}
	return version, resp.StatusCode, nil
}

// Seen is what they saw so far.
func (u *Users) Seen() Count {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.count
	c.Good, c.Bad, c.Failed = maps.Clone(c.Good), maps.Clone(c.Bad), maps.Clone(c.Failed)
	return c
}

// Leave stops them. Each finishes what it began.
func (u *Users) Leave() {
	u.stop()
	u.asking.Wait()
}

// FailedRequests is how many requests got no whole answer.
func (c Count) FailedRequests() int {
	n := 0
	for _, of := range c.Failed {
		n += of
	}
	return n
}

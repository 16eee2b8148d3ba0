package demo_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/demo"
)

// see lets users ask until they asked so often.
func see(t *testing.T, h http.Handler, often int) demo.Count {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	users := demo.Come(t.Context(), server.URL, 2000)
	defer users.Leave()
	for deadline := time.Now().Add(time.Minute); users.Seen().Asked < often; {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute they asked %d times", users.Seen().Asked)
		}
		<-time.After(5 * time.Millisecond)
	}
	users.Leave()
	return users.Seen()
}

// TestUsersCount: good and bad answers are told apart by version, and from
// requests that got none.
func TestUsersCount(t *testing.T) {
	t.Parallel()
	if c := see(t, demo.Shop{Version: "v1"}, 200); c.Good["v1"] != c.Asked || c.FailedRequests() != 0 {
		t.Errorf("a good shop: %+v", c)
	}
	c := see(t, demo.Shop{Version: "v2", Failing: 50}, 400)
	if bad := float64(c.Bad["v2"]) / float64(c.Asked); bad < 0.3 || bad > 0.7 || c.Good["v2"]+c.Bad["v2"] != c.Asked {
		t.Errorf("a shop that fails half of its answers: %+v", c)
	}
	n := 0
	cut := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n%2 == 0 { // of one connection at a time, or nearly so
			panic(http.ErrAbortHandler)
		}
		http.NotFound(w, r)
	})
	if c := see(t, serial(cut), 100); c.FailedRequests() != c.Asked {
		t.Errorf("cut answers and answers of others: %+v", c)
	}
}

// serial serves one request at a time.
func serial(h http.Handler) http.Handler {
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn <- struct{}{}
		defer func() { <-turn }()
		h.ServeHTTP(w, r)
	})
}

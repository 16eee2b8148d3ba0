package proxy

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"testing"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// visitor is a client with cookies for shop.test.
func visitor(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t)
	c.Jar = jar
	return c
}

func TestAffinity(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	r := twoSides(blue.URL, green.URL, 50)
	r.Settings.Affinity = &wire.Affinity{}
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	ask := func(c *http.Client) string {
		t.Helper()
		status, body, _ := get(t, c, request(t, front, "shop.test", "/"))
		if status != http.StatusOK {
			t.Fatalf("status %d %q", status, body)
		}
		return body
	}
	visitors, on := make([]*http.Client, 40), map[string]int{}
	first := make([]string, len(visitors))
	for i := range visitors {
		visitors[i] = visitor(t)
		first[i] = ask(visitors[i])
		on[first[i]]++
	}
	if on["blue"] == 0 || on["green"] == 0 {
		t.Fatalf("40 visitors at 50:50 are on %v", on)
	}
	// Weights move; everybody stays while their side has any.
	for i, green := range []int{10, 90, 1, 99} {
		if _, err := move(t, p, writer("a", 1, int64(i)), green); err != nil {
			t.Fatal(err)
		}
		for v, c := range visitors {
			if got := ask(c); got != first[v] {
				t.Fatalf("at %d %% green, visitor %d went from %s to %s", green, v, first[v], got)
			}
		}
	}
	// A move to 0 is respected at once, and they stay where they came to.
	s, err := move(t, p, writer("a", 1, 10), 0)
	if err != nil {
		t.Fatal(err)
	}
	for v, c := range visitors {
		if got := ask(c); got != "blue" {
			t.Fatalf("green has weight 0, visitor %d is on %s", v, got)
		}
	}
	// A side that is gone, and cookies that name it: mapped anew, no error.
	renamed := s.Route
	renamed.Sides = []wire.Side{{Name: "red", Weight: 100, Instances: []wire.Instance{{URL: green.URL}}}}
	if _, err := p.Change(t.Context(), "shop", wire.Change{Writer: writer("a", 1, 11), Expect: s.Digest, Route: &renamed}); err != nil {
		t.Fatal(err)
	}
	for v, c := range visitors {
		if got := ask(c); got != "green" {
			t.Fatalf("visitor %d of a side that is gone got %q", v, got)
		}
	}
	// A forged cookie is no error either.
	c := visitor(t)
	at, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	c.Jar.SetCookies(at, []*http.Cookie{{Name: "backstay_side", Value: "1.forged"}})
	if got := ask(c); got != "green" {
		t.Errorf("a forged cookie got %q", got)
	}
}

// Users fall on sides by the flag's bucket, and a growing side keeps its users.
func TestBucketRoute(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	r := twoSides(blue.URL, green.URL, 100)
	r.Settings.Bucket = &wire.Bucket{Key: "new-checkout", Salt: "s1", Header: "X-User"}
	p, front := newProxy(t, Options{Routes: []wire.Route{r}})
	c := client(t)
	for i, weight := range []int{10, 50, 25} {
		if _, err := move(t, p, writer("a", 1, int64(i)), weight); err != nil {
			t.Fatal(err)
		}
		for u := range 60 {
			req := request(t, front, "shop.test", "/")
			user := fmt.Sprintf("user-%d", u)
			req.Header.Set("X-User", user)
			want := "blue"
			if Bucket("new-checkout", "s1", user) < float64(weight)/100 {
				want = "green"
			}
			if _, got, _ := get(t, c, req); got != want {
				t.Fatalf("at %d %%, %s is on %s, want %s", weight, user, got, want)
			}
		}
	}
}

func TestOverride(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, value string
		override    *wire.Override
		status      int
		body        string
	}{
		{"to the idle side", "green", &wire.Override{Header: "X-Side"}, 200, "green"},
		{"from a network that may", "green", &wire.Override{Header: "X-Side", From: []string{"127.0.0.0/8"}}, 200, "green"},
		{"from one that may not", "green", &wire.Override{Header: "X-Side", From: []string{"10.0.0.0/8"}}, 200, "blue"},
		{"not configured", "green", nil, 200, "blue"},
		{"no such side", "red", &wire.Override{Header: "X-Side"}, 400, "there is no side of this name\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan string, 10)
			blue, green := backend(t, "blue"), backend(t, "green", func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/" {
					seen <- r.Header.Get("X-Side")
				}
				return false
			})
			r := twoSides(blue.URL, green.URL, 100)
			r.Settings.Override = tt.override
			_, front := newProxy(t, Options{Routes: []wire.Route{r}})
			req := request(t, front, "shop.test", "/")
			req.Header.Set("X-Side", tt.value)
			if status, body, _ := get(t, client(t), req); status != tt.status || body != tt.body {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.body)
			}
			if tt.body == "green" && <-seen != "" {
				t.Error("the side sees the header")
			}
		})
	}
}

package proxy

import (
	"net/http"
	"testing"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

func TestServesAndMoves(t *testing.T) {
	t.Parallel()
	blue, green := backend(t, "blue"), backend(t, "green")
	p, front := newProxy(t, Options{Routes: []wire.Route{twoSides(blue.URL, green.URL, 100)}})
	c := client(t)
	for range 20 {
		if status, body, _ := get(t, c, request(t, front, "shop.test", "/")); status != http.StatusOK || body != "blue" {
			t.Fatalf("got %d %q, want 200 blue", status, body)
		}
	}
	s, err := move(t, p, writer("a", 1, 1), 100)
	if err != nil {
		t.Fatalf("move: %v", err)
	}
	if s.Sides[0].Share != 100 {
		t.Errorf("green has share %d, want 100", s.Sides[0].Share)
	}
	for range 20 {
		if _, body, _ := get(t, c, request(t, front, "shop.test", "/")); body != "green" {
			t.Fatalf("got %q after the move, want green", body)
		}
	}
}

func TestUnknown(t *testing.T) {
	t.Parallel()
	blue := backend(t, "blue")
	r := twoSides(blue.URL, blue.URL, 100)
	r.Match.Path = "/shop"
	_, front := newProxy(t, Options{Routes: []wire.Route{r}})
	for _, tt := range []struct {
		name, host, path string
		want             int
	}{
		{"the route", "shop.test", "/shop", 200},
		{"below it", "shop.test:443", "/shop/cart", 200},
		{"another case and a final dot", "SHOP.test.", "/shop/", 200},
		{"not a whole segment", "shop.test", "/shopping", 404},
		{"another path", "shop.test", "/", 404},
		{"dots that lead out", "shop.test", "/shop/../admin", 404},
		{"dots that lead in", "shop.test", "/x/..%2fshop", 200},
		{"another host", "other.test", "/shop", 421},
		{"no host", "", "/shop", 421},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if status, body, _ := get(t, client(t), request(t, front, tt.host, tt.path)); status != tt.want {
				t.Errorf("got %d %q, want %d", status, body, tt.want)
			}
		})
	}
}

package proxy

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestCookie(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	p := passes{bytes.Repeat([]byte{7}, 32)}
	want := pass{side: "green", user: 42, until: now.Add(time.Hour)}
	value := p.write("shop", want)
	if got, ok := p.read("shop", value, now); !ok || got.side != want.side || got.user != want.user || !got.until.Equal(want.until) {
		t.Fatalf("read back %+v, %v; want %+v", got, ok, want)
	}
	flip := []byte(value)
	flip[len(flip)/2] ^= 1
	for name, bad := range map[string]struct {
		route, value string
		at           time.Time
		passes       passes
	}{
		"another route": {"other", value, now, p},
		"over":          {"shop", value, now.Add(time.Hour), p},
		"another key":   {"shop", value, now, passes{bytes.Repeat([]byte{8}, 32)}},
		"one bit":       {"shop", string(flip), now, p},
		"cut":           {"shop", value[:len(value)-4], now, p},
		"empty":         {"shop", "", now, p},
		"no version":    {"shop", strings.TrimPrefix(value, "1."), now, p},
		"huge":          {"shop", "1." + strings.Repeat("A", 1<<20), now, p},
	} {
		if got, ok := bad.passes.read(bad.route, bad.value, bad.at); ok {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func FuzzCookie(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	p := passes{bytes.Repeat([]byte{7}, 32)}
	good := p.write("shop", pass{side: "green", user: 42, until: now.Add(time.Hour)})
	f.Add(good)
	f.Add("1.")
	f.Add("2." + good[2:])
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := p.read("shop", value, now)
		if ok && value != p.write("shop", got) {
			t.Fatalf("%q is accepted as %+v and was not written here", value, got)
		}
	})
}

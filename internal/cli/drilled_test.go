package cli

import (
	"encoding/json"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// TestSameButTimes: two plans of one specification and world, made in different
// seconds, are one plan; anything else makes them two.
func TestSameButTimes(t *testing.T) {
	t.Parallel()
	made := func(mtime, content, before string) *plan.Plan {
		key := backstay.Key("file:/etc/shop.conf")
		entry := backstay.Canonical(map[string]string{"mtime": mtime, "sha256": content})
		return &plan.Plan{Format: plan.Format, Release: "shop", Steps: []backstay.Step{{
			ID: "conf", Before: map[backstay.Key]string{key: before},
			Prepared: backstay.Prepared{
				Kind: "file", Body: entry, Keys: []backstay.Key{key},
				Want: backstay.Image{key: {Parts: map[string]json.RawMessage{"": entry}}},
			},
		}}}
	}
	a := made("2026-11-25T10:00:00Z", "aa", "was")
	for _, tt := range []struct {
		name string
		b    *plan.Plan
		want bool
	}{
		{"itself", made("2026-11-25T10:00:00Z", "aa", "was"), true},
		{"a second later", made("2026-11-25T10:00:01Z", "aa", "was"), true},
		{"another content", made("2026-11-25T10:00:01Z", "bb", "was"), false},
		{"another world", made("2026-11-25T10:00:01Z", "aa", "is"), false},
		{"no time", made("", "aa", "was"), false},
		{"another release", func() *plan.Plan {
			p := made("2026-11-25T10:00:00Z", "aa", "was")
			p.Release = "shop-2"
			return p
		}(), false},
		{"one step more", func() *plan.Plan {
			p := made("2026-11-25T10:00:00Z", "aa", "was")
			p.Steps = append(p.Steps, backstay.Step{ID: "more"})
			return p
		}(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, pair := range [][2]*plan.Plan{{a, tt.b}, {tt.b, a}} {
				if got, err := sameButTimes(pair[0], pair[1]); err != nil || got != tt.want {
					t.Errorf("got %v, %v, want %v", got, err, tt.want)
				}
			}
		})
	}
}

package flag

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/parts"
)

var unleashReal = flag.Bool("flag.unleash", false, "start a real Unleash server and run the suite of flag stores on it")

// TestUnleash runs the suite on a real server: half a minute to install and start it.
func TestUnleash(t *testing.T) {
	t.Parallel()
	if !*unleashReal {
		t.Skip("it starts a real Unleash: run with -flag.unleash")
	}
	u := parts.StartUnleash(t, parts.StartPostgres(t))
	var beds atomic.Int64
	// One server answers all of them: the group ends before it does.
	t.Run("suite", func(t *testing.T) {
		drivertest.RunFlagStore(t, drivertest.FlagStoreSuite{Points: 3, New: func(t *testing.T) *drivertest.FlagBed {
			t.Helper()
			return unleashBed(t, u, beds.Add(1))
		}})
	})
}

func unleashBed(tb testing.TB, u *parts.Unleash, n int64) *drivertest.FlagBed {
	tb.Helper()
	const features = "/api/admin/projects/default/features"
	key, neighbour := fmt.Sprintf("new-checkout-%d", n), fmt.Sprintf("neighbour-%d", n)
	for _, name := range []string{key, neighbour} {
		u.Ask(tb, http.MethodPost, features, `{"name": "`+name+`", "type": "release"}`)
	}
	environment := func(name string) string { return features + "/" + name + "/environments/development" }
	gradual := func(share int) string {
		return fmt.Sprintf(`{"name": "flexibleRollout", "constraints": [], "parameters": {"rollout": "%d", "stickiness": "default", "groupId": %q}}`, share, key)
	}
	u.Ask(tb, http.MethodPost, environment(neighbour)+"/strategies", gradual(33))
	u.Ask(tb, http.MethodPost, environment(key)+"/strategies", gradual(100))
	return &drivertest.FlagBed{
		Kind: New(time.Now), Key: key,
		Store:    map[string]any{"unleash": u.URL, "token": "secret:env/UNLEASH", "environment": "development"},
		Secrets:  secrets{"secret:env/UNLEASH": u.Admin},
		Canaries: []string{u.Admin},
		Look: func(tb testing.TB) (map[string]string, string) {
			tb.Helper()
			world := map[string]string{}
			var now struct {
				Enabled    bool
				Strategies []struct {
					Name        string
					Parameters  map[string]string
					Constraints []any
					Disabled    bool
				}
			}
			for name, key := range map[string]string{"flag": key, "neighbour": neighbour} {
				text := u.Ask(tb, http.MethodGet, environment(key), "")
				now.Strategies = nil
				if err := json.Unmarshal([]byte(text), &now); err != nil {
					tb.Fatal(err)
				}
				world[name] = string(backstay.Canonical(now))
			}
			if err := json.Unmarshal([]byte(world["flag"]), &now); err != nil {
				tb.Fatal(err)
			}
			if !now.Enabled {
				return world, "off"
			}
			return world, now.Strategies[0].Parameters["rollout"]
		},
		Overwrite: func(tb testing.TB) {
			tb.Helper()
			var now struct{ Strategies []struct{ ID string } }
			if err := json.Unmarshal([]byte(u.Ask(tb, http.MethodGet, environment(key), "")), &now); err != nil {
				tb.Fatal(err)
			}
			u.Ask(tb, http.MethodPut, environment(key)+"/strategies/"+now.Strategies[0].ID, `{"name": "flexibleRollout", "title": "theirs", "constraints": [], "parameters": {"rollout": "100", "stickiness": "default", "groupId": "theirs"}}`)
			u.Ask(tb, http.MethodPost, environment(key)+"/on", "")
		},
	}
}

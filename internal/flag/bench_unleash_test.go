package flag

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/parts"
)

// BenchmarkFrontend asks for all 100 flags of a user: Backstay's server, which
// scripts/bench-flags.sh started, over OFREP, and a real Unleash server over its
// frontend API, which answers with those that are on.
func BenchmarkFrontend(b *testing.B) {
	servers := strings.Fields(os.Getenv("BACKSTAY_FLAG_SERVERS"))
	if len(servers) == 0 {
		b.Skip("run scripts/bench-flags.sh")
	}
	u := parts.StartUnleash(b, parts.StartPostgres(b))
	const features = "/api/admin/projects/default/features"
	for i := range 100 {
		key := fmt.Sprintf("flag-%d", i)
		in := features + "/" + key + "/environments/development"
		u.Ask(b, http.MethodPost, features, `{"name": "`+key+`", "type": "release"}`)
		u.Ask(b, http.MethodPost, in+"/strategies", `{"name": "flexibleRollout", "constraints": [], "parameters": {"rollout": "10", "stickiness": "default", "groupId": "`+key+`"}}`)
		u.Ask(b, http.MethodPost, in+"/on", "")
	}
	await(b, u)
	_, ours, _ := strings.Cut(servers[0], "=")
	b.Run("backstay", func(b *testing.B) { ask(b, ours+"/ofrep/v1/evaluate/flags", "") })
	b.Run("unleash", func(b *testing.B) { ask(b, u.URL+"/api/frontend", u.Frontend) })
}

// await waits until the frontend API has all flags: of 50 users each flag is on for
// some.
func await(b *testing.B, u *parts.Unleash) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		on := map[string]bool{}
		for user := range 50 {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, fmt.Sprintf("%s/api/frontend?userId=%d", u.URL, user), nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", u.Frontend)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				b.Fatalf("%s, %v: %s", resp.Status, err, text)
			}
			for i := range 100 {
				if key := fmt.Sprintf(`"flag-%d"`, i); strings.Contains(string(text), key) {
					on[key] = true
				}
			}
		}
		if len(on) > 90 { // 0.9^50: a flag is on for none of them one time in 200
			return
		}
	}
	b.Fatal("the frontend API does not have the flags")
}

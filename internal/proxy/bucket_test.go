package proxy

import (
	"fmt"
	"math"
	"testing"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

// The values are LaunchDarkly's own test vectors: their SDKs' contract tests
// hold them for the key "hashKey" with the salt "saltyA".
func TestBucketIsLaunchDarklys(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]float64{
		"userKeyA": 0.42157587, "userKeyB": 0.6708485, "userKeyC": 0.10343106,
	} {
		if got := Bucket("hashKey", "saltyA", user); math.Abs(got-want) > 1e-7 {
			t.Errorf("bucket of %s: %v, want %v", user, got, want)
		}
	}
}

// TestFlagAndRouteAgree: a flag's rollout and a route's split with one key and
// salt give one side to the same users, at every share.
func TestFlagAndRouteAgree(t *testing.T) {
	t.Parallel()
	d, _, err := model.Parse(model.FlagKind, "", model.Source{Data: []byte(
		`{"key": "checkout", "salt": "5d1f", "on": false, "variations": [true, false], "fallthrough": {"variation": 0}, "offVariation": 1}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, percent := range []int{1, 10, 33, 50, 99} {
		share := percent * 1000
		moved, err := model.Move{Share: &share}.Apply(d, model.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		set, err := model.NewSet().With([]backstay.Flag{{Key: d.StoreKey(), Version: 1, State: model.State(moved, model.Meta{})}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20_000 {
			user := fmt.Sprintf("user-%d", i)
			routed := Bucket("checkout", "5d1f", user)*100 < float64(percent)
			if flagged := set.Evaluate("checkout", ldcontext.New(user)).Value.BoolValue(); flagged != routed {
				t.Fatalf("at %d%% %s has the flag: %v, is on the side: %v", percent, user, flagged, routed)
			}
		}
	}
}

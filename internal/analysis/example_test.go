package analysis_test

import (
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/analysis"
)

// The first step of a rollout through 1, 5, 25, 50 and 100 % with an impact
// budget of 0.05 percentage points: 1000 requests a second, ten of them the new
// version's; the running version fails one.
func Example() {
	play(20*time.Second, 0)
	play(10*time.Minute, 0)
	play(10*time.Minute, 10)
	// Output:
	// undecided after 20s: neither is shown yet: evidence 0.7191 : 1 that the new version is worse (needs 1000 : 1), 6.731 : 1 that it is not worse by 1 percentage points in errors (needs 20 : 1); odds of a bad request in errors are at most 22.9 times the running version's; after 200 canary and 19800 baseline requests
	// a pass takes about 172 more canary requests, 17s at this traffic
	// pass after 32s: the new version is not worse by 1 percentage points in errors: evidence 21.87 : 1, threshold 20 : 1, after 320 canary and 31680 baseline requests
	// fail after 21s: the new version is worse than the running one: evidence 1003 : 1 at 21s, threshold 1000 : 1, after 210 canary and 20790 baseline requests
}

// play ends at the first verdict or at the latest after atMost; of the canary's
// ten requests each second so many fail.
func play(atMost time.Duration, bad uint64) {
	c := analysis.Default()
	c.Rates = []analysis.Rate{{
		Name: "errors", Weight: 1,
		Margins: analysis.ImpactMargins(0.0005, []float64{0.05, 0.25, 0.5, 1}),
		History: analysis.Counts{Requests: 10_000, Bad: 10},
	}}
	test, err := analysis.New(c)
	if err != nil {
		panic(err)
	}
	for now := time.Second; now <= atMost && test.Decide(0) == backstay.Undecided; now += time.Second {
		if err := test.Add(now, analysis.Block{
			Metric: "errors", Stratum: "proxy-1", Start: now - time.Second, End: now, Share: 0.01,
			Canary:   analysis.Counts{Requests: 10, Bad: bad},
			Baseline: analysis.Counts{Requests: 990, Bad: 1},
		}); err != nil {
			panic(err)
		}
	}
	r := test.Verdict(0)
	fmt.Printf("%v after %v: %s\n", r.Verdict, r.Fresh, r.Reason)
	if r.More > 0 {
		fmt.Printf("a pass takes about %d more canary requests, %v at this traffic\n", r.More, r.Next.Round(time.Second))
	}
}

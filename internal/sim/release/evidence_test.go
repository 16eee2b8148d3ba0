package release_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEvidence: releases that are judged by the proxy's own count of every request,
// with real users: those that are no different go through on evidence and nobody
// notices; those that fail, or are slow, are convicted, and users are back on the
// old one.
func TestEvidence(t *testing.T) {
	t.Parallel()
	t.Run("no different", func(t *testing.T) {
		t.Parallel()
		s := open(t)
		u, end := s.paced()
		gates := "errors"
		if *fullFlag {
			gates += ", latency"
		}
		for i := range trials(*alikeFlag) {
			version := fmt.Sprintf("paced-%d", i+1)
			began := time.Now()
			if got := s.deploy(version, judged(gates), good, ""); got != "proven" {
				t.Fatalf("%s ended %s", version, got)
			}
			t.Logf("promoted to 100 %% after %s", time.Since(began).Round(100*time.Millisecond))
			s.serves(u, version)
		}
		s.judge(u, end, 200)
	})
	for _, tt := range []struct {
		name    string
		version string // without its number
		gates   string
		paced   bool // the version that runs takes its time
		long    bool
		most    int // failed requests a release, on any machine
	}{
		{name: "fails 100 %", version: "fails-100", gates: "errors", most: 2500},
		{name: "fails 10 %", version: "fails-10", gates: "errors", most: 2500, long: true},
		{name: "fails 1 %", version: "fails-1", gates: "exact", most: 2500, long: true},
		{name: "a quarter slower", version: "slow-25", gates: "slower", paced: true, long: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.long && !*fullFlag {
				t.Skip("it takes many requests; run with -release.full")
			}
			s := open(t)
			begin := func() (*users, func()) { return begin(t, s.url) }
			runs := "first"
			if tt.paced {
				begin, runs = s.paced, "paced-0"
			}
			u, end := begin()
			var failed []int
			var took [3][]time.Duration
			for i := range trials(*worseFlag) {
				version := fmt.Sprintf("%s.%d", tt.version, i)
				_, before := u.count()
				got := s.deploy(version, judged(tt.gates), good, "")
				if !strings.HasPrefix(got, "rolled_back") || !strings.Contains(got, "worse than the running one") {
					t.Fatalf("%s ended %s", version, got)
				}
				s.serves(u, runs)
				_, after := u.count()
				failed = append(failed, len(after)-len(before))
				for i, d := range s.took() {
					took[i] = append(took[i], d)
				}
			}
			end()
			_, failures := u.count()
			for _, why := range failures {
				if !strings.Contains(why, "failed on purpose") {
					t.Errorf("a failure that is not the new version's: %s", why)
				}
			}
			if len(failures) > tt.most*len(failed) {
				t.Errorf("%d requests failed in %d releases", len(failures), len(failed))
			}
			t.Logf("%d of %d taken back; median (most): %s failed requests, verdict %s, contain %s, undo %s",
				len(failed), len(failed), spread(failed), spread(took[0]), spread(took[1]), spread(took[2]))
		})
	}
}

func trials(full int) int {
	if *fullFlag {
		return full
	}
	return 1
}

// judged is a canary that goes on when these gates are satisfied.
func judged(gates string) string {
	return "strategy: canary, through: [10%, 50%, 100%], within: 90s, gates: [" + gates + "]"
}

// paced puts a version in place that takes its time, and lets users ask.
func (s *shop) paced() (u *users, end func()) {
	s.t.Helper()
	if got := s.deploy("paced-0", "strategy: all-at-once", good, ""); got != "proven" {
		s.t.Fatalf("the paced release ended %s", got)
	}
	return begin(s.t, s.url)
}

// took is how long the last release took to its verdict, to contain and to undo.
func (s *shop) took() (times [3]time.Duration) {
	s.t.Helper()
	for text := range strings.Lines(s.said) {
		words := strings.Fields(text)
		if len(words) != 4 || words[0] != "took" {
			continue
		}
		for i, word := range words[1:] {
			d, err := time.ParseDuration(word)
			if err != nil {
				s.t.Fatal(err)
			}
			times[i] = d.Round(time.Millisecond)
		}
		return times
	}
	s.t.Fatalf("the release does not tell how long it took: %s", s.said)
	return times
}

// spread is the median and the most.
func spread[T int | time.Duration](all []T) string {
	slices.Sort(all)
	return fmt.Sprintf("%v (%v)", all[len(all)/2], all[len(all)-1])
}

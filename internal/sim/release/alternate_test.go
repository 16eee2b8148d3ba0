package release_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestGoodAndBadByTurns: good and bad releases alternate under load, and not one
// request fails.
func TestGoodAndBadByTurns(t *testing.T) {
	t.Parallel()
	for name, strategy := range strategies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			byTurns(t, open(t), strategy, rounds(name))
		})
	}
}

// TestHAProxyByTurns is the same behind HAProxy.
func TestHAProxyByTurns(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"canary", "rolling"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			byTurns(t, open(t, onHAProxy), strategies()[name], rounds(name))
		})
	}
}

// TestNginxByTurns is the same behind nginx, whose moves take half a second each.
func TestNginxByTurns(t *testing.T) {
	t.Parallel()
	byTurns(t, open(t, onNginx), strategies()["canary"], max(rounds("canary")/4, 1))
}

// rounds are how many good releases, and how many bad ones, a strategy has.
func rounds(strategy string) int {
	switch {
	case !*fullFlag:
		return 1
	case strategy == "canary":
		return *roundsFlag
	}
	return max(*roundsFlag/20, 1)
}

// byTurns releases a good version and a bad one, again and again.
func byTurns(t *testing.T, s *shop, strategy string, rounds int) {
	t.Helper()
	u, end := begin(t, s.url)
	for n := range rounds {
		version := fmt.Sprintf("v%d", n)
		if got := s.deploy(version, strategy, good, ""); got != "proven" {
			t.Fatalf("the good release %s ended %s", version, got)
		}
		s.serves(u, version)
		if got := s.deploy("bad", strategy, bad, ""); !strings.HasPrefix(got, "rolled_back last:") {
			t.Fatalf("the bad release ended %s", got)
		}
		s.serves(u, version)
	}
	s.judge(u, end, 200*rounds)
}

// TestGateTakesBack: a version that answers wrong is seen by its gate, and users
// are back when the deployment ends.
func TestGateTakesBack(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"canary": "release-1.gate-1:", "blue-green": "release-1.test:"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			u, end := begin(t, s.url)
			sick := strings.ReplaceAll(strategies()[name], "[right]", "[sick]")
			if got := s.deploy("sick", sick, good, ""); !strings.HasPrefix(got, "rolled_back "+at) {
				t.Errorf("it ended %s, want rolled back by %s", got, at)
			}
			s.serves(u, "first")
			s.judge(u, end, 20)
		})
	}
}

// TestRevert: a proven release is taken back, in one move or by way of 25 %, with
// the old version started again and ready before its first request.
func TestRevert(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"revert", "revert-in-stages"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			u, end := begin(t, s.url)
			if got := s.deploy("v2", strategies()["canary"], good, ""); got != "proven" {
				t.Fatalf("the release ended %s", got)
			}
			s.serves(u, "v2")
			if got := s.drive(role); got != "proven" {
				t.Fatalf("taking it back ended %s", got)
			}
			s.serves(u, "first")
			s.judge(u, end, 100)
		})
	}
}

// TestKilled: the process that deploys is killed at any point, somebody recovers,
// and users notice neither.
func TestKilled(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{"good": good, "bad": bad} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killed(t, open(t), last, *strideFlag)
		})
		t.Run(name+" on HAProxy", func(t *testing.T) {
			t.Parallel()
			killed(t, open(t, onHAProxy), last, 2*(*strideFlag))
		})
	}
}

// killed releases a version for each stride-th point (in short two of all), and
// kills the process there.
func killed(t *testing.T, s *shop, last string, stride int) {
	t.Helper()
	u, end := begin(t, s.url)
	strategy := strategies()["canary"]
	file := filepath.Join(s.dir, "hits")
	s.deploy("dry", strategy, last, "", envHits+"="+file)
	hits, err := os.ReadFile(file)
	if err != nil || len(hits) < 20 {
		t.Fatalf("an undisturbed release passes %d points, error %v", len(hits), err)
	}
	was := "first"
	if last == good {
		was = "dry"
	}
	if !*fullFlag {
		stride = max(len(hits)/2, 1)
	}
	kills := 0
	for n := 1; n <= len(hits); n += stride {
		version := "k" + strconv.Itoa(n)
		got := s.deploy(version, strategy, last, strconv.Itoa(n))
		if got == "" {
			got = s.drive("recover")
			kills++
		}
		switch state, of, _ := strings.Cut(got, " "); {
		case state == "proven" && last == good && (of == "" || of == version):
			was = version
		case state == "proven" && of == was: // killed before anything was in the ledger
		case state == "rolled_back":
		default:
			t.Fatalf("killed at point %d of %d, it ended %s", n, len(hits), got)
		}
		s.serves(u, was)
	}
	t.Logf("killed at %d of %d points", kills, len(hits))
	s.judge(u, end, 100)
}

// TestProxyKilled: the data plane is killed in the middle of a release and started
// again. It has its routes, no weight is lost, and the release ends right.
func TestProxyKilled(t *testing.T) {
	t.Parallel()
	s := open(t)
	long := strings.Replace(strategies()["canary"], "30ms", "2s", 1)
	done := make(chan string, 1)
	go func() { done <- s.deploy("v2", long, good, "") }()
	for w := s.weights(); w["green"] == 0; w = s.weights() {
		select {
		case got := <-done:
			t.Fatalf("it ended %s before any user was on the new side", got)
		case <-time.After(20 * time.Millisecond):
		}
	}
	was := s.weights()
	if err := s.data.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.data.Wait()
	s.proxy()
	if diff := cmp.Diff(was, s.weights()); diff != "" {
		t.Errorf("the weights after the restart (-before +after):\n%s", diff)
	}
	u, end := begin(t, s.url)
	switch got := <-done; {
	case got == "proven":
		s.serves(u, "v2")
	case strings.HasPrefix(got, "rolled_back"):
		s.serves(u, "first")
	default:
		t.Errorf("it ended %s", got)
	}
	s.judge(u, end, 20)
}

// TestFirstReleaseFails: where nothing was there before, nothing is again, and the
// next release lands.
func TestFirstReleaseFails(t *testing.T) {
	t.Parallel()
	for name, router := range map[string]func(*testing.T) plane{"proxy": nil, "HAProxy": onHAProxy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := empty(t, router)
			before := s.weights()
			for _, strategy := range []string{"canary", "all-at-once"} {
				if got := s.deploy("bad", strategies()[strategy], bad, ""); !strings.HasPrefix(got, "rolled_back last:") {
					t.Errorf("a bad first release (%s) ended %s", strategy, got)
				}
				if diff := cmp.Diff(before, s.weights()); diff != "" {
					t.Errorf("the weights (-before +after):\n%s", diff)
				}
			}
			if got := s.deploy("v1", strategies()["canary"], good, ""); got != "proven" {
				t.Fatalf("a good one after it ended %s", got)
			}
			u, end := begin(t, s.url)
			s.serves(u, "v1")
			s.judge(u, end, 5)
		})
	}
}

package sim

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	reportFlag = flag.String("sim.report", "", "folder to write the counts of each part to, as JSON")
	firstFlag  = flag.Bool("sim.first", false, "stop everything at the first run that fails, and do not shrink it")
)

// stopped ends all parts early: with -sim.first, once a run failed.
var stopped atomic.Bool

// count is what a part of the hunt covered; its fields are the report's.
type count struct {
	mu       sync.Mutex
	began    time.Time
	shown    int
	failures []failure
	Part     string         `json:"part"`
	Plans    int            `json:"plans"`
	Points   int            `json:"points"` // passes of a point in runs without a fault of the enumeration
	Faults   int            `json:"faults"`
	Runs     int            `json:"runs"`
	Failed   int            `json:"failed"`
	Late     int            `json:"late"` // runs whose fault came too late to happen
	Lives    int            `json:"processes"`
	Ends     map[string]int `json:"ends"`
	Fired    map[string]int `json:"fired"` // runs by action of a fault that happened
	Nesting  map[int]int    `json:"nesting"`
	Seconds  float64        `json:"seconds"`
	PerSec   float64        `json:"runs_per_second"`
	FirstBad int            `json:"first_failed_run,omitempty"`
	Commit   string         `json:"commit"`
}

func newCount(part string) *count {
	return &count{Part: part, began: time.Now(), Ends: map[string]int{}, Fired: map[string]int{}, Nesting: map[int]int{}}
}

// covers adds what an enumeration found room for.
func (c *count) covers(trace []string, faults int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pass := range trace {
		if pass != changed {
			c.Points++
		}
	}
	c.Faults += faults
}

// mostShown bounds how many failed runs a part shows.
const mostShown = 8

// judged counts a run and shows it if it failed: shrunk, with the line that
// plays it again.
func (c *count) judged(t *testing.T, r *record, sc scenario, extra []fault) {
	t.Helper()
	c.mu.Lock()
	c.Runs++
	c.Lives += r.lives
	end := string(r.end)
	if end == "" {
		end = "nothing deployed"
	}
	c.Ends[end]++
	if len(r.unfired) > 0 {
		c.Late++
	}
	happened := len(r.script) - len(sc.script) - len(r.unfired)
	c.Nesting[happened]++
	seen := map[string]bool{}
	for _, f := range r.script[len(sc.script):] {
		seen[f.Action] = true
	}
	for action := range seen {
		c.Fired[action]++
	}
	bad := len(r.violations) > 0
	if bad {
		c.Failed++
		if c.FirstBad == 0 {
			c.FirstBad = c.Runs
		}
		c.shown++
	}
	show := bad && c.shown <= mostShown
	c.mu.Unlock()
	if !bad {
		return
	}
	if *firstFlag {
		stopped.Store(true)
		t.Errorf("%s: %s", replayLine(sc, extra), strings.Join(r.violations, "\n\t"))
		return
	}
	if show {
		// The lab is still in its bubble; shrinking needs bubbles of its own.
		c.mu.Lock()
		c.failures = append(c.failures, failure{sc, extra, r.violations})
		c.mu.Unlock()
	}
}

// failure is a failed run that waits to be shrunk.
type failure struct {
	sc         scenario
	script     []fault
	violations []string
}

// shrunk shows the failed runs, each as small as it gets. It must be called
// outside of any bubble.
func (c *count) shrunk(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	all := c.failures
	c.failures = nil
	c.mu.Unlock()
	for _, f := range all {
		small, left := shrink(f.sc, f.script, failsAlone(t))
		t.Errorf("commit %s: %s\n\tas found, of %d faults: %s\n\t%s", commit(t), replayLine(small, left),
			len(f.script), replayLine(f.sc, f.script), strings.Join(f.violations, "\n\t"))
	}
}

// done writes the counts.
func (c *count) done(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	took := time.Since(c.began)
	c.Seconds = float64(took.Round(time.Millisecond)) / float64(time.Second)
	c.PerSec = float64(int(float64(c.Runs)/c.Seconds*10)) / 10
	c.Commit = commit(t)
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatalf("encode the counts: %v", err)
	}
	t.Logf("counts: %s", text)
	if *reportFlag == "" {
		return
	}
	if err := os.MkdirAll(*reportFlag, 0o750); err != nil {
		t.Errorf("make the report's folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(*reportFlag, c.Part+".json"), append(text, '\n'), 0o600); err != nil {
		t.Errorf("write the report: %v", err)
	}
}

// commit is the commit of the tree that the tests run in, or "unknown".
func commit(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output() //nolint:noctx // it ends by itself
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// replayLine is the command that plays one case again.
func replayLine(sc scenario, extra []fault) string {
	return "go test ./internal/sim -run TestReplay -v -sim.replay='plan=" + sc.name + " fault=" + faultText(extra) + "'"
}

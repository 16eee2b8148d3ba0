package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// The actions that a fault can take where it waits.
const (
	actCrash      = "crash"       // the process dies here
	actOutside    = "outside"     // somebody else writes a cell
	actAbort      = "abort"       // an abort signal arrives through the ledger
	actStop       = "stop"        // Ctrl-C, once
	actFail       = "fail"        // error, no effect
	actTransient  = "transient"   // transient error, no effect
	actPart       = "part"        // error after half of the effect
	actFull       = "full"        // error after all of the effect
	actLost       = "lost"        // transient error after all of the effect: the answer was lost
	actLie        = "lie"         // success without effect
	actPartLie    = "part-lie"    // success after half of the effect
	actHang       = "hang"        // nothing until the context ends
	actHangPart   = "hang-part"   // half, then nothing until the context ends
	actUnread     = "unread"      // what is read cannot be read this time
	actObserveErr = "observe-err" // nothing can be read at all
	actStoreErr   = "store-err"   // the write does not happen and says so
	actStoreLost  = "store-lost"  // the write happens, its answer is an error
	actSecond     = "second"      // somebody starts another deployment on a key of this one
)

// every marks a fault that happens at each pass of its point.
const every = -1

// fault is one scripted misfortune: an action at the N-th pass of a point
// (counted over all processes of a run). Its text is "action@point#n", with
// "(cell=value)" behind the action "outside" and "*" for every pass.
type fault struct {
	Action string
	Cell   string
	Value  string
	Point  string
	N      int
}

func (f fault) String() string {
	arg, n := "", "*"
	if f.Action == actOutside {
		arg = "(" + f.Cell + "=" + f.Value + ")"
	}
	if f.N != every {
		n = strconv.Itoa(f.N)
	}
	return f.Action + arg + "@" + f.Point + "#" + n
}

// parseFaults reads what joined String values with "+" between them say.
func parseFaults(text string) ([]fault, error) {
	var all []fault
	for one := range strings.SplitSeq(text, "+") {
		if one == "" {
			continue
		}
		action, point, ok := strings.Cut(one, "@")
		point, nth, counted := strings.Cut(point, "#")
		if !ok || !counted {
			return nil, fmt.Errorf("fault %q is not action@point#n", one)
		}
		f := fault{Point: point, N: every}
		f.Action, f.Cell, _ = strings.Cut(action, "(")
		f.Cell, f.Value, _ = strings.Cut(strings.TrimSuffix(f.Cell, ")"), "=")
		if nth != "*" {
			var err error
			if f.N, err = strconv.Atoi(nth); err != nil {
				return nil, fmt.Errorf("fault %q: %w", one, err)
			}
		}
		all = append(all, f)
	}
	return all, nil
}

func faultText(all []fault) string {
	texts := make([]string, len(all))
	for i, f := range all {
		texts[i] = f.String()
	}
	return strings.Join(texts, "+")
}

// faults are those of one run, with the passes counted so far.
type faults struct {
	mu     sync.Mutex
	script []fault
	fired  []bool
	counts map[string]int
	trace  []string // every pass, as point#n, and changed between them
	// draw, where set, adds a fault to the script at a pass, or none.
	draw func(point string, n int) (fault, bool)
}

// changed is the mark in a trace that the world or the ledger changed.
const changed = "~"

func (f *faults) mark() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace = append(f.trace, changed)
}

func newFaults(script []fault) *faults {
	return &faults{script: script, fired: make([]bool, len(script)), counts: map[string]int{}}
}

// pass counts a pass of the point and returns the faults that wait there.
func (f *faults) pass(point string) hits {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[point]++
	n := f.counts[point]
	f.trace = append(f.trace, point+"#"+strconv.Itoa(n))
	var found hits
	if f.draw != nil {
		if one, ok := f.draw(point, n); ok {
			f.script, f.fired = append(f.script, one), append(f.fired, false)
		}
	}
	for i, one := range f.script {
		if one.Point == point && (one.N == n || one.N == every) {
			f.fired[i] = true
			found = append(found, one)
		}
	}
	return found
}

// deaths is how many faults of the script end a process.
func (f *faults) deaths() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, one := range f.script {
		if slices.Contains([]string{actCrash, actStoreErr, actStoreLost}, one.Action) {
			n++
		}
	}
	return n
}

// unfired are the faults, without the first few, whose point was never passed
// often enough.
func (f *faults) unfired(skip int) []fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []fault
	for i, one := range f.script {
		if i >= skip && !f.fired[i] {
			left = append(left, one)
		}
	}
	return left
}

// hits are the faults found at one pass.
type hits []fault

func (h hits) has(action string) bool {
	return slices.ContainsFunc(h, func(f fault) bool { return f.Action == action })
}

// fault is the action among hits that bends an act, or "".
func (h hits) fault() string {
	for _, f := range h {
		switch f.Action {
		case actCrash, actOutside, actAbort, actStop, actSecond:
		default:
			return f.Action
		}
	}
	return ""
}

// enumerate lists every single fault that a trace has room for from a place on.
// An outsider's write or a signal is not repeated at points between which nobody
// looks at the world, or (abort) at the ledger's: to the engine these are one.
// A crash is not repeated between two points between which neither the world
// nor the ledger changed: what is found afterwards is the same. cells are those
// that an outsider may write, with the value it leaves.
func enumerate(trace []string, cells []fault, from int) []fault {
	var all []fault
	passed := map[string]bool{}
	fresh := true
	for i, pass := range trace {
		if pass == changed {
			fresh = true
			continue
		}
		point, nth, _ := strings.Cut(pass, "#")
		n, err := strconv.Atoi(nth)
		if err != nil {
			panic("sim: broken trace: " + pass)
		}
		room := faultsAt(point, n, !passed[point], cells)
		passed[point] = true
		if i < from {
			continue // what came after the last change before it may still be new
		}
		for _, f := range room {
			if f.Action != actCrash || fresh || strings.HasPrefix(point, "fp:") {
				all = append(all, f)
			}
			fresh = fresh && f.Action != actCrash
		}
	}
	return all
}

// faultsAt are the faults that one pass of a point has room for; with first also
// those that happen at each pass from now on.
func faultsAt(point string, n int, first bool, cells []fault) []fault {
	var all []fault
	add := func(n int, actions ...string) {
		for _, a := range actions {
			all = append(all, fault{Action: a, Point: point, N: n})
		}
	}
	kind, _, _ := strings.Cut(point, "/")
	engines := strings.HasPrefix(kind, "fp:")
	ledgers := slices.Contains([]string{"create", "create.end", "append", "append.end", "claim", "claim.end"}, kind)
	add(n, actCrash)
	if !ledgers && kind != "observed" {
		add(n, actAbort)
		if !engines {
			add(n, actStop)
		}
	}
	if !ledgers && !engines || point == "fp:create.before/" {
		for _, c := range cells {
			c.Point, c.N = point, n
			all = append(all, c)
		}
	}
	switch kind {
	case "do", "undo":
		add(n, actFail, actTransient, actPart, actFull, actLost, actLie, actPartLie, actHang, actHangPart)
		if first { // only these are tried again by themselves
			add(every, actTransient, actLost)
		}
	case "observe":
		add(n, actUnread, actObserveErr)
		if first {
			add(every, actUnread, actObserveErr)
		}
	case "check":
		add(n, actFail, actUnread, actLie)
		if first {
			add(every, actFail, actUnread, actLie)
		}
	case "settle":
		add(n, actFail)
		if first {
			add(every, actFail)
		}
	case "append", "create":
		add(n, actStoreErr, actStoreLost)
	}
	return all
}

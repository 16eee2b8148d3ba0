package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// ResultFormat names the version of Result's JSON.
const ResultFormat = "backstay.audit.verify/v1"

// none stands for no leaf.
const none int64 = -1

// Result is what a verification proved, and what it found wrong.
type Result struct {
	Type        string `json:"type"`
	Of          string `json:"of"` // "ledger" or "export"
	OK          bool   `json:"ok"`
	Ledger      string `json:"ledger"`
	Head        Head   `json:"head"`
	Entries     int64  `json:"entries"` // whose hashes were recomputed
	Deployments int    `json:"deployments"`
	Checkpoints int    `json:"checkpoints"` // stored ones that are signed and fit
	Kept        int    `json:"kept"`        // ones given with Against that are signed and fit
	// Covered is how many entries, from the first, the newest good checkpoint
	// signs. CoveredAt is when it was stored: the ledger's word, not the
	// signature's; zero for one that was kept elsewhere.
	Covered   int64     `json:"covered"`
	CoveredAt time.Time `json:"covered_at,omitzero"`
	// Newer is how many entries no signature covers.
	Newer int64    `json:"newer"`
	Keys  []string `json:"keys"` // trusted, as name+hash
	// Blobs is how much stored content was read and held against its address,
	// BlobBytes its size. Collected is how many addresses that entries refer to
	// are missing because the log records that they were let go.
	Blobs     int64 `json:"blobs"`
	BlobBytes int64 `json:"blob_bytes"`
	Collected int64 `json:"collected"`
	// Rewinds are the places where the log records that the database lost
	// acknowledged entries, or may have: what was lost is in no log.
	Rewinds []Rewind `json:"rewinds,omitempty"`
	// UnknownKinds counts entries of kinds that this version does not know:
	// their hashes are verified, their meaning is not.
	UnknownKinds map[string]int64 `json:"unknown_kinds,omitempty"`
	Problems     []Problem        `json:"problems"`
	// More is how many problems there are beyond the listed ones.
	More int64 `json:"more,omitempty"`
}

// Rewind is one such record.
type Rewind struct {
	Leaf int64  `json:"leaf"`
	Text string `json:"text"`
	backstay.Rewound
}

// Head is a tree head in JSON.
type Head struct {
	Size int64  `json:"size"`
	Root string `json:"root"` // base64
}

// Problem is one thing that is wrong: where, what, what it means, what to do.
type Problem struct {
	// Code is one word for programs: record_changed, record_missing,
	// record_twice, record_unreadable, tree_changed, tree_missing, head_changed,
	// columns_differ, row_differs, plan_changed, blob_missing, blob_damaged,
	// blobs_unreadable, plans_unreadable, grammar, truncated, rewritten,
	// checkpoint_not_trusted, checkpoint_foreign, checkpoint_row, export_damaged.
	Code string `json:"code"`
	// Leaf and Last are the first and last leaf it is about; -1: no leaf.
	Leaf int64 `json:"leaf"`
	Last int64 `json:"last_leaf"`
	// Deployment is the deployment's ID, Name its release#number, Entry the
	// number within it, where it is about one.
	Deployment string `json:"deployment,omitempty"`
	Name       string `json:"name,omitempty"`
	Entry      int64  `json:"entry,omitempty"`
	Message    string `json:"message"`
	Meaning    string `json:"meaning"`
	Do         string `json:"do"`
}

func headOf(h ledger.Head) Head { return Head{Size: h.Size, Root: tlog.Hash(h.Root).String()} }

func (r *Result) add(p Problem) {
	if len(r.Problems) == maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, p)
}

// cover counts a good checkpoint; they come in order of size.
func (r *Result) cover(c signed) {
	if c.kept {
		r.Kept++
	} else {
		r.Checkpoints++
	}
	if c.size > r.Covered || r.CoveredAt.IsZero() {
		r.Covered, r.CoveredAt = c.size, c.at
	}
}

// finish draws the sums and names deployments for people.
func (r *Result) finish(names map[string]string) {
	r.OK = len(r.Problems) == 0
	r.Newer = max(r.Head.Size-r.Covered, 0)
	for i := range r.Problems {
		r.Problems[i].Name = names[r.Problems[i].Deployment]
	}
	if r.Problems == nil {
		r.Problems = []Problem{} // [] in JSON, not null
	}
	if len(r.UnknownKinds) == 0 {
		r.UnknownKinds = nil
	}
}

// WriteText writes the result for people. What comes from the ledger is
// cleaned: it can forge no line and drive no terminal.
func (r Result) WriteText(w io.Writer) error {
	var b strings.Builder
	if r.OK {
		fmt.Fprintf(&b, "verified: %s of %s, every hash recomputed\n", count(r.Entries, "entry", "entries"), count(int64(r.Deployments), "deployment", "deployments"))
	} else {
		fmt.Fprintf(&b, "NOT VERIFIED: %s\n", count(int64(len(r.Problems))+r.More, "problem", "problems"))
	}
	fmt.Fprintf(&b, "ledger %s, size %d, root %s\n", line(r.Ledger), r.Head.Size, r.Head.Root)
	signed := int64(r.Checkpoints + r.Kept)
	if signed == 0 {
		b.WriteString("no signed checkpoint covers any entry: who can write the ledger could have rewritten it all\n")
		b.WriteString("  do: run `backstay audit checkpoint` and keep its output elsewhere\n")
	} else {
		fmt.Fprintf(&b, "%s, signed and fitting", count(signed, "checkpoint", "checkpoints"))
		if r.Kept > 0 {
			fmt.Fprintf(&b, " (%d kept elsewhere)", r.Kept)
		}
		fmt.Fprintf(&b, "; the newest covers the first %s", count(r.Covered, "entry", "entries"))
		if !r.CoveredAt.IsZero() {
			fmt.Fprintf(&b, " (stored %s)", r.CoveredAt.UTC().Format(time.RFC3339))
		}
		b.WriteString("\n")
		if r.Newer > 0 {
			fmt.Fprintf(&b, "%s newer than it: covered by no signature\n", count(r.Newer, "entry is", "entries are"))
		}
		if r.Kept == 0 {
			b.WriteString("no kept checkpoint was given (--against): that the newest entries were removed would not show\n")
		}
	}
	if r.Of == "ledger" {
		fmt.Fprintf(&b, "%s (%s) read against their addresses", count(r.Blobs, "blob", "blobs"), count(r.BlobBytes, "byte", "bytes"))
		if r.Collected > 0 {
			fmt.Fprintf(&b, "; %s collected, as the log records", count(r.Collected, "more was", "more were"))
		}
		b.WriteString("\n")
	} else {
		b.WriteString("an export holds no content: the blobs that entries refer to were not read\n")
	}
	for _, rw := range r.Rewinds {
		fmt.Fprintf(&b, "leaf %d records a rewind: %s\n", rw.Leaf, line(rw.Text))
	}
	for _, k := range slices.Sorted(maps.Keys(r.UnknownKinds)) {
		fmt.Fprintf(&b, "%s of kind %q, which this version does not know: hashed, not understood\n", count(r.UnknownKinds[k], "entry", "entries"), line(k))
	}
	for i, p := range r.Problems {
		fmt.Fprintf(&b, "\n%d. %s\n   means: %s\n   do:    %s\n", i+1, line(p.place()+p.Message), line(p.Meaning), line(p.Do))
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "\nand %d more\n", r.More)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// place names the leaf and deployment of a problem.
func (p Problem) place() string {
	var parts []string
	switch {
	case p.Leaf == none:
	case p.Last > p.Leaf:
		parts = append(parts, fmt.Sprintf("leaves %d to %d", p.Leaf, p.Last))
	default:
		parts = append(parts, fmt.Sprintf("leaf %d", p.Leaf))
	}
	if p.Deployment != "" {
		who := "deployment " + p.Deployment
		if p.Name != "" {
			who = fmt.Sprintf("deployment %s (%s)", p.Name, p.Deployment)
		}
		if p.Entry > 0 {
			who += fmt.Sprintf(" entry %d", p.Entry)
		}
		parts = append(parts, who)
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + ": "
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

package plan

import (
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// Mitigation marks the plan of a mitigation: an emergency's small plan. It runs
// as any plan does; what is more is who must have approved it ahead.
type Mitigation struct {
	Name   string `json:"name"`
	For    string `json:"for"`
	AtOnce string `json:"at_once,omitempty"` // why it is not tried on a part first
	// Definition is the digest of what was written, with the content that it
	// pins: what an approval is bound to. The world may change under it.
	Definition string            `json:"definition"`
	From       []string          `json:"from,omitempty"`
	Count      int               `json:"count"`
	MaxAge     backstay.Duration `json:"max_age"`
	NotAuthor  bool              `json:"not_author,omitempty"` // who runs it does not count
	// Glass is there where somebody runs it past its cell and its approvals.
	Glass *Glass `json:"glass,omitempty"`
}

// Glass is why, and until when somebody must have accounted for it. A plan with
// it runs once, and not after Until.
type Glass struct {
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`
}

// mitigates freezes which mitigation the plan is of.
func (b *builder) mitigates(p *Plan) {
	m := b.spec.Mitigates
	if m == nil {
		return
	}
	var blobs [][]string
	waits, cell := false, false
	for _, s := range p.Steps {
		blobs = append(blobs, s.Blobs)
		if s.Stage == spec.CellStage {
			cell, waits = true, waits || s.Waits()
		}
		if s.Class == backstay.Irreversible {
			b.problem(s.ID, "a mitigation is taken back like any deployment; what cannot be belongs into a release", "is irreversible (%s)", s.Irreversible)
		}
	}
	if cell && !waits {
		b.problems = append(b.problems, backstay.Problem{
			File: b.spec.File, Line: m.Line, Column: m.Column, Path: "mitigations." + m.Name + ".cell",
			Message: "nothing in the cell waits, so it would not be tried on a part first", Hint: "end it with `- gate: {hold: 30s, gates: […]}` or an approve step",
		})
	}
	p.Version = "mitigation " + m.Name
	p.Mitigation = &Mitigation{
		Name: m.Name, For: m.For, AtOnce: m.AtOnce, Definition: backstay.DigestJSON([]any{m.Definition, blobs}),
		From: m.Approve.From, Count: m.Approve.Count, MaxAge: m.Approve.MaxAge, NotAuthor: b.spec.Policy.NotAuthor,
	}
}

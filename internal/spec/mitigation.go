package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// CellStage is the stage that a mitigation's cell becomes.
const CellStage = "cell"

// DefaultApprovalAge is how long an approval that was given ahead holds.
const DefaultApprovalAge = backstay.Duration(90 * 24 * 60 * 60 * 1e9)

// mitigationKeys are the keys of one entry of `mitigations:`.
type mitigationKeys struct {
	For     string       `yaml:"for" required:"true" doc:"When to use it, in one line: what somebody who is paged reads." example:"orders fail since the new checkout"`
	Cell    raw          `yaml:"cell" doc:"Steps on one part of what is affected: a share of the users, one host. They come first; the last of them waits (gate or approve) and says whether it helps." example:"[{flag: {key: new-checkout, variant: \"false\", percentage: 10%}}, {gate: {hold: 30s, gates: [errors]}}]"`
	AtOnce  string       `yaml:"at-once" doc:"Instead of cell: why it cannot be tried on a part first." example:"the partner's limit is one number for everybody"`
	Steps   raw          `yaml:"steps" required:"true" doc:"The whole of it, as in steps; also what stands in cell already." example:"[{flag: {key: new-checkout, turn: \"off\"}}]"`
	Verify  raw          `yaml:"verify" doc:"Checks after the last step, as in verify." example:"[{run: ./smoke.sh}]"`
	Approve approvalKeys `yaml:"approve" doc:"Who must have approved it ahead (backstay mitigate NAME --approve)."`
}

type approvalKeys struct {
	From   []string           `yaml:"from" json:"from" doc:"Who may: groups of the host, or single users as user:NAME. Default: anybody who can open the ledger." example:"[sre]"`
	Count  *int               `yaml:"count" json:"count" doc:"How many different people must. Default: 1." example:"2"`
	MaxAge *backstay.Duration `yaml:"max-age" json:"max-age" doc:"How old an approval may be. Default: 90d." example:"30d"`
}

// Mitigation is a small plan for an emergency, written and approved ahead.
type Mitigation struct {
	Name    string   `json:"name"`
	For     string   `json:"for"`
	AtOnce  string   `json:"at_once,omitempty"` // why it has no cell
	Approve Approval `json:"approve"`
	Stages  []Stage  `json:"stages,omitempty"` // the first is CellStage, where it has a cell
	Steps   []Step   `json:"steps"`            // the cell's first
	Verify  []Check  `json:"verify,omitempty"`
	Line    int      `json:"-"`
	Column  int      `json:"-"`
}

// Approval says whose approvals a mitigation needs.
type Approval struct {
	From   []string          `json:"from,omitempty"`
	Count  int               `json:"count"`
	MaxAge backstay.Duration `json:"max_age"`
}

// Mitigates says which mitigation a spec was made of.
type Mitigates struct {
	Mitigation
	// Definition is the digest of what was written: the mitigation, and the
	// gates, sections and policy that it can refer to.
	Definition string `json:"definition"`
}

// mitigations reads the section.
func (d *decoder) mitigations(n *node, kinds Kinds) []Mitigation {
	if n.shape != mapping {
		if n.shape != void {
			d.mismatch(n, "mitigations", "a mapping", "write it as NAME: {for: …, steps: […]}")
		}
		return nil
	}
	var all []Mitigation
	for _, p := range n.pairs {
		path := join("mitigations", p.key.text)
		d.keyFormat(p.key, path, &field{format: "name"})
		var keys mitigationKeys
		d.structure(p.value, reflect.ValueOf(&keys).Elem(), path, others{})
		if p.value.shape == mapping {
			all = append(all, d.mitigation(p.key.text, p.value, path, keys, kinds))
		}
	}
	slices.SortFunc(all, func(a, b Mitigation) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (d *decoder) mitigation(name string, n *node, path string, keys mitigationKeys, kinds Kinds) Mitigation {
	m := Mitigation{Name: name, For: keys.For, AtOnce: keys.AtOnce, Line: n.line, Column: n.column}
	m.Approve = Approval{From: keys.Approve.From, Count: 1, MaxAge: DefaultApprovalAge}
	if at := n.get("approve"); at != nil {
		if keys.Approve.Count != nil {
			if m.Approve.Count = *keys.Approve.Count; m.Approve.Count < 1 || m.Approve.Count > 100 {
				d.ps.add(at.get("count"), path+".approve.count", "want 1 to 100", "")
			}
		}
		if age := d.positive(keys.Approve.MaxAge, at, path+".approve", "max-age"); age > 0 {
			m.Approve.MaxAge = age
		}
	}
	cell := keys.Cell.node != nil && keys.Cell.node.shape != void
	switch {
	case cell && keys.AtOnce != "":
		d.ps.add(n.get("at-once"), path+".at-once", "it has a cell, and says why it has none", "keep one of them")
	case !cell && keys.AtOnce == "":
		d.ps.add(n, path, "nothing says on which part it is tried first", "give cell: [steps], the last of which waits; or at-once: \"why that cannot be\"")
	}
	d.label(n.get("for"), path+".for", badLabel)
	d.label(n.get("at-once"), path+".at-once", badLabel)
	r := newStepReader(d, kinds, &Spec{})
	if cell {
		r.section(keys.Cell.node, path+".cell", CellStage)
	}
	if keys.Steps.node != nil {
		r.section(keys.Steps.node, path+".steps", "")
	}
	for _, s := range r.pending {
		if s.Kind == ReleaseKind {
			d.ps.add(s.node, s.path, "a mitigation ships nothing", "deploy a release with `backstay deploy`; here move flags and traffic, and switch files")
		}
	}
	if len(r.pending) > maxSteps {
		d.ps.add(n, path, fmt.Sprintf("more than %d steps", maxSteps), "a mitigation is small")
		return m
	}
	m.Steps, m.Stages = resolveNeeds(d.ps, r.pending), r.spec.Stages
	if keys.Verify.node != nil {
		m.Verify = d.checks(keys.Verify.node, path+".verify", kinds)
	}
	return m
}

// Mitigation makes the spec of a mitigation: its steps in the place of the
// release's, with the same sections and gates. Without its cell it begins with
// the whole. It ships no artifacts, does not bake, and needs no drill to run.
func (s *Spec) Mitigation(name string, withCell bool) (*Spec, error) {
	i := slices.IndexFunc(s.Mitigations, func(m Mitigation) bool { return m.Name == name })
	if i < 0 {
		names := make([]string, 0, len(s.Mitigations))
		for _, m := range s.Mitigations {
			names = append(names, m.Name)
		}
		hint := "the file has no section mitigations:"
		if len(names) > 0 {
			hint = "mitigations has: " + list(names)
		}
		return nil, &backstay.RefusedError{What: "mitigation", Err: fmt.Errorf("there is no mitigation %s", quote(name)), Hint: hint}
	}
	m := s.Mitigations[i]
	out := *s
	out.Mitigations, out.Artifacts, out.Bake = nil, nil, Bake{Every: defaultBakeEvery, Failures: defaultBakeFailures}
	out.Policy.Require = nil
	out.Mitigates = &Mitigates{m, backstay.DigestJSON([]any{m, s.Gates, s.Sections, s.Policy})}
	out.Stages, out.Steps, out.Verify = m.Stages, m.Steps, m.Verify
	if !withCell {
		out.Stages, out.Steps = m.whole()
	}
	out.Digest = ""
	out.Digest = backstay.DigestJSON(&out)
	return &out, nil
}

// whole is the mitigation without its cell.
func (m Mitigation) whole() ([]Stage, []Step) {
	cell := map[string]bool{}
	var steps []Step
	for _, s := range m.Steps {
		if s.Stage == CellStage {
			cell[s.ID] = true
			continue
		}
		s.Needs = slices.DeleteFunc(slices.Clone(s.Needs), func(need string) bool { return cell[need] })
		steps = append(steps, s)
	}
	return slices.DeleteFunc(slices.Clone(m.Stages), func(st Stage) bool { return st.Name == CellStage }), steps
}

// HasCell reports whether it is tried on a part first.
func (m Mitigation) HasCell() bool { return m.AtOnce == "" }

package spec

import (
	"fmt"
	"strings"
)

// resolveNeeds turns defaults and explicit needs into IDs of earlier steps. It
// reports duplicate names, unknown, repeated and forward needs, and cycles.
func resolveNeeds(ps *problems, pending []pendingStep) []Step {
	r := needsResolver{ps: ps, pending: pending, index: make(map[string]int, len(pending)), needs: make([][]int, len(pending))}
	ids := make([]string, 0, len(pending))
	for i, s := range pending {
		if first, twice := r.index[s.ID]; twice {
			ps.add(s.nameAt, s.path+".name", fmt.Sprintf("the step name %s is already used on line %d", quote(s.ID), pending[first].Line), "rename one of them")
			continue
		}
		r.index[s.ID] = i
		ids = append(ids, s.ID)
	}
	edges := 0
	for i := range pending {
		r.needs[i] = pending[i].before
		if explicit := pending[i].needs; explicit != nil && explicit.shape != void {
			r.needs[i] = r.explicit(i, explicit, ids)
		}
		edges += len(r.needs[i])
		if edges > maxNeeds {
			return r.tooMany(i)
		}
	}
	r.forward()
	if edges += r.barriers(maxNeeds - edges); edges > maxNeeds {
		return r.tooMany(len(pending) - 1)
	}
	steps := make([]Step, len(pending))
	for i, s := range pending {
		steps[i] = s.Step
		for _, j := range r.needs[i] {
			steps[i].Needs = append(steps[i].Needs, pending[j].ID)
		}
	}
	return steps
}

type needsResolver struct {
	ps      *problems
	pending []pendingStep
	index   map[string]int
	needs   [][]int
	wrong   []wrongNeed
}

// wrongNeed is a need that points at its own step or at a later one.
type wrongNeed struct {
	from, to int
	node     *node
	path     string
}

func (r *needsResolver) tooMany(i int) []Step {
	s := r.pending[i]
	r.ps.add(s.node, s.path, fmt.Sprintf("the steps need one another in more than %d ways", maxNeeds), "put a step between large parallel groups")
	return nil
}

// explicit reads a needs list.
func (r *needsResolver) explicit(i int, n *node, ids []string) []int {
	path := r.pending[i].path + ".needs"
	if n.shape != sequence {
		hint := "write it as a list"
		if n.shape == scalar {
			hint += ": [" + quoteless(n.text) + "]"
		}
		r.ps.add(n, path, "want a list of step names, not "+n.String(), hint)
		return nil
	}
	var needs []int
	seen := map[int]bool{}
	for k, item := range n.items {
		p := at(path, k)
		if item.shape != scalar {
			if item.shape != void {
				r.ps.add(item, p, "want a step's name, not "+item.String(), "")
			}
			continue
		}
		j, ok := r.index[item.text]
		switch {
		case !ok:
			r.ps.add(item, p, "no step is named "+quote(item.text), orHint(r.ps.suggest(item.text, ids), "the steps are: "+list(ids)))
		case seen[j]:
			r.ps.add(item, p, "the step "+quote(item.text)+" is listed twice", "remove one of them")
		case j >= i:
			r.wrong = append(r.wrong, wrongNeed{i, j, item, p})
		}
		if ok && !seen[j] {
			seen[j] = true
			needs = append(needs, j)
		}
	}
	return needs
}

// forward reports needs of later steps; where one closes a cycle it prints it.
func (r *needsResolver) forward() {
	for k, w := range r.wrong {
		id := r.pending[w.to].ID
		if w.from == w.to {
			r.ps.add(w.node, w.path, "the step "+quote(id)+" needs itself", "remove it")
			continue
		}
		if k < maxCycles {
			if cycle := r.cycle(w); cycle != "" {
				r.ps.add(w.node, w.path, "the needs form a cycle: "+cycle, "remove one of these needs; a step without needs waits for the one before it")
				continue
			}
		}
		r.ps.add(w.node, w.path, fmt.Sprintf("the step %s comes later, on line %d", quote(id), r.pending[w.to].Line), "a step can only need steps above it; move one of them")
	}
}

// cycle walks from the needed step back to the one that needs it.
func (r *needsResolver) cycle(w wrongNeed) string {
	via := map[int]int{w.to: w.from}
	queue := []int{w.to}
	for len(queue) > 0 && queue[0] != w.from {
		i := queue[0]
		queue = queue[1:]
		for _, j := range r.needs[i] {
			if _, seen := via[j]; !seen {
				via[j] = i
				queue = append(queue, j)
			}
		}
	}
	if len(queue) == 0 {
		return ""
	}
	chain := []string{r.pending[w.from].ID}
	for i := via[w.from]; i != w.from; i = via[i] {
		chain = append(chain, r.pending[i].ID)
	}
	chain = append(chain, r.pending[w.from].ID)
	for i, j := 0, len(chain)-1; i < j; i, j = i+1, j-1 {
		chain[i], chain[j] = chain[j], chain[i]
	}
	const shown = 12
	if len(chain) > shown {
		chain = append(append(chain[:shown/2:shown/2], "…"), chain[len(chain)-shown/2:]...)
	}
	return strings.Join(chain, " → ")
}

// barriers makes the first steps of each segment wait for the last ones of the
// segment before it, and returns how many needs that added.
func (r *needsResolver) barriers(limit int) int {
	added := 0
	var last []int // what nothing in the previous segment waits for
	for start := 0; start < len(r.pending); {
		end := start
		for end < len(r.pending) && r.pending[end].segment == r.pending[start].segment {
			end++
		}
		needed := make(map[int]bool, end-start)
		for i := start; i < end; i++ {
			inside := false
			have := make(map[int]bool, len(r.needs[i]))
			for _, j := range r.needs[i] {
				inside = inside || j >= start && j < end
				have[j], needed[j] = true, true
			}
			if inside {
				continue
			}
			needs := r.needs[i][:len(r.needs[i]):len(r.needs[i])]
			for _, j := range last {
				if !have[j] {
					needs = append(needs, j)
					added++
				}
			}
			if r.needs[i] = needs; added > limit {
				return added
			}
		}
		last = nil
		for i := start; i < end; i++ {
			if !needed[i] {
				last = append(last, i)
			}
		}
		start = end
	}
	return added
}

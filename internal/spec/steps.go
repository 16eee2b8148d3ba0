package spec

import (
	"fmt"
	"reflect"

	"github.com/backstay-dev/backstay"
)

// stepKeys are the keys that every kind of step has.
type stepKeys struct {
	Name        string             `yaml:"name" doc:"What the step is called in plans, needs and overlays. Default: its kind and a number, such as run-2." example:"warm-cache" format:"name"`
	Needs       raw                `yaml:"needs" doc:"Names of steps above that must be done first. Default: the step (or all of the parallel group) before this one; [] means none of the same stage." example:"[migrate]"`
	Timeout     *backstay.Duration `yaml:"timeout" doc:"How long doing the step may take, retries included." example:"2m"`
	UndoTimeout *backstay.Duration `yaml:"undo-timeout" doc:"How long undoing the step may take." example:"2m"`
	Retries     *int               `yaml:"retries" doc:"How often a transient error is tried again, 0 to 100." example:"3"`
}

// checkKeys are the keys that every kind of check has.
type checkKeys struct {
	Name    string             `yaml:"name" doc:"What the check is called. Default: its kind and a number, such as http-1." example:"smoke" format:"name"`
	Within  *backstay.Duration `yaml:"within" doc:"How long the check may fail before it counts. Default: it is asked once." example:"30s"`
	Every   *backstay.Duration `yaml:"every" doc:"How long to wait before asking again. Default: 1s." example:"2s"`
	Timeout *backstay.Duration `yaml:"timeout" doc:"How long one answer may take." example:"5s"`
}

// stageKeys are the keys of a stage in the list of steps.
type stageKeys struct {
	Stage    string       `yaml:"stage" required:"true" doc:"The stage's name: a boundary with its own rollback deadline. The next stage begins when all of it is done." example:"data" format:"name"`
	Steps    raw          `yaml:"steps" required:"true" doc:"The steps of the stage." example:"[{run: ./migrate.sh, undo: ./migrate-back.sh}]"`
	Rollback rollbackKeys `yaml:"rollback" doc:"The stage's own rollback."`
}

// groupKeys are the keys of a parallel group in the list of steps.
type groupKeys struct {
	Parallel raw `yaml:"parallel" required:"true" doc:"Steps that may be done at the same time. The next step waits for all of them." example:"[{run: ./a.sh, undo: ./a-back.sh}, {run: ./b.sh, undo: ./b-back.sh}]"`
}

// stepReader walks the list of steps. Segments are what stage boundaries cut
// the list into: each stage, and each run of steps between stages.
type stepReader struct {
	d       *decoder
	kinds   Kinds
	names   []string
	spec    *Spec
	pending []pendingStep
	count   map[string]int
	stages  map[string]*node
	segment int
}

// pendingStep is a step whose needs are not resolved yet.
type pendingStep struct {
	Step
	node    *node
	nameAt  *node
	path    string
	segment int
	before  []int // default needs: indexes of the items before it
	needs   *node // explicit needs
}

func readSteps(d *decoder, kinds Kinds, spec *Spec, n *node) {
	r := newStepReader(d, kinds, spec)
	r.section(n, "steps", "")
	if len(r.pending) > maxSteps {
		d.ps.add(n, "steps", fmt.Sprintf("more than %d steps", maxSteps), "split the release")
		return
	}
	spec.Steps = resolveNeeds(d.ps, r.pending)
}

func newStepReader(d *decoder, kinds Kinds, spec *Spec) *stepReader {
	return &stepReader{d: d, kinds: kinds, names: kinds.Names(), spec: spec, count: map[string]int{}, stages: map[string]*node{}}
}

// section reads a whole list: of the file (stage ""), or what is one stage.
func (r *stepReader) section(n *node, path, stage string) {
	if n.shape != sequence {
		if n.shape != void {
			r.d.mismatch(n, path, "a list", "begin each step with '- '")
		}
		return
	}
	if stage != "" {
		r.stages[stage] = n
		r.spec.Stages = append(r.spec.Stages, Stage{Name: stage})
		r.segment++
	}
	r.list(n, path, stage)
	if stage != "" {
		r.segment++
	}
}

// list reads the steps of the file (stage "") or of one stage.
func (r *stepReader) list(n *node, path, stage string) {
	var before []int
	for i, item := range n.items {
		p := at(path, i)
		switch {
		case item.shape == void:
		case item.shape != mapping:
			r.d.mismatch(item, p, "a step", "a step is a mapping such as: run: ./script.sh")
		case item.get("stage") != nil || item.get("steps") != nil:
			if stage != "" {
				r.d.ps.add(item, p, "a stage cannot hold a stage", "move it out; stages follow one another")
				continue
			}
			r.stage(item, p)
			before = nil
		case item.get("parallel") != nil:
			before = r.group(item, p, stage, before)
		default:
			if i, ok := r.step(item, p, stage, before); ok {
				before = []int{i}
			}
		}
	}
}

func (r *stepReader) stage(n *node, path string) {
	var keys stageKeys
	r.d.structure(n, reflect.ValueOf(&keys).Elem(), path, others{})
	if first := r.stages[keys.Stage]; first != nil {
		r.d.ps.add(n.get("stage"), path+".stage", fmt.Sprintf("the stage %s is already on line %d", quote(keys.Stage), first.line), "rename one of them")
	} else if keys.Stage != "" {
		r.stages[keys.Stage] = n
		r.spec.Stages = append(r.spec.Stages, Stage{keys.Stage, r.d.positive(keys.Rollback.Within, n.get("rollback"), path+".rollback", "within")})
	}
	if keys.Steps.node == nil {
		return
	}
	if keys.Steps.node.shape != sequence {
		r.d.mismatch(keys.Steps.node, path+".steps", "a list", "begin each step with '- '")
		return
	}
	r.segment++
	r.list(keys.Steps.node, path+".steps", keys.Stage)
	r.segment++
}

// group reads a parallel group and returns what the next item needs.
func (r *stepReader) group(n *node, path, stage string, before []int) []int {
	var keys groupKeys
	r.d.structure(n, reflect.ValueOf(&keys).Elem(), path, others{})
	path += ".parallel"
	list := keys.Parallel.node
	if list == nil {
		return before
	}
	if list.shape != sequence {
		r.d.mismatch(list, path, "a list", "begin each step with '- '")
		return before
	}
	var members []int
	for i, item := range list.items {
		p := at(path, i)
		switch {
		case item.shape == void:
		case item.shape != mapping:
			r.d.mismatch(item, p, "a step", "a step is a mapping such as: run: ./script.sh")
		case item.get("parallel") != nil || item.get("stage") != nil || item.get("steps") != nil:
			r.d.ps.add(item, p, "a parallel group holds steps only", "move the group or stage out; use needs for other orders")
		default:
			if i, ok := r.step(item, p, stage, before); ok {
				members = append(members, i)
			}
		}
	}
	if len(members) == 0 {
		return before
	}
	return members
}

// step reads one step and returns its index.
func (r *stepReader) step(n *node, path, stage string, before []int) (int, bool) {
	var keys stepKeys
	common := r.d.fields(reflect.TypeFor[stepKeys]())
	kind, ok := r.d.kindOf(n, path, "step", r.names, common, r.kinds.Config)
	r.d.commonKeys(n, reflect.ValueOf(&keys).Elem(), path)
	if !ok {
		return 0, false
	}
	r.count[kind]++
	s := pendingStep{node: n, nameAt: n, path: path, segment: r.segment, before: before, needs: keys.Needs.node}
	s.ID, s.Kind, s.Stage, s.Line, s.Column = keys.Name, kind, stage, n.line, n.column
	if s.ID == "" {
		s.ID = fmt.Sprintf("%s-%d", kind, r.count[kind])
	} else {
		s.nameAt = n.get("name")
	}
	s.Timeout = r.d.positive(keys.Timeout, n, path, "timeout")
	s.UndoTimeout = r.d.positive(keys.UndoTimeout, n, path, "undo-timeout")
	if s.Retries = keys.Retries; s.Retries != nil && (*s.Retries < 0 || *s.Retries > 100) {
		r.d.ps.add(n.get("retries"), path+".retries", "want 0 to 100", "")
	}
	config, _ := r.kinds.Config(kind)
	s.Config = r.d.config(n, path, kind, config, common)
	if v, ok := config.(Validator); ok && s.Config != nil {
		for _, p := range v.SpecProblems() {
			r.d.ps.add(n.below(p.Path), join(path, p.Path), p.Message, p.Hint)
		}
	}
	if kind == ReleaseKind && r.d.err == nil {
		if r.d.release(n, path, config); s.Config != nil {
			s.Config = backstay.Canonical(config)
		}
	}
	r.pending = append(r.pending, s)
	return len(r.pending) - 1, true
}

// kindOf finds the one key of a step or check that names its kind.
func (d *decoder) kindOf(n *node, path, what string, kinds []string, common *fields, config func(string) (any, bool)) (string, bool) {
	isKind := make(map[string]bool, len(kinds))
	for _, k := range kinds {
		isKind[k] = true
	}
	var found []*node
	for _, p := range n.pairs {
		if isKind[p.key.text] {
			found = append(found, p.key)
		}
	}
	if len(found) > 1 {
		// The kind is the one whose own keys are the other kinds' names.
		var whole []*node
		for _, k := range found {
			c, _ := config(k.text)
			t := entryType(c)
			all := d.isFlat(t, k.text)
			for _, other := range found {
				all = all && d.isFlat(t, other.text)
			}
			if all {
				whole = append(whole, k)
			}
		}
		if len(whole) == 1 {
			found = whole
		}
	}
	hint := "a " + what + " has exactly one of the keys: " + list(kinds)
	switch {
	case len(found) == 1:
		return found[0].text, true
	case len(found) > 1:
		d.ps.add(found[1], path, fmt.Sprintf("this %s has two kinds, %s and %s", what, quote(found[0].text), quote(found[1].text)), "make two of it")
		return "", false
	}
	for _, p := range n.pairs {
		if _, is := common.get(p.key.text); is {
			continue
		}
		if near := d.ps.suggest(p.key.text, kinds); near != "" || len(n.pairs) == 1 {
			d.ps.add(p.key, join(path, p.key.text), "no kind of "+what+" is called "+quote(p.key.text), orHint(near, hint))
			return "", false
		}
	}
	d.ps.add(n, path, "this "+what+" has no kind", hint)
	return "", false
}

// commonKeys decodes the keys that all steps (or checks) share and leaves the
// others alone.
func (d *decoder) commonKeys(n *node, v reflect.Value, path string) {
	d.structure(n, v, path, others{any: true})
}

// config decodes the kind's own keys and returns their canonical JSON.
func (d *decoder) config(n *node, path, kind string, config any, common *fields) []byte {
	v := reflect.ValueOf(config)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		d.broken(fmt.Errorf("kind %s: a config must be a pointer to a struct, not %T", kind, config))
		return nil
	}
	before := len(d.ps.list) + d.ps.more
	if d.isFlat(v.Type().Elem(), kind) {
		d.structure(n, v.Elem(), path, others{names: common.names})
	} else {
		d.nested(n, v.Elem(), path, kind, common)
	}
	if len(d.ps.list)+d.ps.more > before || d.err != nil {
		return nil
	}
	return backstay.Canonical(config)
}

// isFlat tells the two forms of a kind's config apart: the keys beside one
// another in the step, the kind's name among them (run: …, undo: …), or all
// below the kind's name (file: {path: …}), where the struct has no such key.
func (d *decoder) isFlat(t reflect.Type, kind string) bool {
	if customOf(t) != byReflection {
		return false
	}
	_, ok := d.fields(t).get(kind)
	return ok
}

func (d *decoder) nested(n *node, v reflect.Value, path, kind string, common *fields) {
	names := append([]string{kind}, common.names...)
	for _, p := range n.pairs {
		key := p.key.text
		if key == kind {
			d.value(p.value, v, join(path, key), nil)
		} else if _, shared := common.get(key); !shared {
			d.ps.add(p.key, join(path, key), "unknown key "+quote(key), orHint(d.ps.suggest(key, names), "the keys here are: "+list(names)))
		}
	}
}

// positive returns a duration that, where it is given, must not be zero.
func (d *decoder) positive(v *backstay.Duration, n *node, path, key string) backstay.Duration {
	if v == nil {
		return 0
	}
	if value := n.get(key); *v == 0 && value != nil && value.shape == scalar && isDuration(value.text) {
		d.ps.add(value, join(path, key), "must be more than 0s", "remove the key for the default")
	}
	return *v
}

// isDuration tells a zero that was meant from a text that could not be read.
func isDuration(s string) bool {
	_, err := backstay.ParseDuration(s)
	return err == nil
}

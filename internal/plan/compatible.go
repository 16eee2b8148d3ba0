package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/backstay-dev/backstay"
)

// Standing is what the ledger says of schemas and the versions that use them. Where
// a deployment is not settled, both what it brings and what was before it stand.
type Standing struct {
	Ranges []Range
	Live   map[string][]Live // by release: what may be running
}

// Range is what the newest step on a schema says of who can use it.
type Range struct {
	Key        backstay.Key
	For        map[string]string // by release: its range
	Deployment string            // as people call it
	Step       string
}

// Live is a version of a release that may be running, and what brought it.
type Live struct {
	Version    string
	Deployment string
}

// Versioned reports whether the plan brings its release's version: not one that
// takes another back, restores drift, or mitigates.
func (p *Plan) Versioned() bool {
	return p.Reverts == "" && p.Mitigation == nil && slices.ContainsFunc(p.Steps, func(s backstay.Step) bool { return s.Reverts == nil })
}

// Brings reports whether its release's version runs after the plan: it is brought by
// what acts on something else than databases.
func (p *Plan) Brings() bool { return p.Versioned() && len(p.movers()) > 0 }

// outside says why a version is not in a range of a release; empty where it is. A
// version ahead of a release (2.0.0-rc.1) counts as that release.
func outside(release, version, text string) string {
	c, err := semver.NewConstraint(text)
	if err != nil {
		return fmt.Sprintf("%q is not a range of versions of %s", text, release)
	}
	if strings.TrimSpace(version) == "" {
		return fmt.Sprintf("%s has no version, so nothing tells whether it is in %s", release, text)
	}
	v, err := semver.NewVersion(strings.TrimSpace(version))
	if err != nil {
		return fmt.Sprintf("version %q of %s is no number such as 2, 2.1 or 2.1.3, so nothing tells whether it is in %s", version, release, text)
	}
	bare := semver.New(v.Major(), v.Minor(), v.Patch(), "", "")
	if !c.Check(bare) {
		return fmt.Sprintf("version %s of %s is outside of %s", version, release, text)
	}
	return ""
}

// Incompatible lists what the plan would leave on a schema that it cannot use.
func (p *Plan) Incompatible(s Standing) []backstay.Problem {
	if p.Reverts != "" {
		return p.revertsInto(s)
	}
	own := p.schemas()
	var problems []backstay.Problem
	if p.Versioned() {
		problems = p.versionOn(s, own)
	}
	for _, m := range own {
		problems = append(problems, p.liveOn(s, m)...)
	}
	return problems
}

// schema is a step that decides a schema, and where it stands among the steps that
// bring the plan's own version.
type schema struct {
	step backstay.Step
	last bool // all of those are done before it
	// first says that none of those is done before it.
	first bool
}

func (m schema) key() backstay.Key {
	if len(m.step.Keys) == 0 {
		return ""
	}
	return m.step.Keys[0]
}

// schemas are the plan's steps that decide a schema.
func (p *Plan) schemas() (all []schema) {
	movers := p.movers()
	reach := reachability(p.Steps)
	for i, s := range p.Steps {
		if s.Schema == nil || s.Reverts != nil {
			continue
		}
		m := schema{step: s, last: len(movers) > 0, first: true}
		for _, j := range movers {
			m.last = m.last && j < i && reach[i].has(j)
			m.first = m.first && j > i && reach[j].has(i)
		}
		all = append(all, m)
	}
	return all
}

// movers are the positions of the steps that bring the version: those on services;
// where there are none, all that act on anything but a database.
func (p *Plan) movers() (services []int) {
	var others []int
	for i, s := range p.Steps {
		switch {
		case s.Waits() || s.Kind == snapshotKind || slices.ContainsFunc(s.Keys, func(k backstay.Key) bool { return k.Kind() == backstay.SchemaKind }):
		case s.Kind == serviceKind:
			services = append(services, i)
		default:
			others = append(others, i)
		}
	}
	if len(services) > 0 {
		return services
	}
	return others
}

// versionOn checks the plan's own version: on the schemas as they are, but for those
// that the plan changes before it brings the version, and on those that it makes.
func (p *Plan) versionOn(s Standing, own []schema) (problems []backstay.Problem) {
	for _, r := range s.Ranges {
		text, named := r.For[p.Release]
		replaced := slices.ContainsFunc(own, func(m schema) bool { return m.first && m.key() == r.Key })
		if !named || replaced {
			continue
		}
		if why := outside(p.Release, p.Version, text); why != "" {
			problems = append(problems, backstay.Problem{
				Path: "version", Message: fmt.Sprintf("%s: that is who can use %s since step %s of %s", why, r.Key, r.Step, r.Deployment),
				Hint: fmt.Sprintf("deploy a version in that range; or take the schema back first, with `backstay rollback %s`; or put a migrate step before it that makes the schema fit", r.Deployment),
			})
		}
	}
	for _, m := range own {
		text, named := m.step.Schema.For[p.Release]
		if !named {
			continue
		}
		if why := outside(p.Release, p.Version, text); why != "" {
			problems = append(problems, backstay.Problem{
				Path: m.step.ID, Message: fmt.Sprintf("%s: the version of this plan could not use the schema after this step", why),
				Hint: "deploy a version in that range, or change `compatible` if it can use the schema",
			})
		}
	}
	return problems
}

// liveOn checks what runs when a step changes a schema.
func (p *Plan) liveOn(s Standing, m schema) (problems []backstay.Problem) {
	for _, release := range slices.Sorted(maps.Keys(m.step.Schema.For)) {
		text := m.step.Schema.For[release]
		if release == p.Release && m.last && p.Versioned() {
			continue // by then this plan's own version runs
		}
		for _, live := range s.Live[release] {
			why := outside(release, live.Version, text)
			if why == "" {
				continue
			}
			hint := "first release a version of " + release + " in that range that can use the schema as it is now"
			if release == p.Release {
				hint += "; or put this step behind the service steps of this plan, where its version can"
			}
			problems = append(problems, backstay.Problem{
				Path: m.step.ID, Message: fmt.Sprintf("%s, and it is live (%s): it could not use %s after this step", why, live.Deployment, m.key()),
				Hint: hint + "; or change `compatible` if it can use the new one",
			})
		}
	}
	return problems
}

// revertsInto checks a plan that takes a deployment back: s is what stands without
// that one.
func (p *Plan) revertsInto(s Standing) (problems []backstay.Problem) {
	step := map[backstay.Key]string{}
	for _, st := range p.Steps {
		for _, k := range st.Keys {
			if step[k] == "" {
				step[k] = st.ID
			}
		}
	}
	for _, r := range s.Ranges {
		at, touched := step[r.Key]
		for _, release := range slices.Sorted(maps.Keys(r.For)) {
			if !touched && release != p.Release {
				continue
			}
			for _, live := range s.Live[release] {
				why := outside(release, live.Version, r.For[release])
				if why == "" {
					continue
				}
				said := fmt.Sprintf("%s, and it would be live (%s): that is who can use %s since step %s of %s", why, live.Deployment, r.Key, r.Step, r.Deployment)
				hint := fmt.Sprintf("take the schema back first, with `backstay rollback %s`; or deploy a version in that range forward", r.Deployment)
				if touched {
					hint = fmt.Sprintf("first bring %s to a version in that range, by a rollback or a deployment of it; or leave the schema as it is", release)
				}
				problems = append(problems, backstay.Problem{Path: at, Message: said, Hint: hint})
			}
		}
	}
	return problems
}

// compatible adds what the plan would leave on a schema that it cannot use to the
// problems, and notes which versions of its own release must not come back while a
// schema of it stays.
func (b *builder) compatible(p *Plan) {
	for _, problem := range p.Incompatible(b.seen.Standing) {
		b.problem(problem.Path, problem.Hint, "%s", problem.Message)
	}
	for _, m := range p.schemas() {
		text, named := m.step.Schema.For[p.Release]
		if !named || m.first {
			continue
		}
		for _, live := range b.seen.Standing.Live[p.Release] {
			step := &p.Steps[m.step.Seq-1]
			if outside(p.Release, live.Version, text) != "" && !slices.Contains(step.Excludes, live.Version) {
				step.Excludes = append(step.Excludes, live.Version)
			}
		}
	}
}

// ExcludesAfter reports whether a step that needs the named one, at any remove,
// changes a schema so that what the named one brought could not go back under it.
func (p *Plan) ExcludesAfter(id string) bool {
	at := slices.IndexFunc(p.Steps, func(s backstay.Step) bool { return s.ID == id })
	if at < 0 || !slices.ContainsFunc(p.Steps, func(s backstay.Step) bool { return len(s.Excludes) > 0 }) {
		return false
	}
	for i, reach := range reachability(p.Steps) {
		if len(p.Steps[i].Excludes) > 0 && reach.has(at) {
			return true
		}
	}
	return false
}

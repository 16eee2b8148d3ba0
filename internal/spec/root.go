package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// The defaults, in one place.
const (
	defaultCheckEvery   = backstay.Duration(time.Second)
	defaultBakeEvery    = backstay.Duration(5 * time.Second)
	defaultBakeFailures = 3
)

// devEnvironment is the one environment that may ship artifacts without a digest.
const devEnvironment = "dev"

// rootKeys are the top-level keys that are not a kind's.
type rootKeys struct {
	Backstay    string                  `yaml:"backstay" required:"true" enum:"v1" doc:"Version of the file format." example:"v1"`
	Release     string                  `yaml:"release" required:"true" format:"name" doc:"Name of what is released." example:"shop"`
	Version     string                  `yaml:"version" doc:"Label of this release for people." example:"${VERSION}"`
	Owner       string                  `yaml:"owner" doc:"Who answers for it." example:"team-checkout"`
	Environment string                  `yaml:"environment" format:"name" doc:"The environment where -e names none. In dev, artifacts need no digest." example:"dev"`
	Inputs      map[string]InputDecl    `yaml:"inputs" format:"input" doc:"The values that come from outside, used as ${NAME}. They are recorded; none has a default."`
	Artifacts   map[string]ArtifactDecl `yaml:"artifacts" format:"name" doc:"Files that the release ships, by name."`
	Gates       raw                     `yaml:"gates" doc:"Checks that gates ask, by name, before a release goes on." example:"{smoke: {http: \"http://127.0.0.1:8080/healthz\", for: 30s}}"`
	Steps       raw                     `yaml:"steps" required:"true" doc:"What to do, in order. Each step is undone if a later one fails." example:"[{run: ./deploy.sh, undo: ./undeploy.sh}]"`
	Verify      raw                     `yaml:"verify" doc:"Checks after the last step. One that fails rolls everything back." example:"[{run: ./smoke.sh}]"`
	Mitigations raw                     `yaml:"mitigations" doc:"Small plans for an emergency, by name, written and approved ahead (backstay mitigate)." example:"{checkout-off: {for: orders fail, at-once: it is one flag, steps: [{flag: {key: new-checkout, turn: \"off\"}}]}}"`
	Bake        bakeValue               `yaml:"bake" doc:"How long to keep watching the verify checks after the commit before the release counts as proven." example:"30m"`
	Rollback    rollbackKeys            `yaml:"rollback" doc:"Bounds of a rollback."`
	Policy      Policy                  `yaml:"policy" doc:"What is demanded of the people around a deployment."`
}

type rollbackKeys struct {
	Within *backstay.Duration `yaml:"within" json:"within" doc:"How long the undo of everything done may take. Going forward is refused where it would take longer." example:"60s"`
}

// bakeKeys is the long form of bake.
type bakeKeys struct {
	For      *backstay.Duration `yaml:"for" json:"for" required:"true" doc:"How long to watch." example:"30m"`
	Every    *backstay.Duration `yaml:"every" json:"every" doc:"How often to ask. Default: 5s." example:"5s"`
	Failures *int               `yaml:"failures" json:"failures" doc:"How many failures of one check in a row end the bake and roll back. Default: 3." example:"3"`
}

// bakeValue is a duration, or bakeKeys.
type bakeValue struct{ bakeKeys }

func (b *bakeValue) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &b.For)
	}
	return json.Unmarshal(data, &b.bakeKeys)
}

// SpecShape says that bake is written in two ways.
func (bakeValue) SpecShape() []string { return []string{"duration", "mapping"} }

// SpecFields describes the long form.
func (bakeValue) SpecFields() any { return &bakeKeys{} }

var (
	_ Shaper  = bakeValue{}
	_ Fielder = bakeValue{}
)

// build decodes a merged tree into a Spec.
func build(root *node, in *inputs, src Source, kinds Kinds, ps *problems) (*Spec, error) {
	d := newDecoder(ps)
	if root.shape != mapping {
		if root.shape != void {
			d.mismatch(root, "", "a mapping", "run `backstay init` for a first file")
		}
		return nil, ps.err()
	}
	root = d.inputs(root, in)
	in.fill(root, "")
	checkSecrets(ps, root, "", map[*node]bool{})

	spec := &Spec{Format: Format, Environment: src.Environment}
	var keys rootKeys
	d.structure(root, reflect.ValueOf(&keys).Elem(), "", others{any: true})
	d.sections(root, kinds, spec)
	spec.Release, spec.Version, spec.Owner = keys.Release, keys.Version, keys.Owner
	if spec.Environment == "" {
		spec.Environment = keys.Environment
	}
	spec.Policy = keys.Policy
	d.require(root.get("policy"), keys.Policy.Require)
	spec.Artifacts = d.artifacts(root.get("artifacts"), keys.Artifacts, spec.Environment)
	d.label(root.get("owner"), "owner", badLabel)
	d.label(root.get("version"), "version", badVersion)
	if keys.Steps.node != nil {
		readSteps(d, kinds, spec, keys.Steps.node)
	}
	if keys.Gates.node != nil {
		spec.Gates = d.gates(keys.Gates.node, kinds)
	}
	if keys.Verify.node != nil {
		spec.Verify = d.checks(keys.Verify.node, "verify", kinds)
	}
	if keys.Mitigations.node != nil {
		spec.Mitigations = d.mitigations(keys.Mitigations.node, kinds)
	}
	spec.Rollback.Within = d.positive(keys.Rollback.Within, root.get("rollback"), "rollback", "within")
	spec.Bake = d.bake(root.get("bake"), keys.Bake.bakeKeys)
	d.resolveRefs(root)
	spec.Inputs = in.finish()
	if d.err != nil {
		return nil, fmt.Errorf("read the config types of the step kinds: %w", d.err)
	}
	if err := ps.err(); err != nil {
		return nil, err
	}
	merged, err := mergedYAML(root)
	if err != nil {
		return nil, err
	}
	spec.Merged = merged
	spec.Digest = backstay.DigestJSON(spec)
	return spec, nil
}

// inputs reads the inputs section and returns the root without it: what it
// says is not itself subject to ${NAME}.
func (d *decoder) inputs(root *node, in *inputs) *node {
	rest := *root
	rest.pairs = nil
	for _, p := range root.pairs {
		if p.key.text != "inputs" {
			rest.pairs = append(rest.pairs, p)
			continue
		}
		decl := map[string]InputDecl{}
		d.value(p.value, reflect.ValueOf(&decl).Elem(), "inputs", &field{format: "input"})
		in.declare(p.value, decl)
	}
	return &rest
}

// sections decodes the kinds' top-level sections and reports unknown keys.
func (d *decoder) sections(root *node, kinds Kinds, spec *Spec) {
	own := d.fields(reflect.TypeFor[rootKeys]())
	sections := kinds.Sections()
	all := append(slices.Clone(own.names), slices.Sorted(maps.Keys(sections))...)
	for _, p := range root.pairs {
		name := p.key.text
		if _, mine := own.get(name); mine {
			continue
		}
		entry, ok := sections[name]
		if !ok {
			d.ps.add(p.key, join("", name), "unknown key "+quote(name), orHint(d.ps.suggest(name, all), "the keys here are: "+list(all)))
			continue
		}
		t := reflect.TypeOf(entry)
		if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			d.broken(fmt.Errorf("section %s: an entry must be a pointer to a struct, not %T", name, entry))
			continue
		}
		m := reflect.New(reflect.MapOf(reflect.TypeFor[string](), t.Elem())).Elem()
		before := len(d.ps.list)
		d.value(p.value, m, name, &field{format: "name"})
		if len(d.ps.list) > before || d.err != nil || p.value.shape == void {
			continue
		}
		if spec.Sections == nil {
			spec.Sections = map[string]json.RawMessage{}
		}
		spec.Sections[name] = backstay.Canonical(m.Interface())
	}
}

// artifacts checks digests and writes them in lower case.
func (d *decoder) artifacts(n *node, decl map[string]ArtifactDecl, environment string) map[string]ArtifactDecl {
	if n == nil || n.shape != mapping {
		return decl
	}
	for _, p := range n.pairs {
		name, entry := p.key.text, p.value
		a, path := decl[name], join("artifacts", name)
		if entry.shape != mapping {
			continue
		}
		digest := entry.get("sha256")
		switch {
		case digest == nil && environment != devEnvironment:
			d.ps.add(entry, path, `the key "sha256" is missing`, "run sha256sum on the file and pin the digest; only the environment dev may go without")
		case digest != nil && digest.shape == scalar && !isSHA256(a.SHA256):
			hint := "run sha256sum on the file"
			if strings.Contains(a.SHA256, ":") {
				hint = "write the digest alone, without what stands before the colon"
			}
			d.ps.add(digest, path+".sha256", "want 64 hexadecimal digits", hint)
		}
		a.SHA256 = strings.ToLower(a.SHA256)
		decl[name] = a
	}
	return decl
}

func isSHA256(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'f') && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return len(s) == 64
}

// label checks a line of text for people.
func (d *decoder) label(n *node, path string, bad func(string) string) {
	if n == nil || n.shape != scalar {
		return
	}
	if message := bad(n.text); message != "" {
		d.ps.add(n, path, quote(n.text)+" "+message, "")
	}
}

// badVersion says what is wrong with a version. It may stand in file names.
func badVersion(s string) string {
	for i := range len(s) {
		c := rune(s[i])
		word := isWord(c) && c != '_'
		if !word && (i == 0 || !strings.ContainsRune("._+~-", c)) {
			return "is not a version: it begins with a letter or digit and holds letters, digits and . _ + ~ -"
		}
	}
	if s == "" {
		return "is not a version: remove the key or give a value"
	}
	return badLabel(s)
}

// require checks what evidence is demanded.
func (d *decoder) require(policy *node, r *Require) {
	if r == nil || r.Drill == nil || policy == nil || policy.shape != mapping {
		return
	}
	const path = "policy.require.drill"
	n := policy.get("require").get("drill")
	if at := n.get("max-age"); at != nil && at.shape == scalar && isDuration(at.text) && r.Drill.MaxAge == 0 {
		d.ps.add(at, path+".max-age", "must be more than 0s", "14d is as long as a drill is evidence")
	}
	if at := n.get("failed"); r.Drill.Failed < 0 {
		d.ps.add(at, path+".failed", "must not be negative", "0 allows none")
	}
}

func (d *decoder) bake(n *node, keys bakeKeys) Bake {
	b := Bake{Every: defaultBakeEvery, Failures: defaultBakeFailures}
	if keys.For != nil {
		b.For = *keys.For
	}
	if keys.Every != nil {
		b.Every = d.positive(keys.Every, n, "bake", "every")
	}
	if keys.Failures != nil {
		b.Failures = *keys.Failures
		if b.Failures < 1 || b.Failures > 1000 {
			d.ps.add(n.get("failures"), "bake.failures", "want 1 to 1000", "")
		}
	}
	return b
}

// checks reads a verify list.
func (d *decoder) checks(n *node, list string, kinds Kinds) []Check {
	if n.shape != sequence {
		if n.shape != void {
			d.mismatch(n, list, "a list", "begin each check with '- '")
		}
		return nil
	}
	if len(n.items) > maxSteps {
		d.ps.add(n, list, fmt.Sprintf("more than %d checks", maxSteps), "")
		return nil
	}
	names, count, lines := kinds.CheckNames(), map[string]int{}, map[string]int{}
	common := d.fields(reflect.TypeFor[checkKeys]())
	var checks []Check
	for i, item := range n.items {
		path := at(list, i)
		if item.shape != mapping {
			if item.shape != void {
				d.mismatch(item, path, "a check", "a check is a mapping such as: run: ./smoke.sh")
			}
			continue
		}
		var keys checkKeys
		kind, ok := d.kindOf(item, path, "check", names, common, kinds.CheckConfig)
		d.commonKeys(item, reflect.ValueOf(&keys).Elem(), path)
		if !ok {
			continue
		}
		count[kind]++
		c := Check{ID: keys.Name, Kind: kind, Every: defaultCheckEvery, Line: item.line, Column: item.column}
		nameAt := item.get("name")
		if c.ID == "" {
			c.ID, nameAt = fmt.Sprintf("%s-%d", kind, count[kind]), item
		}
		if first, twice := lines[c.ID]; twice {
			d.ps.add(nameAt, path+".name", fmt.Sprintf("the check name %s is already used on line %d", quote(c.ID), first), "rename one of them")
		}
		lines[c.ID] = item.line
		c.Within = d.positive(keys.Within, item, path, "within")
		c.Timeout = d.positive(keys.Timeout, item, path, "timeout")
		if every := d.positive(keys.Every, item, path, "every"); every > 0 {
			c.Every = every
		}
		config, _ := kinds.CheckConfig(kind)
		c.Config = d.config(item, path, kind, config, common)
		checks = append(checks, c)
	}
	return checks
}

// resolveRefs checks what must name an entry of a section.
func (d *decoder) resolveRefs(root *node) {
	known := map[string]map[string]bool{}
	for _, ref := range d.refs {
		section := root.get(ref.section)
		var names []string
		hint := "the file has no section " + ref.section + ":"
		if section != nil && section.shape == mapping {
			if known[ref.section] == nil {
				known[ref.section] = section.set()
			}
			if known[ref.section][ref.node.text] {
				continue
			}
			if len(d.ps.list) < maxProblems {
				names = section.keys()
			}
			hint = ref.section + " has: " + list(names)
		}
		d.ps.add(ref.node, ref.path, "no entry "+quote(ref.node.text)+" in "+ref.section, orHint(d.ps.suggest(ref.node.text, names), hint))
	}
}

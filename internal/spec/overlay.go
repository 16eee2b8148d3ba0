package spec

// merge lays over on top of base: mappings merge by key, `steps` patches steps
// by name, everything else replaces. Neither tree is changed; nodes keep the
// places they came from.
func merge(base, over *node, ps *problems) *node {
	if base.shape != mapping || over.shape != mapping {
		if over.shape != mapping {
			ps.add(over, "", "want a mapping, not "+over.String(), "an overlay holds the keys of backstay.yaml that differ")
			return base
		}
		return over
	}
	rest := *over
	rest.pairs = nil
	var steps *node
	for _, p := range over.pairs {
		switch p.key.text {
		case "steps":
			steps = p.value
		case "environment":
			ps.add(p.key, "environment", "an overlay cannot choose the environment", "its file name does; remove the key")
		default:
			rest.pairs = append(rest.pairs, p)
		}
	}
	merged := overlay(base, &rest)
	if steps == nil {
		return merged
	}
	for i, p := range merged.pairs {
		if p.key.text == "steps" {
			merged.pairs[i].value = patchSteps(p.value, steps, ps)
		}
	}
	return merged
}

func overlay(base, over *node) *node {
	if base.shape != mapping || over.shape != mapping {
		return over
	}
	merged := *base
	merged.pairs = append([]pair(nil), base.pairs...)
	place := make(map[string]int, len(merged.pairs))
	for i, p := range merged.pairs {
		place[p.key.text] = i
	}
	for _, p := range over.pairs {
		if i, ok := place[p.key.text]; ok {
			merged.pairs[i] = pair{p.key, overlay(merged.pairs[i].value, p.value)}
		} else {
			merged.pairs = append(merged.pairs, p)
		}
	}
	return &merged
}

// patchSteps applies an overlay's list of named patches to the steps.
func patchSteps(base, over *node, ps *problems) *node {
	const hint = "an overlay's steps are changes to steps of backstay.yaml, each with its name"
	if over.shape == void {
		return base
	}
	if over.shape != sequence {
		ps.add(over, "steps", "want a list, not "+over.String(), hint)
		return base
	}
	patches := map[string]*node{}
	var order []*node
	for i, item := range over.items {
		path := at("steps", i)
		name := item.get("name")
		switch {
		case item.shape == void:
		case item.shape != mapping:
			ps.add(item, path, "want a mapping, not "+item.String(), hint)
		case name == nil || name.shape != scalar:
			ps.add(item, path, `the key "name" is missing`, hint)
		case patches[name.text] != nil:
			ps.add(name, join(path, "name"), "the step "+quote(name.text)+" is already changed above", "merge both entries")
		default:
			patches[name.text] = item
			order = append(order, name)
		}
	}
	p := patcher{patches: patches, used: map[string]bool{}}
	patched := p.apply(base)
	for i, name := range order {
		if !p.used[name.text] {
			ps.add(name, join(at("steps", i), "name"), "no step is named "+quote(name.text),
				orHint(ps.suggest(name.text, p.names), "an overlay can only change steps; the named ones are: "+list(p.names)))
		}
	}
	return patched
}

type patcher struct {
	patches map[string]*node
	used    map[string]bool
	names   []string
}

// apply rebuilds a list of steps, going into stages and parallel groups.
func (p *patcher) apply(steps *node) *node {
	if steps.shape != sequence {
		return steps
	}
	list := *steps
	list.items = make([]*node, len(steps.items))
	for i, item := range steps.items {
		list.items[i] = p.step(item)
	}
	return &list
}

func (p *patcher) step(item *node) *node {
	if item.shape != mapping {
		return item
	}
	if name := item.get("name"); name != nil && name.shape == scalar {
		p.names = append(p.names, name.text)
		if patch := p.patches[name.text]; patch != nil {
			p.used[name.text] = true
			return overlay(item, patch)
		}
		return item
	}
	group := *item
	group.pairs = append([]pair(nil), item.pairs...)
	for i, pr := range group.pairs {
		if pr.key.text == "steps" || pr.key.text == "parallel" {
			group.pairs[i].value = p.apply(pr.value)
		}
	}
	return &group
}

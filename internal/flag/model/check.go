package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Whole is all users in a rollout's weights: shares are thousandths of a percent.
const Whole = 100_000

// maxProblems bounds how many problems of one text are told.
const maxProblems = 100

// checker gathers what is wrong with a text.
type checker struct {
	src      Source
	problems []backstay.Problem
	warnings []Warning
	ops      map[string]func(string) error
}

func newChecker(src Source) *checker { return &checker{src: src, ops: operators()} }

func (c *checker) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	return &backstay.RefusedError{What: "flag", Problems: c.problems}
}

func (c *checker) problem(at int, path, message, hint string) backstay.Problem {
	line, column := place(c.src.Data, at)
	return backstay.Problem{File: c.src.File, Line: line, Column: column, Path: path, Message: message, Hint: hint}
}

func (c *checker) refuse(n *node, path, message, hint string) { c.refuseAt(n.at, path, message, hint) }

func (c *checker) refuseAt(at int, path, message, hint string) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, c.problem(at, path, message, hint))
	}
}

// doubt refuses what is odd, or warns of it where the text is another system's.
func (c *checker) doubt(at int, path, message, hint string) {
	switch {
	case !c.src.Imported:
		c.refuseAt(at, path, message, hint)
	case len(c.warnings) < maxProblems:
		c.warnings = append(c.warnings, c.problem(at, path, message, hint))
	}
}

// is refuses a value of another shape.
func (c *checker) is(n *node, want shape, path string) bool {
	if n.shape != want {
		c.refuse(n, path, fmt.Sprintf("is %s, want %s", n.shape, want), "")
	}
	return n.shape == want
}

// look checks one key of an object.
type look func(n *node, path string)

// object checks the keys of an object: each has a look, and the required ones
// are there. Null counts as left out.
func (c *checker) object(n *node, path string, looks map[string]look, required ...string) {
	if !c.is(n, object, path) {
		return
	}
	for _, p := range n.pairs {
		see, known := looks[p.name]
		switch {
		case !known:
			hint := "the keys here are: " + strings.Join(slices.Sorted(maps.Keys(looks)), ", ")
			c.doubt(p.at, join(path, p.name), "unknown key", hint)
		case p.node.shape != null && see != nil:
			see(p.node, join(path, p.name))
		}
	}
	for _, name := range required {
		if n.get(name) == nil {
			c.refuse(n, path, fmt.Sprintf("has no %s", name), "")
		}
	}
}

func (c *checker) shaped(want shape) look {
	return func(n *node, path string) { c.is(n, want, path) }
}

func (c *checker) list(each look) look {
	return func(n *node, path string) {
		if !c.is(n, list, path) {
			return
		}
		for i, item := range n.items {
			each(item, fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

// integer reads a whole number.
func (c *checker) integer(n *node, path string) (int64, bool) {
	if !c.is(n, number, path) {
		return 0, false
	}
	text, _ := n.value.(json.Number)
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		c.refuse(n, path, fmt.Sprintf("%s is not a whole number", text), "")
		return 0, false
	}
	return int64(f), true
}

// index checks the number of a variation.
func (c *checker) index(n *node, path string, variations int) {
	if n == nil {
		return
	}
	if i, ok := c.integer(n, path); ok && (i < 0 || i >= int64(variations)) {
		c.refuse(n, path, fmt.Sprintf("there is no variation %d: there are %d, counted from 0", i, variations), "")
	}
}

func (c *checker) indexOf(variations int) look {
	return func(n *node, path string) { c.index(n, path, variations) }
}

func (c *checker) count(n *node, path string) {
	if i, ok := c.integer(n, path); ok && i < 0 {
		c.refuse(n, path, "is negative", "")
	}
}

func (c *checker) flag(n *node, path string) {
	variations := 0
	if v := n.get("variations"); v != nil {
		variations = len(v.items)
		if v.shape == list && variations == 0 {
			c.refuse(v, join(path, "variations"), "is empty", "a flag has at least one variation")
		}
	}
	target := c.list(func(n *node, path string) {
		c.object(n, path, map[string]look{
			"contextKind": c.shaped(text), "values": c.list(c.shaped(text)), "variation": c.indexOf(variations),
		}, "variation")
	})
	c.object(n, path, map[string]look{
		"key": nil, "on": c.shaped(boolean), "salt": c.shaped(text), "version": c.count, "deleted": c.gone,
		"variations": c.list(c.variation), "offVariation": c.indexOf(variations),
		"targets": target, "contextTargets": target,
		"fallthrough": func(n *node, path string) { c.serve(n, path, variations, nil) },
		"rules": c.list(func(n *node, path string) {
			c.serve(n, path, variations, map[string]look{"id": c.shaped(text), "clauses": c.list(c.clause), "trackEvents": c.shaped(boolean)})
		}),
		"prerequisites": c.list(func(n *node, path string) {
			c.object(n, path, map[string]look{"key": c.shaped(text), "variation": func(n *node, path string) { c.integer(n, path) }}, "key", "variation")
		}),
		"clientSide": c.shaped(boolean), "clientSideAvailability": func(n *node, path string) {
			c.object(n, path, map[string]look{"usingMobileKey": c.shaped(boolean), "usingEnvironmentId": c.shaped(boolean)})
		},
		"trackEvents": c.shaped(boolean), "trackEventsFallthrough": c.shaped(boolean), "debugEventsUntilDate": c.shaped(number),
		"excludeFromSummaries": c.shaped(boolean), "samplingRatio": c.count,
		"migration": func(n *node, path string) { c.object(n, path, map[string]look{"checkRatio": c.count}) },
	}, "variations")
	if n.get("on") != nil && n.get("on").value == true && n.get("fallthrough") == nil {
		c.refuse(n, path, "is on and has no fallthrough", `add "fallthrough": {"variation": 0}`)
	}
}

// gone refuses a placeholder of a flag that was deleted elsewhere.
func (c *checker) gone(n *node, path string) {
	if c.is(n, boolean, path) && n.value == true {
		c.refuse(n, path, "is a placeholder of a deleted one", "take it out, or remove the flag with `backstay flag remove`")
	}
}

// variation: null is no value that a client could be given.
func (c *checker) variation(n *node, path string) {
	if n.shape == null {
		c.refuse(n, path, "is null", "a variation has a value; leave offVariation out to let programs use their own default")
	}
}

// serve checks what a fallthrough or a rule gives: one variation or a rollout.
func (c *checker) serve(n *node, path string, variations int, more map[string]look) {
	looks := map[string]look{"variation": c.indexOf(variations), "rollout": func(n *node, path string) { c.rollout(n, path, variations) }}
	maps.Copy(looks, more)
	c.object(n, path, looks)
	if n.shape == object && n.get("variation") == nil && n.get("rollout") == nil {
		c.refuse(n, path, "gives nothing: it has neither variation nor rollout", "")
	}
	if n.get("variation") != nil && n.get("rollout") != nil {
		c.doubt(n.at, path, "has both variation and rollout: the variation counts", "keep one of them")
	}
}

func (c *checker) rollout(n *node, path string, variations int) {
	var sum, entries int64
	weight := func(n *node, path string) {
		w, ok := c.integer(n, path)
		if ok && (w < 0 || w > Whole) {
			c.refuse(n, path, fmt.Sprintf("%d is not a weight: 0 to %d, in thousandths of a percent", w, Whole), "")
		}
		sum += w
	}
	c.object(n, path, map[string]look{
		"kind": func(n *node, path string) {
			if c.is(n, text, path) && n.value != "rollout" && n.value != "experiment" {
				c.refuse(n, path, fmt.Sprintf("%q is no kind of rollout", n.value), "rollout or experiment")
			}
		},
		"contextKind": c.shaped(text), "bucketBy": c.shaped(text), "seed": func(n *node, path string) { c.integer(n, path) },
		"variations": c.list(func(n *node, path string) {
			entries++
			c.object(n, path, map[string]look{"variation": c.indexOf(variations), "weight": weight, "untracked": c.shaped(boolean)}, "variation", "weight")
		}),
	}, "variations")
	switch v := n.get("variations"); {
	case v == nil:
	case entries == 0 && v.shape == list:
		c.refuse(v, join(path, "variations"), "is empty", "")
	case sum != Whole:
		c.doubt(v.at, join(path, "variations"), fmt.Sprintf("the weights are %d together, not %d", sum, Whole), "what is missing goes to the last one")
	}
}

// operators are those of LaunchDarkly's clauses, each with what it demands of
// its values.
func operators() map[string]func(v string) error {
	none := func(string) error { return nil }
	return map[string]func(string) error{
		"in": none, "endsWith": none, "startsWith": none, "contains": none,
		"lessThan": none, "lessThanOrEqual": none, "greaterThan": none, "greaterThanOrEqual": none,
		"before": none, "after": none, "semVerEqual": none, "semVerLessThan": none, "semVerGreaterThan": none, "segmentMatch": none,
		"matches": func(v string) error {
			_, err := regexp.Compile(v)
			return err //nolint:wrapcheck // says enough
		},
	}
}

func (c *checker) clause(n *node, path string) {
	var check func(string) error
	ops := c.ops
	c.object(n, path, map[string]look{
		"contextKind": c.shaped(text), "negate": c.shaped(boolean), "attribute": c.shaped(text), "values": nil,
		"op": func(n *node, path string) {
			if !c.is(n, text, path) {
				return
			}
			op, _ := n.value.(string)
			known := false
			if check, known = ops[op]; !known {
				c.refuse(n, path, fmt.Sprintf("there is no operator %q", op), "the operators are: "+strings.Join(slices.Sorted(maps.Keys(ops)), ", "))
			}
		},
	}, "op", "values")
	values := n.get("values")
	if values == nil || !c.is(values, list, path+".values") || check == nil {
		return
	}
	op := n.get("op").value
	if op != "segmentMatch" && n.get("attribute") == nil {
		c.refuse(n, path, "has no attribute", "")
	}
	for i, v := range values.items {
		at := fmt.Sprintf("%s.values[%d]", path, i)
		if op == "segmentMatch" || op == "matches" {
			c.is(v, text, at)
		}
		if s, ok := v.value.(string); ok {
			if err := check(s); err != nil {
				c.refuse(v, at, err.Error(), "")
			}
		}
	}
}

func (c *checker) segment(n *node, path string) {
	keys := c.list(c.shaped(text))
	targets := c.list(func(n *node, path string) {
		c.object(n, path, map[string]look{"contextKind": c.shaped(text), "values": keys})
	})
	c.object(n, path, map[string]look{
		"key": nil, "version": c.count, "deleted": c.gone, "salt": c.shaped(text), "generation": c.count,
		"included": keys, "excluded": keys, "includedContexts": targets, "excludedContexts": targets,
		"rules": c.list(func(n *node, path string) {
			c.object(n, path, map[string]look{
				"id": c.shaped(text), "clauses": c.list(c.clause), "weight": c.count, "bucketBy": c.shaped(text), "rolloutContextKind": c.shaped(text),
			})
		}),
		"unbounded": func(n *node, path string) {
			if c.is(n, boolean, path) && n.value == true {
				c.refuse(n, path, "is a big segment: its members are kept in a store of LaunchDarkly's", "list them in included")
			}
		},
		"unboundedContextKind": c.shaped(text),
	})
}

package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"

	"github.com/backstay-dev/backstay"
)

// Move is one notch of a flag's dial. Exactly one of its ways is set.
type Move struct {
	// Off turns the flag off: everybody gets its off variation.
	Off bool `json:"off,omitempty"`
	// On turns it on as it is: targets, rules and fallthrough count again.
	On bool `json:"on,omitempty"`
	// Share gives the variant to so many of those whom no target and no rule
	// matches, in thousandths of a percent, and turns the flag on.
	Share *int `json:"share,omitempty"`
	// Tester gives the variant to one user before anybody else sees it: the flag
	// is turned on, and everybody else keeps what they have.
	Tester string `json:"tester,omitempty"`
	// Variant is what Share and Tester give: the name of a variation, its text,
	// or its number. "": the flag's only other one.
	Variant string `json:"variant,omitempty"`
}

// ParseShare reads "10%", "0.5%" or "10" as thousandths of a percent.
func ParseShare(text string) (int, error) {
	f, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), "%"), 64)
	share := math.Round(f * 1000)
	if err != nil || math.IsNaN(f) || f < 0 || f > 100 || math.Abs(share-f*1000) > 1e-6 {
		return 0, fmt.Errorf("%q is no share: 0%% to 100%%, such as 10%% or 0.5%%, at most three digits after the point", text)
	}
	return int(share), nil
}

// FormatShare writes a share as people say it.
func FormatShare(share int) string {
	return strconv.FormatFloat(float64(share)/1000, 'f', -1, 64) + "%"
}

// document is a definition that is being changed; what a move does not know of
// it stays as it is.
type document map[string]any

func open(d Definition) (document, error) {
	dec := json.NewDecoder(bytes.NewReader(d.JSON))
	dec.UseNumber()
	var doc document
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read the definition of %s: %w", d.Key, err)
	}
	return doc, nil
}

// Apply returns the definition after the move.
func (m Move) Apply(d Definition, meta Meta) (Definition, error) {
	doc, err := open(d)
	if err != nil {
		return d, err
	}
	switch {
	case m.Off:
		doc["on"] = false
	case m.On:
		doc["on"] = true
		if doc["fallthrough"] == nil {
			return d, fmt.Errorf("flag %s has no fallthrough, so turning it on says nothing: name a variant", d.Key)
		}
	default:
		if err := m.give(doc, d.Key, meta); err != nil {
			return d, err
		}
	}
	return Definition{Kind: d.Kind, Key: d.Key, JSON: backstay.Canonical(map[string]any(doc))}, nil
}

// give makes the flag serve the variant to a share, or to a tester.
func (m Move) give(doc document, key string, meta Meta) error {
	to, err := doc.variation(m.Variant, key, meta)
	if err != nil {
		return err
	}
	rest, err := doc.rest(to, key)
	if err != nil {
		return err
	}
	wasOn := doc["on"] == true
	doc["on"] = true
	if m.Tester != "" {
		if !wasOn || doc["fallthrough"] == nil {
			doc["fallthrough"] = map[string]any{"variation": rest}
		}
		return doc.target(to, m.Tester, key)
	}
	share := *m.Share
	switch share {
	case 0:
		doc["fallthrough"] = map[string]any{"variation": rest}
	case Whole:
		doc["fallthrough"] = map[string]any{"variation": to}
	default:
		doc["fallthrough"] = map[string]any{"rollout": doc.rollout(to, rest, share)}
	}
	return nil
}

// rollout keeps what an existing one says of buckets and its order, so that
// raising a share moves nobody out.
func (doc document) rollout(to, rest, share int) map[string]any {
	r := map[string]any{}
	old, _ := doc.inFallthrough("rollout").(map[string]any)
	for name, value := range old {
		r[name] = value
	}
	gets, others := map[string]any{"variation": to, "weight": share}, map[string]any{"variation": rest, "weight": Whole - share}
	entries := []any{gets, others}
	if weights := doc.weights(); len(weights) == 2 && weights[1].variation == to {
		entries = []any{others, gets}
	}
	r["variations"] = entries
	return r
}

func (doc document) inFallthrough(name string) any {
	f, _ := doc["fallthrough"].(map[string]any)
	return f[name]
}

type weight struct{ variation, weight int }

// weights are the entries of the fallthrough's rollout.
func (doc document) weights() []weight {
	r, _ := doc.inFallthrough("rollout").(map[string]any)
	entries, _ := r["variations"].([]any)
	var out []weight
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		v, _ := asInt(entry["variation"])
		w, _ := asInt(entry["weight"])
		out = append(out, weight{v, w})
	}
	return out
}

func asInt(v any) (int, bool) {
	n, ok := v.(json.Number)
	if !ok {
		i, isInt := v.(int)
		return i, isInt
	}
	f, err := strconv.ParseFloat(string(n), 64)
	return int(f), err == nil
}

// variation finds the number of a variant.
func (doc document) variation(variant, key string, meta Meta) (int, error) {
	all, _ := doc["variations"].([]any)
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = variantName(meta.Variants, i, ldvalue.FromJSONMarshal(v))
	}
	if variant != "" {
		if i := slices.Index(names, variant); i >= 0 {
			return i, nil
		}
		for i, v := range all {
			if s, ok := v.(string); ok && s == variant {
				return i, nil
			}
		}
		if i, err := strconv.Atoi(variant); err == nil && i >= 0 && i < len(all) {
			return i, nil
		}
		return 0, fmt.Errorf("flag %s has no variant %q: it has %s", key, variant, sayAll(names))
	}
	if i := slices.Index(all, any(true)); i >= 0 && len(all) == 2 {
		return i, nil
	}
	if off, ok := asInt(doc["offVariation"]); ok && len(all) == 2 {
		return 1 - off, nil
	}
	return 0, fmt.Errorf("say which variant of flag %s: it has %s", key, sayAll(names))
}

func sayAll(names []string) string {
	var b bytes.Buffer
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(n)
	}
	return b.String()
}

// rest is what those get who do not get the variant: what they have now.
func (doc document) rest(to int, key string) (int, error) {
	off, hasOff := asInt(doc["offVariation"])
	all, _ := doc["variations"].([]any)
	if doc["on"] == true {
		if now, ok := asInt(doc.inFallthrough("variation")); ok && now != to {
			return now, nil
		}
		var others []int
		for _, w := range doc.weights() {
			if w.variation != to && w.weight > 0 && !slices.Contains(others, w.variation) {
				others = append(others, w.variation)
			}
		}
		if len(others) == 1 {
			return others[0], nil
		}
		if len(others) > 1 {
			return 0, fmt.Errorf("flag %s is split between several other variants: say what everybody gets with a definition (from)", key)
		}
	}
	if hasOff && off != to {
		return off, nil
	}
	if len(all) == 2 {
		return 1 - to, nil
	}
	return 0, fmt.Errorf("nothing says what those get who do not get the variant: give flag %s another offVariation", key)
}

// target puts a user at the variant.
func (doc document) target(to int, user, key string) error {
	targets, _ := doc["targets"].([]any)
	at := -1
	for i, t := range targets {
		entry, _ := t.(map[string]any)
		values, _ := entry["values"].([]any)
		v, _ := asInt(entry["variation"])
		if slices.Contains(values, any(user)) {
			if v != to {
				return fmt.Errorf("tester %s is a target of another variant of flag %s", user, key)
			}
			return nil
		}
		if v == to {
			at = i
		}
	}
	if at < 0 {
		targets, at = append(slices.Clone(targets), map[string]any{"variation": to, "values": []any{}}), len(targets)
	}
	entry, _ := targets[at].(map[string]any)
	values, _ := entry["values"].([]any)
	entry["values"] = append(slices.Clone(values), user)
	doc["targets"] = targets
	doc.placeholder(to)
	return nil
}

// placeholder: where targets by kind are listed at all, they name the place of
// those of users too.
func (doc document) placeholder(to int) {
	all, _ := doc["contextTargets"].([]any)
	if len(all) == 0 {
		return
	}
	for _, t := range all {
		entry, _ := t.(map[string]any)
		kind, _ := entry["contextKind"].(string)
		if v, _ := asInt(entry["variation"]); v == to && (kind == "" || kind == "user") {
			return
		}
	}
	doc["contextTargets"] = append(slices.Clone(all), map[string]any{"contextKind": "user", "values": []any{}, "variation": to})
}

// Exposure says in a few words what the flag does for those whom no target and
// no rule matches: "off", "on: VARIANT", "10% VARIANT".
func Exposure(d Definition, meta Meta) string {
	doc, err := open(d)
	if err != nil {
		return "cannot be read"
	}
	all, _ := doc["variations"].([]any)
	name := func(i int) string {
		if i < 0 || i >= len(all) {
			return strconv.Itoa(i)
		}
		return variantName(meta.Variants, i, ldvalue.FromJSONMarshal(all[i]))
	}
	if doc["on"] != true {
		if off, ok := asInt(doc["offVariation"]); ok {
			return "off: " + name(off)
		}
		return "off"
	}
	if v, ok := asInt(doc.inFallthrough("variation")); ok {
		return "on: " + name(v)
	}
	var b bytes.Buffer
	for _, w := range doc.weights() {
		if w.weight == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(FormatShare(w.weight) + " " + name(w.variation))
	}
	return b.String()
}

// Still reports whether the flag gives one value to everybody, and which: it
// is off, or fully rolled out without targets, rules and prerequisites.
func Still(d Definition, meta Meta) (string, bool) {
	doc, err := open(d)
	if err != nil {
		return "", false
	}
	if doc["on"] != true {
		return Exposure(d, meta), true
	}
	for _, name := range []string{"targets", "contextTargets", "rules", "prerequisites"} {
		if l, _ := doc[name].([]any); len(l) > 0 {
			return "", false
		}
	}
	full := 0
	for _, w := range doc.weights() {
		if w.weight > 0 {
			full++
		}
	}
	_, fixed := asInt(doc.inFallthrough("variation"))
	return Exposure(d, meta), fixed || full == 1
}

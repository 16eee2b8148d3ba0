package flag

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

const (
	timeout = backstay.Duration(30 * time.Second)
	// sleeping is how long a flag was off before turning it on is warned of: what
	// it wakes up may be old (Knight Capital, 2012).
	sleeping = 90 * 24 * time.Hour
)

// Prepare freezes the move: what the flag is now, and what it is to be. Without
// a flag store (lint) it checks only what the declaration says by itself.
func (d *Driver) Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode flag step: %w", err)
	}
	if problems := sc.SpecProblems(); len(problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: problems}
	}
	c := sc.Flag
	if c.Store != "" {
		return d.prepareElsewhere(ctx, req, c)
	}
	key := model.StoreKey(model.FlagKind, c.Key)
	src, err := c.source(req.Dir)
	if err != nil {
		return backstay.Prepared{}, err
	}
	var now backstay.Flag
	if req.Flags != nil {
		if now, err = req.Flags.Flag(ctx, key); err != nil {
			return backstay.Prepared{}, err
		}
		src.Known = func(kind model.Kind, name string) (json.RawMessage, bool) {
			f, err := req.Flags.Flag(ctx, model.StoreKey(kind, name))
			return f.State.Parts[backstay.FlagDefinition], err == nil && f.Exists()
		}
	}
	p := preparer{driver: d, req: req, c: c, key: key, now: now}
	if err := p.base(src, req.Flags != nil); err != nil {
		return backstay.Prepared{}, err
	}
	if p.definition.JSON == nil {
		return backstay.Prepared{Kind: d.Name(), Summary: c.summary(), Timeout: timeout}, nil // lint: there may be such a flag
	}
	if err := p.move(); err != nil {
		return backstay.Prepared{}, err
	}
	return p.prepared(), nil
}

// source reads the file of `from`.
func (c flagConfig) source(dir string) (model.Source, error) {
	if c.From == "" {
		return model.Source{}, nil
	}
	refuse := func(err error) error {
		return &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{Path: "flag.from", Message: err.Error(), Hint: "name a file with a definition in LaunchDarkly's JSON, beside the spec"}}}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return model.Source{}, refuse(err)
	}
	defer func() { _ = root.Close() }()
	if filepath.IsAbs(c.From) {
		return model.Source{}, refuse(errors.New("is an absolute path"))
	}
	f, err := root.Open(c.From)
	if err != nil {
		return model.Source{}, refuse(err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return model.Source{}, refuse(errors.Join(err, fmt.Errorf("%s is not a regular file", c.From)))
	}
	data, err := io.ReadAll(io.LimitReader(f, model.MaxSize+1))
	if err == nil && len(data) > model.MaxSize {
		err = fmt.Errorf("%s is larger than %d bytes", c.From, model.MaxSize)
	}
	if err != nil {
		return model.Source{}, refuse(err)
	}
	return model.Source{File: filepath.Join(dir, c.From), Data: data}, nil
}

// preparer makes one step.
type preparer struct {
	driver     *Driver
	req        backstay.Request
	c          flagConfig
	key        backstay.Key
	now        backstay.Flag
	definition model.Definition
	meta       model.Meta
	warnings   []string
}

// base is the definition that the move starts from.
func (p *preparer) base(src model.Source, store bool) error {
	var err error
	if p.now.Exists() {
		if p.definition, p.meta, err = model.OfState(p.key, p.now.State); err != nil {
			return err
		}
	}
	if p.c.From != "" {
		if !store {
			src.Imported = true // what it refers to cannot be looked up
		}
		d, _, err := model.Parse(model.FlagKind, p.c.Key, src)
		if err != nil && store {
			return err
		}
		if err == nil {
			p.definition = p.salted(d)
		}
	}
	if p.definition.JSON == nil && store {
		return &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{
			Path: "flag.key", Message: fmt.Sprintf("there is no flag %q", p.c.Key),
			Hint: fmt.Sprintf("make it with `backstay flag set %s --boolean`, or give its definition with from", p.c.Key),
		}}}
	}
	return nil
}

// salted keeps the salt that a flag has, so that users keep their buckets, and
// gives a new one its own: the same each time the plan is made.
func (p *preparer) salted(d model.Definition) model.Definition {
	var doc, old map[string]json.RawMessage
	if json.Unmarshal(d.JSON, &doc) != nil || len(doc["salt"]) > 0 {
		return d
	}
	if json.Unmarshal(p.definition.JSON, &old) == nil && len(old["salt"]) > 0 {
		doc["salt"] = old["salt"]
	} else {
		sum := sha256.Sum256([]byte("backstay flag salt " + p.req.Release + " " + p.c.Key))
		doc["salt"] = backstay.Canonical(hex.EncodeToString(sum[:16]))
	}
	d.JSON = backstay.Canonical(doc)
	return d
}

// moves are what the declaration does to the definition, in their order.
func (c flagConfig) moves() []model.Move {
	var all []model.Move
	if c.Tester != "" {
		all = append(all, model.Move{Tester: c.Tester, Variant: c.Variant})
	}
	switch {
	case c.Turn != "":
		all = append(all, model.Move{On: c.Turn == "on", Off: c.Turn == "off"})
	case c.Percentage != nil:
		share := int(*c.Percentage)
		all = append(all, model.Move{Share: &share, Variant: c.Variant})
	case c.Variant != "" && c.Tester == "":
		share := model.Whole
		all = append(all, model.Move{Share: &share, Variant: c.Variant})
	}
	return all
}

func (p *preparer) move() error {
	p.warn()
	for _, m := range p.c.moves() {
		d, err := m.Apply(p.definition, p.meta)
		if err != nil {
			return &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{Path: "flag", Message: err.Error()}}}
		}
		p.definition = d
	}
	p.meta.Release = p.req.Release
	if p.c.Purpose != "" {
		p.meta.Purpose = p.c.Purpose
	}
	return nil
}

// warn says what is odd about using this flag here.
func (p *preparer) warn() {
	if !p.now.Exists() {
		return
	}
	was := model.Exposure(p.definition, p.meta)
	if r := p.meta.Release; r != "" && r != p.req.Release {
		p.warnings = append(p.warnings, fmt.Sprintf("flag %s was last moved by release %s: make sure that it still means the same", p.c.Key, r))
	}
	if was := p.meta.Purpose; was != "" && p.c.Purpose != "" && was != p.c.Purpose {
		p.warnings = append(p.warnings, fmt.Sprintf("flag %s was for %q and is used for %q: a flag that is reused wakes up what it once was for; take a new key", p.c.Key, was, p.c.Purpose))
	}
	if p.c.Turn == "off" {
		return
	}
	age := p.driver.now().Sub(p.now.At)
	switch {
	case p.now.Act == "kill":
		p.warnings = append(p.warnings, fmt.Sprintf("flag %s was killed on %s: see why with `backstay flag history %s`", p.c.Key, p.now.At.Format(time.DateTime), p.c.Key))
	case strings.HasPrefix(was, "off") && age > sleeping:
		p.warnings = append(p.warnings, fmt.Sprintf("flag %s has been off and unchanged for %d days: make sure that no old code waits behind it", p.c.Key, int(age.Hours()/24)))
	}
}

func (p *preparer) prepared() backstay.Prepared {
	want := model.State(p.definition, p.meta)
	b := body{V: bodyFormat, Key: p.key, Was: p.now.State, Want: want, Command: p.c.command()}
	undo := "put the flag back, whole"
	if !p.now.Exists() {
		undo = "take the flag away again"
	}
	return backstay.Prepared{
		Kind: p.driver.Name(), Body: backstay.Canonical(b), Keys: []backstay.Key{p.key}, Dial: p.key,
		Class: backstay.Exact, Effect: backstay.Idempotent, Fence: backstay.Fenced, Restorable: true, HasUndo: true,
		Want: backstay.Image{p.key: want}, Timeout: timeout, UndoTimeout: timeout,
		Summary: p.c.summary(), UndoSummary: undo, ReadSummary: "its definition, and what is said about it", Warnings: p.warnings,
	}
}

// summary says the move in one line.
func (c flagConfig) summary() string {
	what := "flag " + c.Key + ": "
	variant := ""
	if c.Variant != "" {
		variant = " " + c.Variant
	}
	switch {
	case c.Turn != "":
		what += "turn " + c.Turn
	case c.Percentage != nil:
		what += model.FormatShare(int(*c.Percentage)) + variant
	case c.Tester != "":
		what += "only for " + c.Tester + variant
	case c.Variant != "":
		what += "everybody gets" + variant
	default:
		what += "the definition in " + c.From
	}
	return what
}

// command is what a person would type instead.
func (c flagConfig) command() []string {
	words := []string{"backstay", "flag", "set", c.Key}
	if c.From != "" {
		words = append(words, "-f", c.From)
	}
	switch {
	case c.Turn != "":
		words = append(words, "--turn", c.Turn)
	case c.Percentage != nil:
		words = append(words, "--percentage", model.FormatShare(int(*c.Percentage)))
	}
	if c.Variant != "" {
		words = append(words, "--variant", c.Variant)
	}
	return append(words, "--reason", "by hand")
}

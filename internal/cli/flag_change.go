package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag"
	"github.com/backstay-dev/backstay/internal/flag/model"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// maxImport bounds a file of definitions.
const maxImport = 512 << 20

// flagEdit are the flags of flag set.
type flagEdit struct {
	segment    bool
	file       string
	boolean    bool
	turn       string
	variant    string
	percentage string
	meta       model.Meta
	version    int64
	reason     string
	given      func(name string) bool
}

func (c *call) flagSetCommand() *cobra.Command {
	var e flagEdit
	var cmd *cobra.Command
	cmd = c.command("set KEY [flags]", "Make or change a flag by hand",
		`Makes a flag, or changes it: its definition, what everybody gets, or what is said about it. Each change is an
entry with the reason. A flag that a deployment holds is refused: let the deployment move it, or kill it.

A first flag:   backstay flag set new-checkout --boolean --owner team-checkout --reason "first stage"
A definition:   backstay flag set new-checkout -f new-checkout.json --reason "gold plan first"
By hand:        backstay flag set new-checkout --percentage 10% --reason "a look"`,
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error {
			e.given = func(name string) bool { return cmd.Flags().Changed(name) }
			return c.flagSet(ctx, args[0], e)
		})
	f := cmd.Flags()
	segmentFlag(cmd, &e.segment)
	f.StringVarP(&e.file, "file", "f", "", "the whole definition, in LaunchDarkly's JSON; - reads stdin")
	f.BoolVar(&e.boolean, "boolean", false, "make a new flag that is true or false, and off")
	f.StringVar(&e.turn, "turn", "", "on or off")
	f.StringVar(&e.variant, "variant", "", "give everybody this variant, whom no target and no rule matches; with --percentage, so many")
	f.StringVar(&e.percentage, "percentage", "", "give the variant to so many: 10%, 0.5%")
	f.StringVar(&e.meta.Description, "description", "", "what it does")
	f.StringVar(&e.meta.Purpose, "purpose", "", "what it is for: using it for something else is warned of")
	f.StringVar(&e.meta.Owner, "owner", "", "who answers for it")
	f.StringSliceVar(&e.meta.Tags, "tags", nil, "words to find it by")
	f.StringSliceVar(&e.meta.Variants, "variants", nil, "names of its variations, in their order")
	f.IntVar(&e.meta.People, "people", 0, "how many must agree to a change by hand, a kill too: 1 or 2")
	f.Int64Var(&e.version, "version", 0, "only if this is its version now")
	f.StringVar(&e.reason, "reason", "", "why, for the ledger")
	cmd.MarkFlagsMutuallyExclusive("file", "boolean")
	cmd.MarkFlagsMutuallyExclusive("turn", "percentage")
	cmd.MarkFlagsMutuallyExclusive("turn", "variant")
	return cmd
}

func (c *call) flagSet(ctx context.Context, key string, e flagEdit) error {
	edit := flag.Edit{Kind: kindOf(e.segment), Key: key, Version: e.version, Reason: e.reason, Meta: e.change}
	var err error
	if edit.Move, err = e.move(); err != nil {
		return err
	}
	switch {
	case e.boolean:
		edit.Definition = &model.Source{Data: backstay.Canonical(map[string]any{
			"key": key, "on": false, "variations": []bool{true, false}, "fallthrough": map[string]int{"variation": 0}, "offVariation": 1,
		})}
	case e.file != "":
		if edit.Definition, err = c.definitionFile(e.file); err != nil {
			return err
		}
	case edit.Move == nil && !e.says():
		return usagef("flag set: say what to change: a definition (-f), --turn, --variant, --percentage, or what is said about it")
	}
	if e.given("people") && (e.meta.People < 1 || e.meta.People > 2) {
		return usagef("--people %d: want 1 or 2", e.meta.People)
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if e.boolean {
		if there, err := s.flags().Get(ctx, model.StoreKey(edit.Kind, key)); err == nil {
			return &backstay.RefusedError{What: "flag", Err: fmt.Errorf("%s is there already: %s", there.Key, there.Exposure()), Hint: "leave --boolean out to change it"}
		}
	}
	out, err := s.flags().Set(ctx, edit)
	return c.flagResult(out, err)
}

// flagHeld says what to do about a flag that a deployment holds.
func flagHeld(err error) error {
	var locked *ledger.LockedError
	if !errors.As(err, &locked) {
		return err
	}
	return &backstay.RefusedError{
		What: "lock", Err: err,
		Hint: fmt.Sprintf("the deployment moves it: take it back with `backstay rollback %s`, or turn the flag off at once with `backstay flag kill`", locked.Lock.Name),
	}
}

// flagResult says what a change by hand came to.
func (c *call) flagResult(out flag.Outcome, err error) error {
	if err != nil {
		return flagHeld(err)
	}
	key := string(out.Key)
	if c.json {
		err := c.out.document(changeDocument{Format: c.format(), flagDocument: flagDocumentOf(out.Entry), Changed: out.Changed, Waits: out.Waits})
		if err != nil {
			return err
		}
	}
	switch {
	case c.json:
	case out.Waits:
		c.out.line("%s stays as it is (%s) until a second person gives the same command within %s", key, exposureWord(out.Entry), rounded(flag.AskedFor))
	case !out.Changed:
		c.out.line("%s was that already: %s (version %d)", key, exposureWord(out.Entry), out.Version)
	case !out.Exists():
		c.out.line("%s is gone (version %d)", key, out.Version)
	default:
		c.out.line("%s is now %s (version %d)", key, exposureWord(out.Entry), out.Version)
	}
	if out.Waits {
		return exit(exitWaiting)
	}
	return nil
}

// changeDocument is the result of flag set, restore, remove and kill.
type changeDocument struct {
	Format string `json:"format"`
	flagDocument
	Changed bool   `json:"changed"`
	Waits   bool   `json:"waits_for_second_person"`
	Held    string `json:"held_by,omitempty"` // of kill: the deployment that moves it
}

// says reports whether anything is said about the flag.
func (e flagEdit) says() bool {
	for _, name := range []string{"description", "purpose", "owner", "tags", "variants", "people"} {
		if e.given(name) {
			return true
		}
	}
	return false
}

// change puts what was said into the flag's meta data.
func (e flagEdit) change(m *model.Meta) {
	for name, put := range map[string]func(){
		"description": func() { m.Description = e.meta.Description }, "purpose": func() { m.Purpose = e.meta.Purpose },
		"owner": func() { m.Owner = e.meta.Owner }, "tags": func() { m.Tags = e.meta.Tags },
		"variants": func() { m.Variants = e.meta.Variants }, "people": func() { m.People = e.meta.People },
	} {
		if e.given(name) {
			put()
		}
	}
}

func (e flagEdit) move() (*model.Move, error) {
	switch {
	case e.turn != "" && e.turn != "on" && e.turn != "off":
		return nil, usagef("--turn %q: want on or off", e.turn)
	case e.turn != "":
		return &model.Move{On: e.turn == "on", Off: e.turn == "off"}, nil
	case e.percentage != "":
		share, err := model.ParseShare(e.percentage)
		if err != nil {
			return nil, usagef("--percentage: %w", err)
		}
		return &model.Move{Share: &share, Variant: e.variant}, nil
	case e.variant != "":
		all := model.Whole
		return &model.Move{Share: &all, Variant: e.variant}, nil
	}
	return nil, nil //nolint:nilnil // no move is asked for
}

// definitionFile reads a file of definitions; "-" is stdin.
func (c *call) definitionFile(name string) (*model.Source, error) {
	r, shown := c.app.Stdin, "stdin"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, &backstay.Error{Op: "read", Subject: name, Err: err, Hint: "name a file with definitions in LaunchDarkly's JSON"}
		}
		defer func() { _ = f.Close() }()
		r, shown = f, name
	}
	data, err := io.ReadAll(io.LimitReader(r, maxImport+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", shown, err)
	}
	if len(data) > maxImport {
		return nil, &backstay.RefusedError{What: "flag", Err: fmt.Errorf("%s is larger than %d MiB", shown, maxImport>>20), Hint: "import it in parts"}
	}
	return &model.Source{File: shown, Data: data}, nil
}

// importDocument is the result of flag import.
type importDocument struct {
	Format   string          `json:"format"`
	Dry      bool            `json:"dry_run"`
	Flags    []flag.Imported `json:"flags"`
	Warnings []model.Warning `json:"warnings,omitempty"`
}

func (c *call) flagImportCommand() *cobra.Command {
	var reason string
	var dry bool
	cmd := c.command("import FILE [flags]", "Take in LaunchDarkly's JSON, unchanged",
		"Takes in flags and segments as LaunchDarkly's SDKs receive them: {\"flags\": {…}, \"segments\": {…}}. All of the file or\nnothing of it. Users keep their buckets. Flags that are not in the file stay. - reads stdin.",
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error {
			return c.flagImport(ctx, args[0], reason, dry)
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check the file and say what would change")
	return cmd
}

func (c *call) flagImport(ctx context.Context, file, reason string, dry bool) error {
	src, err := c.definitionFile(file)
	if err != nil {
		return err
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	out, warnings, err := s.flags().Import(ctx, *src, reason, dry)
	if err != nil {
		return flagHeld(err)
	}
	if c.json {
		return c.out.document(importDocument{c.format(), dry, out, warnings})
	}
	for _, w := range warnings {
		c.err.line("warning: %s", w)
	}
	n := map[string]int{}
	for _, f := range out {
		n[f.Action]++
	}
	word := ""
	if dry {
		word = "would be "
	}
	c.out.line("%s%d created, %d changed, %d the same", word, n["created"], n["changed"], n["same"])
	return nil
}

func (c *call) flagRestoreCommand() *cobra.Command {
	var segment bool
	var reason string
	var version int64
	cmd := c.command("restore KEY [flags]", "Bring a flag back to what it was: undo a kill, a change, a removal",
		"Brings the whole flag back, with what was said about it: to before its last change, or to what it was after a\nversion of its history.",
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef("flag restore needs --reason WHY")
			}
			s, err := c.open(ctx)
			if err != nil {
				return err
			}
			defer s.close()
			key := model.StoreKey(kindOf(segment), args[0])
			out, err := s.flags().Restore(ctx, key, version, reason)
			return c.flagResult(out, err)
		})
	segmentFlag(cmd, &segment)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger (required)")
	cmd.Flags().Int64Var(&version, "version", 0, "to what it was after this version (default: to before the last change)")
	return cmd
}

func (c *call) flagRemoveCommand() *cobra.Command {
	var segment bool
	var reason string
	cmd := c.command("remove KEY [flags]", "Remove a flag that no program asks for any more",
		"Removes a flag: programs that still ask for it get their own default. Its history stays, and\n`backstay flag restore` brings it back. Refused while another flag names it.",
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef("flag remove needs --reason WHY")
			}
			s, err := c.open(ctx)
			if err != nil {
				return err
			}
			defer s.close()
			out, err := s.flags().Remove(ctx, model.StoreKey(kindOf(segment), args[0]), reason)
			return c.flagResult(out, err)
		})
	segmentFlag(cmd, &segment)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger (required)")
	return cmd
}

func (c *call) flagKillCommand() *cobra.Command {
	var reason string
	cmd := c.command("kill KEY [flags]", "Turn a flag off at once",
		`Turns a flag off for everybody, whoever holds it: one write, with its entry. No plan is needed. Where the flag
wants two people (--people 2), the first call asks (exit code 4) and the same command by somebody else
within an hour kills. A deployment that moves the flag finds it changed and leaves it off.

Undo:   backstay flag restore KEY --reason WHY`,
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error { return c.flagKill(ctx, args[0], reason) })
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger (required)")
	return cmd
}

func (c *call) flagKill(ctx context.Context, key, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return usagef("flag kill needs --reason WHY")
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	out, err := s.flags().Kill(ctx, model.StoreKey(model.FlagKind, key), reason)
	if err != nil || !out.Changed {
		return c.flagResult(out, err)
	}
	doc := changeDocument{Format: c.format(), flagDocument: flagDocumentOf(out.Entry), Changed: true}
	locks, err := s.store.Locks(ctx)
	if err != nil {
		return fmt.Errorf("read the locks: %w", err)
	}
	if l := lockedBy(locks, []backstay.Key{out.Key}); l != nil {
		doc.Held = l.Lock.Name
	}
	if c.json {
		return c.out.document(doc)
	}
	c.out.line("%s is off now: everybody gets %s (version %d)", out.Key, strings.TrimPrefix(out.Exposure(), "off: "), out.Version)
	if doc.Held != "" {
		c.progress("deployment %s moves this flag; it will find it changed and leave it off: backstay rollback %s", doc.Held, doc.Held)
	}
	return nil
}

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

func (c *call) flagCommand() *cobra.Command {
	return c.group("flag", "Feature flags: look, change, kill, serve",
		"Feature flags in the ledger: every change is an entry with who, why, before and after.\nDeployments move them with `flag` steps; programs read them by OFREP from `backstay flag serve`.\ndocs/guide/flags.md tells the life of a flag.",
		c.flagListCommand(), c.flagGetCommand(), c.flagSetCommand(), c.flagImportCommand(), c.flagHistoryCommand(),
		c.flagKillCommand(), c.flagRestoreCommand(), c.flagRemoveCommand(), c.flagStaleCommand(), c.flagServeCommand())
}

// segmentFlag lets a verb be about a segment.
func segmentFlag(cmd *cobra.Command, segment *bool) {
	cmd.Flags().BoolVar(segment, "segment", false, "KEY is a segment's, not a flag's")
}

func kindOf(segment bool) model.Kind {
	if segment {
		return model.SegmentKind
	}
	return model.FlagKind
}

// flags opens the flag store of this ledger.
func (s *session) flags() *flag.Store { return flag.New(s.store, s.actor, s.c.app.Now) }

// flagDocument is one flag in JSON.
type flagDocument struct {
	Key        backstay.Key    `json:"key"`
	Version    int64           `json:"version"`
	Exposure   string          `json:"exposure,omitempty"`
	ChangedAt  time.Time       `json:"changed_at"`
	Writer     string          `json:"writer,omitempty"` // the deployment that made it so
	Meta       model.Meta      `json:"meta"`
	Definition json.RawMessage `json:"definition,omitempty"`
}

func flagDocumentOf(e flag.Entry) flagDocument {
	d := flagDocument{Key: e.Key, Version: e.Version, ChangedAt: e.At, Writer: e.Writer, Meta: e.Meta, Definition: e.Definition.JSON}
	if e.Definition.Kind == model.FlagKind && e.Exists() {
		d.Exposure = e.Exposure()
	}
	return d
}

// flagsDocument is the result of flag list.
type flagsDocument struct {
	Format string         `json:"format"`
	Flags  []flagDocument `json:"flags"`
}

func (c *call) flagListCommand() *cobra.Command {
	return c.command("list [flags]", "List flags and segments", "Lists every flag with what it does for those whom no target and no rule matches, its version, and the\nrelease that moved it last.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.flagList(ctx) })
}

func (c *call) flagList(ctx context.Context) error {
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	all, err := s.flags().List(ctx)
	if err != nil {
		return fmt.Errorf("list flags: %w", err)
	}
	if c.json {
		out := flagsDocument{c.format(), make([]flagDocument, 0, len(all))}
		for _, e := range all {
			d := flagDocumentOf(e)
			d.Definition = nil
			out.Flags = append(out.Flags, d)
		}
		return c.out.document(out)
	}
	if len(all) == 0 {
		c.out.line("no flags; make one with `backstay flag set KEY --boolean`, or take them in with `backstay flag import FILE`")
		return nil
	}
	rows := make([][]string, 0, len(all))
	for _, e := range all {
		rows = append(rows, []string{
			string(e.Key), exposureWord(e), fmt.Sprint(e.Version), c.age(e.At), orWord(e.Meta.Release, "-"), orWord(e.Meta.Owner, "-"),
		})
	}
	c.out.table([]string{"FLAG", "EXPOSURE", "VERSION", "CHANGED", "RELEASE", "OWNER"}, rows)
	return nil
}

func exposureWord(e flag.Entry) string {
	if e.Definition.Kind == model.SegmentKind {
		return "-"
	}
	return e.Exposure()
}

// flagGetDocument is the result of flag get.
type flagGetDocument struct {
	Format string `json:"format"`
	flagDocument
}

func (c *call) flagGetCommand() *cobra.Command {
	var segment bool
	var as string
	cmd := c.command("get KEY [flags]", "Show one flag; --as USER: what that user gets",
		"Prints the definition of a flag in LaunchDarkly's JSON, with what people say about it. --as evaluates it\nfor a context: a user's key, or JSON such as '{\"targetingKey\": \"ann\", \"plan\": \"gold\"}'.",
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error {
			if as != "" {
				return c.flagAs(ctx, args[0], as)
			}
			return c.flagGet(ctx, kindOf(segment), args[0])
		})
	segmentFlag(cmd, &segment)
	cmd.Flags().StringVar(&as, "as", "", "evaluate for this user, or this context in JSON")
	return cmd
}

func (c *call) flagGet(ctx context.Context, kind model.Kind, key string) error {
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	e, err := s.flags().Get(ctx, model.StoreKey(kind, key))
	if err != nil {
		return err
	}
	if c.json {
		return c.out.document(flagGetDocument{c.format(), flagDocumentOf(e)})
	}
	rows := [][]string{{"exposure", exposureWord(e)}, {"version", fmt.Sprint(e.Version)}, {"changed", c.age(e.At) + " ago"}}
	for _, row := range [][]string{
		{"description", e.Meta.Description}, {"purpose", e.Meta.Purpose}, {"owner", e.Meta.Owner}, {"release", e.Meta.Release},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	if e.Meta.People > 1 {
		rows = append(rows, []string{"by hand", fmt.Sprintf("%d people must agree", e.Meta.People)})
	}
	c.out.table([]string{string(e.Key), ""}, rows)
	var pretty any
	if err := json.Unmarshal(e.Definition.JSON, &pretty); err != nil {
		return fmt.Errorf("read the definition of %s: %w", e.Key, err)
	}
	text, err := json.MarshalIndent(pretty, "", "  ")
	if err != nil {
		return fmt.Errorf("show the definition of %s: %w", e.Key, err)
	}
	c.out.block("", string(text))
	return nil
}

// evaluationDocument is the result of flag get --as.
type evaluationDocument struct {
	Format  string          `json:"format"`
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"`
	Variant string          `json:"variant,omitempty"`
	Reason  string          `json:"reason"`
	Why     string          `json:"evaluation"`
	Version int64           `json:"version"`
}

func (c *call) flagAs(ctx context.Context, key, as string) error {
	raw := json.RawMessage(as)
	if !json.Valid(raw) || as[0] != '{' {
		raw = backstay.Canonical(map[string]string{"targetingKey": as})
	}
	context, err := model.ReadContext(raw)
	if err != nil {
		return usagef("--as: %w", err)
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	flags, err := s.store.Flags(ctx, -1)
	if err != nil {
		return fmt.Errorf("read the flags: %w", err)
	}
	set, err := model.NewSet().With(flags)
	if err != nil {
		return err
	}
	if !set.Has(key) {
		_, err := s.flags().Get(ctx, model.StoreKey(model.FlagKind, key))
		return err
	}
	r := set.Evaluate(key, context)
	if c.json {
		return c.out.document(evaluationDocument{c.format(), key, r.Value.AsRaw(), r.Variant, r.Reason, r.Why, r.Version})
	}
	c.out.line("%s  (%s, version %d)", r.Value.JSONString(), r.Why, r.Version)
	return nil
}

// historyDocument is the result of flag history.
type flagHistoryDocument struct {
	Format  string        `json:"format"`
	Key     backstay.Key  `json:"key"`
	Changes []flag.Change `json:"changes"`
}

func (c *call) flagHistoryCommand() *cobra.Command {
	var segment bool
	var limit int
	cmd := c.command("history KEY [flags]", "Show who changed a flag, when and why, newest first",
		"Lists every change of a flag, also those of deployments: version, when, who, what, from where to where, and why.\n--json has the whole definitions before and after.",
		cobra.ExactArgs(1), func(ctx context.Context, c *call, args []string) error {
			return c.flagHistory(ctx, model.StoreKey(kindOf(segment), args[0]), limit)
		})
	segmentFlag(cmd, &segment)
	cmd.Flags().IntVar(&limit, "limit", 20, "at most this many; 0: all")
	return cmd
}

func (c *call) flagHistory(ctx context.Context, key backstay.Key, limit int) error {
	if limit < 0 {
		return usagef("--limit %d: want 0 or more", limit)
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	changes, err := s.flags().History(ctx, key, limit)
	if err != nil {
		return fmt.Errorf("read the history of %s: %w", key, err)
	}
	if c.json {
		return c.out.document(flagHistoryDocument{c.format(), key, changes})
	}
	if len(changes) == 0 {
		c.out.line("nothing happened to %s", key)
		return nil
	}
	rows := make([][]string, 0, len(changes))
	for _, h := range changes {
		what, by := h.Act, "-"
		if h.Actor != nil {
			by = h.Actor.String()
		}
		if h.Second != nil {
			by += ", with " + h.Second.String()
		}
		if h.By != nil {
			name, err := s.nameOf(ctx, h.By.Deployment)
			if err != nil {
				return err
			}
			what = name + " " + h.By.Step
			if h.Act == "undo" {
				what += " (undo)"
			}
		}
		rows = append(rows, []string{
			fmt.Sprint(h.Version), h.At.Local().Format(time.DateTime), by, what, orWord(h.Summary(), "-"), orWord(h.Reason, "-"),
		})
	}
	c.out.table([]string{"VERSION", "AT", "BY", "WHAT", "CHANGE", "WHY"}, rows)
	return nil
}

// staleDocument is the result of flag stale.
type staleDocument struct {
	Format string      `json:"format"`
	Days   int         `json:"days"`
	Flags  []staleFlag `json:"flags"`
}

type staleFlag struct {
	Key   backstay.Key `json:"key"`
	Gives string       `json:"gives"`
	Since time.Time    `json:"since"`
	Owner string       `json:"owner,omitempty"`
}

func (c *call) flagStaleCommand() *cobra.Command {
	var days int
	cmd := c.command("stale [flags]", "List flags that decide nothing any more",
		"Lists the flags that gave everybody one value for some days: fully rolled out, or off. Take them out of the\nprogram, then `backstay flag remove KEY`.",
		cobra.NoArgs, func(ctx context.Context, c *call, _ []string) error { return c.flagStale(ctx, days) })
	cmd.Flags().IntVar(&days, "days", 30, "for how many days")
	return cmd
}

func (c *call) flagStale(ctx context.Context, days int) error {
	if days < 0 {
		return usagef("--days %d: want 0 or more", days)
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	stale, err := s.flags().Stale(ctx, time.Duration(days)*24*time.Hour)
	if err != nil {
		return fmt.Errorf("look for stale flags: %w", err)
	}
	out := staleDocument{c.format(), days, make([]staleFlag, 0, len(stale))}
	rows := make([][]string, 0, len(stale))
	for _, f := range stale {
		out.Flags = append(out.Flags, staleFlag{f.Key, f.Gives, f.Since, f.Meta.Owner})
		rows = append(rows, []string{string(f.Key), f.Gives, c.age(f.Since), orWord(f.Meta.Owner, "-")})
	}
	switch {
	case c.json:
		return c.out.document(out)
	case len(rows) == 0:
		c.out.line("every flag still decides something, or changed within %s", count(days, "day"))
	default:
		c.out.table([]string{"FLAG", "GIVES EVERYBODY", "FOR", "OWNER"}, rows)
	}
	return nil
}

package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/backstay-dev/backstay"
)

// WriteText writes the report for a terminal: plain lines, no colour.
func (r *Report) WriteText(w io.Writer) error {
	p := &page{}
	p.line("%s %s", r.title(), r.headline())
	p.line("  deployment %s, plan %.12s, by %s", r.Deployment, r.Plan, r.Author)
	p.line("  %s", r.clock())
	if r.Reason != "" {
		p.line("  reason: %s", r.Reason)
	}
	if r.Reverts != "" {
		p.line("  takes back deployment %s", r.Reverts)
	}
	if r.RevertedBy != "" {
		p.line("  taken back by deployment %s", r.RevertedBy)
	}
	if f := r.Failure; f != nil {
		p.section("what failed")
		p.line("  %s: %s", f.what(), f.Reason)
		if t := r.times(); t != "" {
			p.line("  %s", t)
		}
		if f.Hint != "" {
			p.line("  hint: %s", f.Hint)
		}
		p.block("  ", f.Output)
	}
	p.residue("not restored", r.Residue)
	p.residue("kept: later values of others", r.Kept)
	p.steps(r)
	list(p, "approvals", r.Approvals, func(s Signal) string { return stamp(s.At) + "  " + s.words() })
	list(p, "signals", r.Signals, func(s Signal) string { return stamp(s.At) + "  " + s.words() })
	list(p, "checks", r.Verdicts, func(v Verdict) string { return stamp(v.At) + "  " + v.words() })
	list(p, "taken over", r.Takeovers, func(t Takeover) string { return stamp(t.At) + "  " + t.words() })
	p.section("timeline")
	for _, e := range r.Events {
		p.line("  %-9s %s", offset(e.After), line(e.Text))
	}
	p.section("evidence")
	p.line("  ledger: %s", r.Ledger.words())
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (r *Report) title() string {
	if r.Version == "" {
		return r.Name
	}
	return r.Name + " (" + r.Version + ")"
}

// page collects lines; each is cleaned as a whole, but for its indent.
type page struct{ b strings.Builder }

func (p *page) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	indent := len(text) - len(strings.TrimLeft(text, " "))
	body := strings.TrimRight(strings.Map(shown, strings.ToValidUTF8(text[indent:], "?")), " ")
	p.b.WriteString(text[:indent] + body + "\n")
}

func (p *page) section(title string) { p.b.WriteString("\n" + title + "\n") }

func (p *page) block(indent, text string) {
	for _, l := range lines(text) {
		p.b.WriteString(strings.TrimRight(indent+"| "+l, " ") + "\n")
	}
}

func list[T any](p *page, title string, items []T, words func(T) string) {
	if len(items) == 0 {
		return
	}
	p.section(title)
	for _, item := range items {
		p.line("  %s", words(item))
	}
}

func (p *page) steps(r *Report) {
	p.section("steps")
	for _, s := range r.Steps {
		p.line("  %s  %s", s.ID, s.ended())
		if s.Summary != "" {
			p.line("    %s", s.Summary)
		}
		if s.Note != "" {
			p.line("    note: %s", s.Note)
		}
		if s.Error != "" && (r.Failure == nil || r.Failure.Step != s.ID) {
			p.line("    error: %s", s.Error)
		}
		for _, c := range s.Changes {
			p.line("    %s %s: %s → %s", c.Change, c.place(), c.Before, c.After)
		}
		if s.More > 0 {
			p.line("    and %s", number(s.More, "more change", "more changes"))
		}
		if s.Undo != nil && s.Undo.Error != "" {
			p.line("    undo error: %s", s.Undo.Error)
			p.block("    ", s.Undo.Output)
		}
	}
}

// residue writes a list of parts. What to type next stands once below the
// parts that share it.
func (p *page) residue(title string, all []Residue) {
	if len(all) == 0 {
		return
	}
	p.section(fmt.Sprintf("%s (%d)", title, len(all)))
	p.parts(all)
}

func (p *page) parts(all []Residue) {
	for i, r := range all {
		p.line("  %s", place(r.Key, r.Part))
		p.line("    before   %s", r.Was)
		if r.Want != "" && r.Want != r.Was {
			p.line("    wanted   %s", r.Want)
		}
		p.line("    now      %s", r.Reads)
		p.line("    why      %s%s", r.Cause, because(r.Detail))
		if r.Next != "" && (i == len(all)-1 || all[i+1].Next != r.Next) {
			p.line("    next     %s", r.Next)
		}
	}
}

// Residues writes parts that are not as before for a terminal: each with what
// it was, what it is, why, and what to type next.
func Residues(w io.Writer, list []backstay.Residue) error {
	p := &page{}
	p.parts(residues(list))
	_, err := io.WriteString(w, p.b.String())
	return err
}

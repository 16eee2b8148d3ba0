package report

import (
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

func (s *Stats) document() document {
	d := document{Title: "History:", Headline: number(int(s.Deployments), "deployment", "deployments"), Tone: "plain"}
	if s.Release != "" {
		d.Title = "History of " + s.Release + ":"
	}
	window := "everything that the ledger holds"
	if !s.Since.IsZero() {
		window = "planned since " + stamp(s.Since)
	}
	d.Lead = []string{fmt.Sprintf("%s, until %s; %s read", window, stamp(s.Until), number(int(s.Entries), "entry", "entries"))}
	if s.Reverts > 0 {
		d.Lead = append(d.Lead, number(int(s.Reverts), "deployment that takes another one back is", "deployments that take others back are")+" counted apart")
	}
	if s.Unreadable > 0 {
		d.Lead = append(d.Lead, number(int(s.Unreadable), "entry", "entries")+" could not be read and not counted: `backstay audit verify`")
	}
	d.add(section{Title: "How they stand", Blocks: facts(endPairs(s.Ends)...)})
	d.add(section{Title: "Rates", Blocks: rows(0, []string{"Rate", "Share", "Of"}, [][]string{
		{"failure rate", s.FailureRate.words(), "ended deployments: did not end proven"},
		{"change failure rate", s.ChangeFailureRate.words(), "committed deployments: did not stay (bake failed, aborted, held, or taken back later)"},
		{"rollback success", s.RollbackSuccess.words(), "rollbacks: restored everything at the first try"},
		{"rollback in the end", s.RollbackInTheEnd.words(), "deployments that turned around: restored everything, perhaps with a person's help"},
	})})
	times := [][]string{}
	for _, t := range []struct {
		name string
		s    Spread
	}{
		{"lead time (planned to committed)", s.LeadTime},
		{"time to detect", s.TimeToDetect},
		{"time to contain", s.TimeToContain},
		{"time to undo", s.TimeToUndo},
		{"time to rollback (failure recorded to rolled back)", s.TimeToRollback},
		{"undo of one step", s.StepUndo},
		{"held for a person", s.HeldFor},
	} {
		times = append(times, append([]string{t.name}, t.s.cells()...))
	}
	d.add(section{Title: "Times", Blocks: rows(0, []string{"Time", "Count", "p50", "p90", "p99", "Largest"}, times)})
	s.heldSection(&d)
	var failures [][]string
	for _, f := range s.Failures {
		what := f.Check
		if f.Step != "" {
			what = f.Step
		}
		failures = append(failures, []string{fmt.Sprint(f.Count), f.Release, orNone(what, "-"), orNone(f.Stage, "-"), orNone(f.Kind, "-"), string(f.Cause), orNone(f.Word, "-")})
	}
	blocks := rows(0, []string{"Count", "Release", "Step or check", "Stage", "Kind", "Cause", "Kind of failure"}, failures)
	if s.OtherFail > 0 {
		blocks = append(blocks, paragraph(number(int(s.OtherFail), "more failure", "more failures")+" of other kinds."))
	}
	d.add(section{Title: "What failed first", Blocks: blocks})
	s.groupsSection(&d)
	return d
}

func endPairs(ends map[backstay.State]int64) [][2]string {
	var out [][2]string
	for _, state := range statesInOrder() {
		if n := ends[state]; n > 0 {
			out = append(out, [2]string{stateWords(state), fmt.Sprint(n)})
		}
	}
	return out
}

func (s *Stats) heldSection(d *document) {
	blocks := []block{}
	if s.Held > 0 {
		blocks = append(blocks, paragraph(number(int(s.Held), "deployment was", "deployments were")+" held at some time."))
	}
	var now [][]string
	for _, h := range s.HeldNow {
		now = append(now, []string{h.Name, h.Since.UTC().Format(time.RFC3339)})
	}
	d.add(section{Title: "Held", Blocks: append(blocks, rows(0, []string{"Held now", "Since"}, now)...)})
}

func (s *Stats) groupsSection(d *document) {
	var all [][]string
	for _, g := range s.Groups {
		share := func(r Rate) string {
			if r.Percent == nil {
				return fmt.Sprintf("%d of %d", r.Count, r.Of)
			}
			return fmt.Sprintf("%.1f %% of %d", *r.Percent, r.Of)
		}
		p50 := func(s Spread) string { return s.cells()[1] }
		all = append(all, []string{
			g.Release, orNone(g.Environment, "-"), fmt.Sprint(g.Deployments), fmt.Sprint(g.Ends[backstay.Proven]), fmt.Sprint(g.Ends[backstay.RolledBack]),
			fmt.Sprint(g.Ends[backstay.Held] + g.Ends[backstay.Closed]), share(g.FailureRate), share(g.ChangeFailureRate), p50(g.LeadTime), p50(g.TimeToUndo),
		})
	}
	d.add(section{Title: "By release and environment", Blocks: rows(0, []string{
		"Release", "Environment", "Deployments", "Proven", "Rolled back", "Held, closed", "Failed", "Did not stay", "Lead time p50", "Undo p50",
	}, all)})
}

package cli

import (
	"fmt"
	"math"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

const (
	evidenceCells = 16        // of a bar
	maxChecks     = 5         // drawn in the live picture
	latency       = "latency" // the metric
)

// evidenceLines show the gates that wait and what their checks say, at most so many.
func evidenceLines(p *printer, v engine.View, now time.Time, most int) []painted {
	var lines []painted
	for _, g := range v.Gates {
		text := gateWords(g, now)
		if g.Next != v.Next {
			text += " · next: " + g.Next
		}
		lines = append(lines, p.paint(boldTone, text))
	}
	shown, width := shownChecks(v)
	comparisons := 0
	for _, k := range shown {
		if compares(k) {
			comparisons++
		}
	}
	for i, k := range shown {
		if i == most {
			lines = append(lines, p.paint(dimTone, "… "+count(len(shown)-most, "more check")))
			break
		}
		lines = append(lines, checkLines(p, k, width)...)
	}
	if comparisons > 1 {
		lines = append(lines, joined("all together %s of what convicts", percentWord(v.Convicts)))
	}
	return lines
}

// shownChecks are those that matter now, and the width of their names.
func shownChecks(v engine.View) (shown []engine.CheckState, width int) {
	for _, k := range v.Checks {
		if k.Armed || v.State.Settled() {
			shown, width = append(shown, k), max(width, lipgloss.Width(cleanLine(k.Check)))
		}
	}
	return shown, width
}

// briefLines are evidenceLines for where there is no room: a line for each check.
func briefLines(p *printer, v engine.View, most int) []painted {
	var lines []painted
	shown, width := shownChecks(v)
	for i, k := range shown {
		if i == most {
			return append(lines, p.paint(dimTone, "… "+count(len(shown)-most, "more check")))
		}
		text := k.Reason
		if compares(k) {
			text = "worse " + oddsWords(k.Evidence.Odds, k.Evidence.FailAt)
			if k.Evidence.Margin != "" {
				text += ", safe " + oddsWords(k.Evidence.Safe, k.Evidence.PassAt)
			}
			if left := leftWords(*k.Evidence); left != "" {
				text += ", " + left
			}
		}
		lines = append(lines, joined("%s  %s  %s", p.paint(boldTone, padded(k.Check, width)), p.paint(verdictTone(k.Verdict), padded(k.Verdict.String(), len("undecided"))), text))
	}
	return lines
}

// joined is a line of what is painted and texts, which are cleaned.
func joined(format string, args ...any) painted {
	return painted(fmt.Sprintf(format, cleanArgs(args)...))
}

func compares(k engine.CheckState) bool {
	e := k.Evidence
	return e != nil && e.FailAt > 1 && e.Canary > 0 && e.Baseline > 0
}

// gateWords say where a gate stands, and until when.
func gateWords(g engine.GateState, now time.Time) string {
	text := "gate " + cleanLine(g.Step)
	if g.Route != "" {
		text += fmt.Sprintf(" at %d %%", g.Weight)
	}
	switch {
	case g.Stalled != "":
		text += " · waits for evidence or a person"
	case g.Hold.After(now):
		text += " · holds for " + rounded(g.Hold.Sub(now))
	}
	if g.Stalled == "" && g.Until.After(now) {
		text += fmt.Sprintf(" · undecided in %s: %s", rounded(g.Until.Sub(now)), g.Undecided)
	}
	return text
}

// checkLines show what one check says.
func checkLines(p *printer, k engine.CheckState, width int) []painted {
	t := verdictTone(k.Verdict)
	name := p.paint(boldTone, padded(k.Check, width))
	verdict := p.paint(t, padded(k.Verdict.String(), len("undecided")))
	if !compares(k) {
		return []painted{joined("%s  %s  %s", name, verdict, k.Reason)}
	}
	e, indent := k.Evidence, strings.Repeat(" ", width+2)
	worse := dimTone
	if half := math.Sqrt(e.FailAt); e.Odds >= half {
		worse = badTone
	}
	lines := []painted{
		joined("%s  %s  %s", name, verdict, requestWords(*e)),
		joined("%sworse  %s %s", indent, p.paint(worse, evidenceBar(e.Odds, e.FailAt)), oddsWords(e.Odds, e.FailAt)),
	}
	if e.Margin != "" {
		safe := p.paint(goodTone, evidenceBar(e.Safe, e.PassAt))
		lines = append(lines, joined("%ssafe   %s %s (margin %s)", indent, safe, oddsWords(e.Safe, e.PassAt), e.Margin))
	}
	if i := e.Interval(); i != "" {
		lines = append(lines, joined("%sodds ratio %s", indent, i))
	}
	return lines
}

// requestWords say what a comparison used, and about how long it still takes.
func requestWords(e backstay.Evidence) string {
	text := fmt.Sprintf("%d requests against %d", e.Canary, e.Baseline)
	if e.Metric != latency { // of which none is bad
		text = fmt.Sprintf("%d requests (%d bad) against %d (%d bad)", e.Canary, e.CanaryBad, e.Baseline, e.BaselineBad)
	}
	if left := leftWords(e); left != "" {
		text += " · " + left
	}
	return text
}

// leftWords are the estimated time to a verdict, where there is one.
func leftWords(e backstay.Evidence) string {
	switch {
	case e.Left > 0:
		return "about " + rounded(e.Left.Std().Round(time.Second)) + " more if both are equal"
	case e.More > 0:
		return fmt.Sprintf("about %d more requests if both are equal", e.More)
	}
	return ""
}

// evidenceBar shows odds on the way to their threshold, on a logarithmic scale.
func evidenceBar(odds, threshold float64) string {
	part := 0.0
	if odds > 1 && threshold > 1 {
		part = min(math.Log(odds)/math.Log(threshold), 1)
	}
	full := int(part*evidenceCells + 0.5)
	return strings.Repeat("█", full) + strings.Repeat("░", evidenceCells-full)
}

func oddsWords(odds, threshold float64) string {
	return fmt.Sprintf("%s : 1 of %s", backstay.Odds(odds), backstay.Short(threshold))
}

func percentWord(part float64) string { return fmt.Sprintf("%.1f %%", 100*part) }

func verdictTone(v backstay.Verdict) tone {
	switch v {
	case backstay.Pass:
		return goodTone
	case backstay.Fail:
		return badTone
	case backstay.Undecided:
	}
	return warnTone
}

// evidenceChanges are the answers of checks that the ledger was told since the view
// before.
func evidenceChanges(before *engine.View, after engine.View) []change {
	was := map[string]time.Time{}
	if before != nil {
		for _, k := range before.Checks {
			was[k.Check] = k.At
		}
	}
	var out []change
	for i := range after.Checks {
		k := &after.Checks[i]
		if k.At.IsZero() || k.At.Equal(was[k.Check]) {
			continue
		}
		out = append(out, change{
			Kind: changeEvidence, Step: k.Step, Check: k.Check, Verdict: &k.Verdict, Text: k.Reason, Evidence: k.Evidence, Samples: k.Samples, Next: nextAfter(after, k.Step),
		})
	}
	return out
}

// nextAfter is what follows a gate that waits.
func nextAfter(v engine.View, step string) string {
	for _, g := range v.Gates {
		if g.Step == step {
			return g.Next
		}
	}
	return ""
}

// evidenceText is an answer in one line.
func evidenceText(ch change) string {
	text := ch.Check + " " + ch.Verdict.String()
	if e := ch.Evidence; e != nil && e.FailAt > 0 && e.Weight > 0 {
		text += fmt.Sprintf(" at %d %%", e.Weight)
	}
	text += because(ch.Text)
	if ch.Evidence != nil {
		if left := leftWords(*ch.Evidence); left != "" {
			text += ", " + left
		}
	}
	if ch.Next != "" {
		text += "; next: " + ch.Next
	}
	return text
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// onward is the command by which a person lets a deployment that waits go on.
func onward(v engine.View) (label, command string) {
	for _, g := range v.Gates {
		if g.Stalled != "" {
			return "go on", "backstay promote " + v.Name
		}
	}
	return "approve", "backstay approve " + v.Name
}

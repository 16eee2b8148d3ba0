package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

//go:embed report.html.tmpl
var pageTemplate string

// WriteHTML writes the report as one page that needs nothing else: no script,
// no font, no image from elsewhere. It prints, and follows the reader's choice
// of light and dark.
func (r *Report) WriteHTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"line":   func(v any) string { return line(fmt.Sprint(v)) },
		"output": func(s string) string { return strings.Join(lines(s), "\n") },
		"stamp":  stamp, "took": took, "offset": offset, "place": place,
		"number":  number,
		"because": func(s string) string { return because(line(s)) },
		"ending":  func(s Step) string { return line(s.ended()) },
		"changed": func(c Change) string { return line(c.place()) },
	}).Parse(pageTemplate)
	if err != nil {
		return fmt.Errorf("read page template: %w", err)
	}
	if err := t.Execute(w, pageOf(r)); err != nil {
		return fmt.Errorf("write report page: %w", err)
	}
	return nil
}

// view is what the page template gets.
type view struct {
	*Report
	Title, Headline, Clock, Times, What, Evidence string
	Tone                                          string // good, bad or plain
	Bars                                          []bar
	Height                                        int
	Lists                                         []viewList
}

// viewList is a table of two columns.
type viewList struct {
	Title string
	Rows  [][2]string
}

// bar is one step on the time axis. Positions are in units of 1/1000 of it.
type bar struct {
	Name, Title string
	Y           int
	Do, Undo    *stretch
	Bad         bool
}

// stretch is a piece of the axis.
type stretch struct{ X, W int }

const (
	axis      = 1000
	barHeight = 24
	minBar    = 4 // so that a short step can be seen
)

func pageOf(r *Report) view {
	v := view{Report: r, Title: r.title(), Headline: r.headline(), Clock: r.clock(), Times: r.times(), Evidence: r.Ledger.words(), Tone: "plain"}
	if r.Failure != nil {
		v.What = r.Failure.what()
	}
	switch r.State {
	case backstay.Proven, backstay.Committed:
		v.Tone = "good"
	case backstay.Held, backstay.Closed, backstay.Refused, backstay.RollingBack:
		v.Tone = "bad"
	case backstay.RolledBack:
		v.Tone = "undo"
	case backstay.Planned, backstay.Approved, backstay.Running, backstay.Holding:
	}
	v.Bars = bars(r)
	v.Height = len(v.Bars)*barHeight + barHeight
	v.list("Approvals", len(r.Approvals), func(i int) [2]string { return [2]string{stamp(r.Approvals[i].At), r.Approvals[i].words()} })
	v.list("Signals", len(r.Signals), func(i int) [2]string { return [2]string{stamp(r.Signals[i].At), r.Signals[i].words()} })
	v.list("Checks", len(r.Verdicts), func(i int) [2]string { return [2]string{stamp(r.Verdicts[i].At), r.Verdicts[i].words()} })
	v.list("Taken over", len(r.Takeovers), func(i int) [2]string { return [2]string{stamp(r.Takeovers[i].At), r.Takeovers[i].words()} })
	return v
}

func (v *view) list(title string, n int, row func(int) [2]string) {
	if n == 0 {
		return
	}
	l := viewList{Title: title}
	for i := range n {
		pair := row(i)
		l.Rows = append(l.Rows, [2]string{line(pair[0]), line(pair[1])})
	}
	v.Lists = append(v.Lists, l)
}

// bars places the steps that began on the axis from the first to the last entry.
func bars(r *Report) []bar {
	if len(r.Events) == 0 {
		return nil
	}
	from, to := r.Started, r.Started
	for _, e := range r.Events {
		if e.At.After(to) {
			to = e.At
		}
	}
	total := to.Sub(from)
	if total <= 0 {
		return nil
	}
	at := func(t time.Time) int {
		return int(min(max(t.Sub(from), 0), total) * axis / total)
	}
	piece := func(began, ended time.Time) *stretch {
		if began.IsZero() {
			return nil
		}
		if ended.Before(began) {
			ended = to // under way, or the clock was set back
		}
		s := &stretch{X: at(began)}
		s.W = max(at(ended)-s.X, minBar)
		s.X = min(s.X, axis-s.W)
		return s
	}
	var out []bar
	for _, s := range r.Steps {
		b := bar{Name: line(s.ID), Title: line(s.ID + ": " + s.ended()), Y: len(out) * barHeight, Bad: s.Result == failed, Do: piece(s.Began, s.Ended)}
		if s.Undo != nil {
			b.Undo = piece(s.Undo.Began, s.Undo.Ended)
		}
		if b.Do != nil || b.Undo != nil {
			out = append(out, b)
		}
	}
	return out
}

package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// plot shows what comparisons found over time: panels below each other, with one
// axis of time. Positions are in user units.
type plot struct {
	Title, Note   string
	Width, Height int
	Left, Right   int
	Panels        []panel
	Ticks         []tick
	Marks         []mark
	Top, Bottom   int // of the panels
	Axis          int // base line of the labels of time
}

// panel is one scale of a plot.
type panel struct {
	Name, Unit  string
	Top, Bottom int
	Grid        []rule
	Areas       []curve
	Curves      []curve
}

// NameBase and UnitBase are the base lines of its name and what it counts in.
func (pan *panel) NameBase() int { return pan.Top + 12 }

// UnitBase is the base line of what it counts in.
func (pan *panel) UnitBase() int { return pan.Top + 28 }

// rule is a horizontal line, with its value.
type rule struct {
	Y           int
	Class, Text string
}

// Base is the base line of its value.
func (r rule) Base() int { return r.Y + 4 }

// curve is a path, with its name where it ends.
type curve struct {
	Class, Path, Title string
	Label              string
	X, Y               int
}

const (
	plotRight   = 1040 // the names of curves stand behind it
	plotTop     = 34
	panelGap    = 22
	oddsHeight  = 190
	rangeHeight = 110
	shareHeight = 60
	valueX      = axisLeft - 8
	lineHeight  = 14 // of the names of curves
	decade      = 10.0
	mostOdds    = 1e12 // a threshold above it is none
)

// ValueX is where the values of rules end.
func (p *plot) ValueX() int { return valueX }

// moments maps time to the axis, to scale.
type moments struct{ from, to time.Time }

func (m moments) x(t time.Time) float64 {
	whole := m.to.Sub(m.from)
	if whole <= 0 {
		return axisLeft
	}
	part := float64(t.Sub(m.from)) / float64(whole)
	return axisLeft + min(max(part, 0), 1)*(plotRight-axisLeft)
}

// height maps values to a panel, by their logarithms or (linear) as they are.
type height struct {
	low, high   float64
	top, bottom int
	linear      bool
}

func (h height) y(v float64) float64 {
	low, high := h.low, h.high
	if !h.linear {
		v, low, high = math.Log(max(v, h.low)), math.Log(low), math.Log(high)
	}
	part := min(max((v-low)/(high-low), 0), 1)
	return float64(h.bottom) - part*float64(h.bottom-h.top)
}

// plots are those of the report's comparisons, by the check; nothing where there was
// nothing to compare.
func plots(r *Report) []*plot {
	series := map[string][]Evidence{}
	var names []string
	m := moments{}
	for _, e := range r.Evidence {
		if e.FailAt <= 1 || e.FailAt > mostOdds || e.Canary == 0 || e.Baseline == 0 {
			continue
		}
		if series[e.Check] == nil {
			names = append(names, e.Check)
		}
		series[e.Check] = append(series[e.Check], e)
		if m.from.IsZero() || e.At.Before(m.from) {
			m.from = e.At
		}
		if e.At.After(m.to) {
			m.to = e.At
		}
	}
	slices.Sort(names)
	var all []*plot
	for _, name := range names {
		if len(series[name]) > 1 && m.to.After(m.from) {
			all = append(all, plotOf(r, line(name), series[name], m))
		}
	}
	if len(all) > 1 {
		all = append(all, together(r, series, m))
	}
	return all
}

// plotOf is the plot of one comparison.
func plotOf(r *Report, name string, all []Evidence, m moments) *plot {
	last := all[len(all)-1]
	p := newPlot(name, m)
	p.Note = fmt.Sprintf("%s, %d points.", last.Text(), len(all))
	p.odds(all, m)
	p.ratios(all, m)
	p.shares(all, m)
	p.finish(r, m)
	return p
}

func newPlot(title string, m moments) *plot {
	return &plot{Title: title, Width: pictureWidth, Left: axisLeft, Right: plotRight, Top: plotTop, Bottom: plotTop, Ticks: timeTicks(m)}
}

// add makes room for a panel.
func (p *plot) add(name, unit string, tall int) *panel {
	top := p.Bottom
	if len(p.Panels) > 0 {
		top += panelGap
	}
	p.Panels = append(p.Panels, panel{Name: name, Unit: unit, Top: top, Bottom: top + tall})
	p.Bottom = top + tall
	return &p.Panels[len(p.Panels)-1]
}

// odds is the wealth of both bets, on a logarithmic scale, with what each has to reach.
func (p *plot) odds(all []Evidence, m moments) {
	pan := p.add("odds", "to 1", oddsHeight)
	last := all[len(all)-1]
	h := height{low: 1 / decade, high: decade * last.FailAt, top: pan.Top, bottom: pan.Bottom}
	for v := h.low; v <= h.high*1.001; v *= decade {
		pan.Grid = append(pan.Grid, rule{int(math.Round(h.y(v))), "grid", backstay.Short(v)})
	}
	pan.threshold(h, last.FailAt, "worse")
	worse := trace(all, m, h, func(e Evidence) float64 { return e.Odds })
	pan.Curves = append(pan.Curves, curve{Class: "worse", Path: worse, Title: "that the new side is worse", Label: "worse " + backstay.Odds(last.Odds), X: plotRight + 8, Y: int(h.y(last.Odds)) + 4})
	if last.PassAt > 1 {
		pan.threshold(h, last.PassAt, "safe")
		safe := trace(all, m, h, func(e Evidence) float64 { return e.Safe })
		pan.Curves = append(pan.Curves, curve{Class: "safe", Path: safe, Title: "that it is not worse by " + line(last.Margin), Label: "not worse " + backstay.Odds(last.Safe), X: plotRight + 8, Y: int(h.y(last.Safe)) + 4})
	}
	apart(pan.Curves)
}

// threshold draws what a bet has to reach.
func (pan *panel) threshold(h height, at float64, class string) {
	pan.Grid = append(pan.Grid, rule{int(math.Round(h.y(at))), class, ""})
}

// apart keeps the names of two curves from lying on each other.
func apart(curves []curve) {
	if len(curves) != 2 {
		return
	}
	upper, lower := &curves[0], &curves[1]
	if upper.Y > lower.Y {
		upper, lower = lower, upper
	}
	if lower.Y-upper.Y < lineHeight {
		lower.Y = upper.Y + lineHeight
	}
}

// ratios is the range of the odds ratio. A bound that is not known is the panel's edge.
func (p *plot) ratios(all []Evidence, m moments) {
	pan := p.add("odds ratio", "new to running", rangeHeight)
	h := height{low: 1 / decade, high: decade, top: pan.Top, bottom: pan.Bottom}
	for _, v := range []float64{h.low, 1, h.high} {
		pan.Grid = append(pan.Grid, rule{int(math.Round(h.y(v))), "grid", backstay.Short(v)})
	}
	high := func(e Evidence) float64 {
		if e.High <= 0 {
			return h.high
		}
		return e.High
	}
	kept := thin(all, m)
	var upper, lower []string
	for i, e := range kept {
		upper = append(upper, pair(m.x(e.At), h.y(high(e))))
		back := kept[len(kept)-1-i]
		lower = append(lower, pair(m.x(back.At), h.y(back.Low)))
	}
	last := all[len(all)-1]
	label := last.Interval()
	if label == "" {
		label = "not known yet"
	}
	path := "M" + strings.Join(upper, "L") + "L" + strings.Join(lower, "L") + "Z"
	pan.Areas = append(pan.Areas, curve{Class: "range", Path: path, Title: "what the data do not refute", Label: label, X: plotRight + 8, Y: (pan.Top+pan.Bottom)/2 + 4})
}

// shares is the part of the requests that the new side got.
func (p *plot) shares(all []Evidence, m moments) {
	pan := p.add("share", "that the gate stood at", shareHeight)
	h := height{high: 100, top: pan.Top, bottom: pan.Bottom, linear: true}
	for _, v := range []float64{0, 50, 100} {
		pan.Grid = append(pan.Grid, rule{int(math.Round(h.y(v))), "grid", backstay.Short(v) + " %"})
	}
	var b strings.Builder
	kept := thin(all, m)
	for i, e := range kept {
		at := pair(m.x(e.At), h.y(float64(e.Weight)))
		if i == 0 {
			b.WriteString("M" + at)
			continue
		}
		b.WriteString("L" + pair(m.x(e.At), h.y(float64(kept[i-1].Weight))) + "L" + at)
	}
	last := all[len(all)-1]
	label := fmt.Sprintf("%d %%", last.Weight)
	pan.Curves = append(pan.Curves, curve{Class: "share", Path: b.String(), Title: "share of the new side that the gate stood at", Label: label, X: plotRight + 8, Y: int(h.y(float64(last.Weight))) + 4})
}

// together is the plot of all comparisons: the mean of their odds, which decides.
func together(r *Report, series map[string][]Evidence, m moments) *plot {
	var all []Evidence
	for _, one := range series {
		all = append(all, one...)
	}
	slices.SortStableFunc(all, func(a, b Evidence) int { return a.At.Compare(b.At) })
	newest, parts := map[string]backstay.Evidence{}, map[string]float64{}
	for _, e := range all {
		parts[e.Check] = e.Part
	}
	whole := 0.0
	for _, part := range parts {
		whole += part
	}
	sums := make([]Evidence, 0, len(all))
	for _, e := range all {
		newest[e.Check] = e.Evidence
		var now []backstay.Evidence
		for _, one := range newest {
			now = append(now, one)
		}
		sum := e
		sum.Odds = backstay.Weigh(now, whole)
		sums = append(sums, sum)
	}
	p := newPlot("All comparisons together", m)
	pan := p.add("evidence", "in what convicts", oddsHeight/2)
	const lowest = 1e-4
	h := height{low: lowest, high: decade, top: pan.Top, bottom: pan.Bottom}
	for v := h.low; v <= h.high*1.001; v *= decade {
		pan.Grid = append(pan.Grid, rule{int(math.Round(h.y(v))), "grid", backstay.Short(v)})
	}
	pan.threshold(h, 1, "worse")
	last := sums[len(sums)-1].Odds
	pan.Curves = []curve{{
		Class: "worse", Path: trace(sums, m, h, func(e Evidence) float64 { return e.Odds }), Title: "that the new side is worse",
		Label: "together " + backstay.Short(last), X: plotRight + 8, Y: int(h.y(last)) + 4,
	}}
	p.Note = "The mean of the odds, each in units of its own threshold, weighted by the part of each check: from 1 on it fails them."
	p.finish(r, m)
	return p
}

// finish adds what the whole plot shows.
func (p *plot) finish(r *Report, m moments) {
	p.Axis, p.Height = p.Bottom+20, p.Bottom+34
	mark := func(at time.Time, class, text string) {
		if at.Before(m.from.Add(-time.Second)) || at.IsZero() {
			return
		}
		anchor := "middle"
		x := int(math.Round(m.x(at)))
		if x > plotRight-len(text)*glyph/2 {
			anchor = "end"
		}
		p.Marks = append(p.Marks, newMark(x, p.Top, p.Bottom, class, text, anchor))
	}
	if f := r.Failure; f != nil {
		const most = 40
		mark(f.At, "bad", cut(line(f.short()), most))
		return
	}
	for _, ph := range r.Phases {
		if ph.State == backstay.Committed {
			mark(ph.From, "good", "committed")
		}
	}
}

func newMark(x, top, bottom int, class, text, anchor string) mark {
	return mark{X: x, Y: top - 6, Bottom: bottom, Class: class, Text: text, Anchor: anchor}
}

// thin keeps of points that fall on the same place of the axis the last.
func thin(all []Evidence, m moments) []Evidence {
	var kept []Evidence
	for _, e := range all {
		if n := len(kept); n > 0 && int(m.x(kept[n-1].At)) == int(m.x(e.At)) {
			kept[n-1] = e
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// trace is the path of a value over time.
func trace(all []Evidence, m moments, h height, value func(Evidence) float64) string {
	points := make([]string, 0, len(all))
	for _, e := range thin(all, m) {
		points = append(points, pair(m.x(e.At), h.y(value(e))))
	}
	return "M" + strings.Join(points, "L")
}

// pair is a point of a path, to a tenth of a unit.
func pair(x, y float64) string {
	return strconv.FormatFloat(x, 'f', 1, 64) + "," + strconv.FormatFloat(y, 'f', 1, 64)
}

// timeTicks are round times since the first point.
func timeTicks(m moments) []tick {
	whole := m.to.Sub(m.from)
	const most = 8
	step := whole
	for _, s := range []time.Duration{
		100 * time.Millisecond, time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
		time.Hour, 4 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	} {
		if whole/s <= most {
			step = s
			break
		}
	}
	var out []tick
	for d := time.Duration(0); d <= whole && step > 0; d += step {
		out = append(out, tick{int(math.Round(m.x(m.from.Add(d)))), offset(backstay.Duration(d)), "middle"})
	}
	return out
}

// compared is a table of what the comparisons showed last at each gate, with the plots
// where the page can show them.
func (r *Report) compared(d *document, picture bool) {
	type place struct{ check, step string }
	at := map[place]int{}
	var cells [][]string
	for _, e := range r.Evidence {
		if e.FailAt <= 1 {
			continue
		}
		safe := "-"
		if e.PassAt > 1 && e.Margin != "" {
			safe = fmt.Sprintf("%s : 1 of %s (%s)", backstay.Odds(e.Safe), backstay.Short(e.PassAt), e.Margin)
		}
		row := []string{
			e.Check, e.Step, fmt.Sprintf("%d %%", e.Weight), e.Verdict.String(), fmt.Sprintf("%s : 1 of %s", backstay.Odds(e.Odds), backstay.Short(e.FailAt)), safe,
			orNone(e.Interval(), "-"), fmt.Sprintf("%d, %d", e.Canary, e.Baseline),
		}
		if i, known := at[place{e.Check, e.Step}]; known {
			cells[i] = row
			continue
		}
		at[place{e.Check, e.Step}] = len(cells)
		cells = append(cells, row)
	}
	blocks := rows(0, []string{"Check", "Gate", "Share", "Verdict", "Worse", "Not worse (by)", "Odds ratio", "Requests of both"}, cells)
	if picture {
		for _, p := range plots(r) {
			blocks = append(blocks, block{Plot: p})
		}
	}
	d.add(section{Title: "How the two sides compared", Blocks: blocks})
}

package report

import (
	"math"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
)

// picture is a deployment over time: a band of states, a row for each step,
// for its checks and for what people did. Positions are in user units.
type picture struct {
	Width, Height int
	Left, Right   int // of the axis
	Band          []stretch
	Rows          []lane
	Ticks         []tick
	Marks         []mark
	Top, Bottom   int // of the rows
	Axis          int // base line of its labels
	BandBase      int // base line of the band's name
	Hidden        string
}

// stretch is a piece of time.
type stretch struct {
	X, Y, W, H  int
	Class       string // do, failed, back, wait, good, bad, undo, plain
	Title, Text string // Text only where it fits
	Outside     string // beside it, where it does not
}

// Middle, After and Base are where its text stands.
func (b stretch) Middle() int { return b.X + b.W/2 }

// After is where a text beside it begins.
func (b stretch) After() int { return b.X + b.W + 6 }

// Label is where a text beside a dot begins.
func (b stretch) Label() int { return b.X + 10 }

// Base is the base line of its text.
func (b stretch) Base() int { return b.Y + b.H/2 + 4 }

// lane is one row.
type lane struct {
	Name, Title string
	Y, Height   int
	Odd         bool
	Bars        []stretch
	Dots        []stretch // of no length
}

// tick is a time on the axis.
type tick struct {
	X            int
	Text, Anchor string
}

// Base is the base line of the row's name.
func (l lane) Base() int { return l.Y + l.Height/2 + 4 }

// mark is a moment that the whole picture shows.
type mark struct {
	X, Y, Bottom int
	Class, Text  string
	Anchor       string
}

const (
	pictureWidth = 1200
	axisLeft     = 210
	axisRight    = 1170
	bandTop      = 34
	bandHeight   = 22
	laneTop      = 70
	laneHeight   = 30
	minBar       = 5  // so that a short act can be seen
	glyph        = 7  // of a small text
	tickRoom     = 74 // of a label below the axis
	maxLanes     = 48
)

// scale maps time to the axis. Between two moments at which something was
// recorded the axis is as long as the logarithm of the time, so that a step of
// milliseconds and a bake of days are both seen.
type scale struct {
	at []time.Time
	x  []float64
}

func newScale(moments []time.Time) *scale {
	moments = slices.Clone(moments)
	slices.SortFunc(moments, time.Time.Compare)
	moments = slices.CompactFunc(moments, time.Time.Equal)
	if len(moments) < 2 {
		return nil
	}
	s := &scale{at: moments, x: make([]float64, len(moments))}
	for i := 1; i < len(moments); i++ {
		gap := moments[i].Sub(moments[i-1])
		s.x[i] = s.x[i-1] + math.Log1p(float64(gap)/float64(2*time.Millisecond)) + 0.05
	}
	for i, whole := 0, s.x[len(s.x)-1]; i < len(s.x); i++ {
		s.x[i] = axisLeft + s.x[i]/whole*(axisRight-axisLeft)
	}
	return s
}

func (s *scale) pos(t time.Time) int {
	i, found := slices.BinarySearchFunc(s.at, t, time.Time.Compare)
	switch {
	case found:
		return int(math.Round(s.x[i]))
	case i == 0:
		return axisLeft
	case i == len(s.at):
		return axisRight
	}
	part := float64(t.Sub(s.at[i-1])) / float64(s.at[i].Sub(s.at[i-1]))
	return int(math.Round(s.x[i-1] + part*(s.x[i]-s.x[i-1])))
}

// bar is the stretch between two times; what did not end reaches to the end.
func (s *scale) bar(from, to time.Time, class, title string) stretch {
	if to.Before(from) {
		to = s.at[len(s.at)-1]
	}
	b := stretch{X: s.pos(from), Class: class, Title: line(title)}
	b.W = max(s.pos(to)-b.X, minBar)
	b.X = min(b.X, axisRight-b.W)
	return b
}

// says puts the first text that fits into the bar, or the last beside it.
func (b stretch) says(texts ...string) stretch {
	for _, text := range texts {
		if len([]rune(text))*glyph+8 <= b.W {
			b.Text = text
			return b
		}
	}
	if text := texts[len(texts)-1]; b.X+b.W+len([]rune(text))*glyph+8 < axisRight {
		b.Outside = text
	}
	return b
}

// label gives dots the words that fit between them.
func label(dots []stretch, words []string) {
	for i := range dots {
		until := axisRight
		if i+1 < len(dots) {
			until = dots[i+1].X
		}
		const most = 34
		if text := cut(line(words[i]), most); dots[i].X+len([]rune(text))*glyph+14 < until {
			dots[i].Outside = text
		}
	}
}

// draw makes the picture of a report; nil where there is nothing to see.
func draw(r *Report) *picture {
	var moments []time.Time
	for _, e := range r.Events {
		moments = append(moments, e.At)
	}
	for _, s := range r.Steps {
		moments = append(moments, s.Began, s.Ended)
		if s.Undo != nil {
			moments = append(moments, s.Undo.Began, s.Undo.Ended)
		}
	}
	s := newScale(slices.DeleteFunc(moments, time.Time.IsZero))
	if s == nil {
		return nil
	}
	p := &picture{Width: pictureWidth, Left: axisLeft, Right: axisRight, Band: band(r, s)}
	hidden := 0
	for _, st := range r.Steps {
		l := stepLane(st, s)
		switch {
		case len(l.Bars) == 0:
		case len(p.Rows) >= maxLanes && st.Result != failed:
			hidden++
		default:
			p.row(l)
		}
	}
	if hidden > 0 {
		p.Hidden = number(hidden, "more step is", "more steps are") + " not drawn"
	}
	p.row(checkLane(r, s))
	p.row(peopleLane(r, s))
	p.Bottom = laneTop + len(p.Rows)*laneHeight
	p.Top, p.Axis, p.Height, p.BandBase = bandTop+bandHeight+4, p.Bottom+20, p.Bottom+34, bandTop+bandHeight/2+4
	p.Ticks = ticks(s)
	p.Marks = p.marks(r, s)
	return p
}

func (p *picture) row(l lane) {
	if len(l.Bars)+len(l.Dots) == 0 {
		return
	}
	l.Y, l.Height, l.Odd = laneTop+len(p.Rows)*laneHeight, laneHeight, len(p.Rows)%2 == 1
	for i := range l.Bars {
		l.Bars[i].Y, l.Bars[i].H = l.Y+6, laneHeight-12
	}
	for i := range l.Dots {
		l.Dots[i].Y = l.Y + laneHeight/2
	}
	p.Rows = append(p.Rows, l)
}

// band shows the states, one after the other.
func band(r *Report, s *scale) []stretch {
	class := func(st backstay.State) string {
		switch st {
		case backstay.Running:
			return "do"
		case backstay.Holding:
			return "wait"
		case backstay.Committed, backstay.Proven:
			return "good"
		case backstay.RollingBack:
			return "back"
		case backstay.Held:
			return "failed"
		case backstay.Planned, backstay.Approved, backstay.RolledBack, backstay.Closed, backstay.Refused:
		}
		return "plain"
	}
	var out []stretch
	for i, ph := range r.Phases {
		to := s.at[len(s.at)-1]
		if i+1 < len(r.Phases) {
			to = r.Phases[i+1].From
		}
		if !to.After(ph.From) {
			continue
		}
		b := s.bar(ph.From, to, class(ph.State), stateWords(ph.State)+", "+Duration(to.Sub(ph.From)))
		b.Y, b.H = bandTop, bandHeight
		text := stateWords(ph.State)
		if len(text)*glyph+8 <= b.W {
			b.Text = text
		}
		out = append(out, b)
	}
	return out
}

func stepLane(st Step, s *scale) lane {
	const name = 25
	l := lane{Name: cut(line(st.ID), name), Title: line(st.ID + ": " + st.ended())}
	if !st.Began.IsZero() {
		class, text := "do", took(st.Took)
		switch {
		case st.Result == failed:
			class = "failed"
			if text = "failed after " + text; st.Took == nil {
				text = "failed"
			}
		case st.Wait:
			class = "wait"
			if st.Took != nil {
				text = "waited " + text
			}
		}
		l.Bars = append(l.Bars, s.bar(st.Began, st.Ended, class, st.ID+": "+st.ended()).says(text))
	}
	if u := st.Undo; u != nil && !u.Ended.IsZero() {
		from, text := u.Began, "undone in "+took(u.Took)
		if from.IsZero() {
			from = u.Ended
		}
		class := "back"
		switch {
		case u.Result == failed:
			class, text = "failed", "undo failed"
		case u.Result == "untouched":
			text = ""
		case u.Result == "kept":
			text = "kept"
		case u.Took == nil:
			text = "undone"
		}
		bar := s.bar(from, u.Ended, class, "undo of "+st.ID+": "+u.Result).says(text, orNone(took(u.Took), text))
		if len(l.Bars) > 0 && l.Bars[0].Outside != "" && l.Bars[0].X+l.Bars[0].W+len([]rune(l.Bars[0].Outside))*glyph+8 > bar.X {
			l.Bars[0].Outside = "" // the undo stands there
		}
		if u.Result == "untouched" {
			return l
		}
		l.Bars = append(l.Bars, bar)
	}
	return l
}

func checkLane(r *Report, s *scale) lane {
	l, said := lane{Name: "checks", Title: "verify and bake"}, []string{}
	for _, v := range r.Verdicts {
		class := map[backstay.Verdict]string{backstay.Pass: "good", backstay.Fail: "bad", backstay.Undecided: "plain"}[v.Verdict]
		l.Dots = append(l.Dots, stretch{X: s.pos(v.At), Class: class, Title: line(v.words())})
		said = append(said, orNone(v.Check, v.Phase)+" "+v.Verdict.String())
	}
	label(l.Dots, said)
	return l
}

func peopleLane(r *Report, s *scale) lane {
	type act struct {
		at           time.Time
		good         bool
		title, short string
	}
	var acts []act
	for _, a := range slices.Concat(r.Approvals, r.Signals) {
		short := a.Signal + " by " + orNone(a.Actor.Name, a.Actor.String())
		if !a.Accepted {
			short += ", refused"
		}
		acts = append(acts, act{a.At, a.Accepted, a.words(), short})
	}
	for _, t := range r.Takeovers {
		acts = append(acts, act{t.At, true, "taken over: " + t.words(), "node " + t.Node + " took over"})
	}
	slices.SortStableFunc(acts, func(a, b act) int { return a.at.Compare(b.at) })
	l, said := lane{Name: "people and nodes", Title: "what people asked for, and nodes that took over"}, []string{}
	for _, a := range acts {
		class := "plain"
		if !a.good {
			class = "bad"
		}
		l.Dots, said = append(l.Dots, stretch{X: s.pos(a.at), Class: class, Title: line(a.title)}), append(said, a.short)
	}
	label(l.Dots, said)
	return l
}

// ticks labels as many moments as there is room for.
func ticks(s *scale) []tick {
	var out []tick
	for i, at := range s.at {
		x := int(math.Round(s.x[i]))
		if len(out) > 0 && x-out[len(out)-1].X < tickRoom {
			continue
		}
		anchor := "middle"
		if x > axisRight-tickRoom/2 {
			anchor = "end"
		}
		out = append(out, tick{x, offset(backstay.Duration(at.Sub(s.at[0]))), anchor})
	}
	return out
}

// marks are the failure and the end.
func (p *picture) marks(r *Report, s *scale) []mark {
	var out []mark
	taken := 0 // up to where texts stand
	add := func(at time.Time, class, text string) {
		m := mark{X: s.pos(at), Y: bandTop, Bottom: p.Bottom, Class: class, Text: text, Anchor: "middle"}
		width := len([]rune(text)) * glyph
		from := m.X - width/2
		switch {
		case from+width > pictureWidth-8:
			m.Anchor, from = "end", m.X-width
		case from < axisLeft:
			m.Anchor, from = "start", m.X
		}
		if from < taken {
			m.Text = "" // two texts would lie on each other
		}
		taken = from + width + glyph
		out = append(out, m)
	}
	if f := r.Failure; f != nil {
		const most = 40
		add(f.At, "bad", cut(line(f.short()), most))
	}
	if !r.Ended.IsZero() {
		class := map[string]string{"good": "good", "undo": "undo"}[r.tone()]
		if class == "" {
			class = "bad"
		}
		add(r.Ended, class, stateWords(r.State))
	}
	return out
}

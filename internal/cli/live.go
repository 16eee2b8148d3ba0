package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// liveEvery is how often elapsed times move on.
const liveEvery = 100 * time.Millisecond

// liveWatch shows the deployment as a picture that changes in place, on
// stderr's terminal. The terminal stays in its ordinary mode: Ctrl-C comes as
// the signal it is, and a killed process leaves a usable terminal.
type liveWatch struct {
	c       *call
	program *tea.Program
	done    chan struct{}
	once    sync.Once
}

var _ watch = (*liveWatch)(nil)

func newLiveWatch(c *call) *liveWatch {
	w := &liveWatch{c: c, done: make(chan struct{})}
	model := &liveModel{c: c, width: c.width()}
	w.program = tea.NewProgram(model,
		tea.WithInput(nil), tea.WithOutput(c.app.Stderr), tea.WithoutSignalHandler(),
		tea.WithEnvironment(quietTerminal(c.app)), tea.WithFPS(20))
	go func() {
		defer close(w.done)
		// A view that fails must not stop the deployment it shows.
		_, _ = w.program.Run()
	}()
	return w
}

// quietTerminal is the environment that the live view is told of. The library
// asks some terminals for their abilities; nobody reads the answer here, and
// it would end up on the user's prompt. A plain terminal over SSH is not asked.
func quietTerminal(a *App) []string {
	env := []string{"TERM=xterm-256color", "SSH_TTY=unasked"}
	for _, name := range []string{"COLORTERM", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"} {
		if v, ok := a.getenv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func (c *call) width() int {
	const usual = 80
	if c.app.TTY.Width == nil {
		return usual
	}
	if w := c.app.TTY.Width(); w > 0 {
		return w
	}
	return usual
}

type (
	liveView engine.View
	liveSay  string
	liveTick time.Time
	liveEnd  struct{}
)

func (w *liveWatch) show(v engine.View) { w.program.Send(liveView(v)) }

func (w *liveWatch) say(format string, args ...any) {
	w.program.Send(liveSay(fmt.Sprintf(format, cleanArgs(args)...)))
}

func (w *liveWatch) output(step, line string) {
	if w.c.verbose {
		w.say("%s | %s", step, line)
	}
}

func (w *liveWatch) close() {
	w.once.Do(func() {
		w.program.Send(liveEnd{})
		<-w.done
	})
}

// liveModel is the picture.
type liveModel struct {
	c      *call
	view   *engine.View
	width  int
	height int // 0: not known
	now    time.Time
}

var _ tea.Model = (*liveModel)(nil)

func tick() tea.Cmd {
	return tea.Tick(liveEvery, func(t time.Time) tea.Msg { return liveTick(t) })
}

// Init starts the clock.
func (m *liveModel) Init() tea.Cmd { return tick() }

// Update takes what is new.
func (m *liveModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	m.now = m.c.app.Now()
	switch msg := msg.(type) {
	case liveView:
		v := engine.View(msg)
		m.view = &v
	case liveSay:
		return m, tea.Println(string(msg))
	case liveTick:
		return m, tick()
	case liveEnd:
		return m, tea.Quit
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	}
	return m, nil
}

// View draws it.
func (m *liveModel) View() tea.View {
	if m.view == nil {
		return tea.NewView("preparing …")
	}
	p := newPrinter(nil, m.c.err.color)
	// The library clears the last line when it ends: it gets an empty one.
	return tea.NewView(strings.Join(picture(p, *m.view, m.now, m.width, m.height), "\n") + "\n")
}

const (
	// maxPicture bounds the steps that are drawn, and fewSteps how far a small terminal
	// lowers that; the others are counted.
	maxPicture = 24
	fewSteps   = 4
	// frame is what a picture has besides steps and evidence, at most.
	frame = 9
)

// picture draws a view as lines no wider than width and, where that can be, so few
// that a terminal of that height shows all of them (0: it is not known).
func picture(p *printer, v engine.View, now time.Time, width, height int) []string {
	evidence, most := evidenceLines(p, v, now, maxChecks), maxPicture
	if height > 0 {
		if height-frame-len(evidence) < min(len(v.Steps), fewSteps) {
			evidence = briefLines(p, v, maxChecks)
		}
		most = min(max(height-frame-len(evidence), fewSteps), maxPicture)
	}
	var lines []string
	add := func(format string, args ...any) {
		line := fmt.Sprintf(format, cleanArgs(args)...)
		lines = append(lines, lipgloss.NewStyle().MaxWidth(max(width, 20)).Render(line))
	}
	title := orWord(v.Name, v.Release)
	if v.Version != "" {
		title += " " + v.Version
	}
	add("%s  %s  %s", p.paint(boldTone, title), p.paint(stateTone(v.State), stateWord(v.State)), p.paint(dimTone, rounded(since(v.Started, v.Ended, now))))
	shown, before, after := window(v.Steps, most)
	if before > 0 {
		add("  %s", p.paint(dimTone, fmt.Sprintf("… %s before", count(before, "step"))))
	}
	for _, s := range shown {
		glyph, word, t := stepWord(s)
		took := ""
		if !s.Opened.IsZero() {
			took = rounded(since(s.Opened, s.Closed, now))
		}
		text := s.Summary
		if s.Error != "" {
			text = s.Error
		}
		add("  %s %s %s %s %s", p.paint(t, glyph), p.paint(boldTone, padded(s.ID, idWidth(v.Steps))), p.paint(t, padded(word, 11)), p.paint(dimTone, padded(took, 7)), text)
	}
	if after > 0 {
		add("  %s", p.paint(dimTone, fmt.Sprintf("… %s after", count(after, "step"))))
	}
	for _, l := range evidence {
		add("    %s", l)
	}
	if v.Failure != nil {
		where := ""
		if v.Failure.Step != "" {
			where = "step " + v.Failure.Step + ": "
		}
		add("  %s %s%s", p.paint(badTone, string(v.Failure.Cause)+":"), where, v.Failure.Reason)
	}
	if bar := budgetBar(v); bar != "" {
		add("  %s", p.paint(budgetTone(v), bar))
	}
	if v.Next != "" && !v.State.Settled() {
		next := v.Next
		if !v.Until.IsZero() {
			next += ", " + rounded(max(v.Until.Sub(now), 0)) + " left"
		}
		add("  next: %s", next)
	}
	switch {
	case v.State == backstay.Holding:
		_, command := onward(v)
		add("  %s", p.paint(dimTone, "from another terminal: "+command+" · Ctrl-C rolls back"))
	case v.State == backstay.RollingBack:
		add("  %s", p.paint(dimTone, "Ctrl-C twice stops at once; backstay recover goes on"))
	case !v.State.Settled():
		add("  %s", p.paint(dimTone, "Ctrl-C rolls back"))
	}
	return lines
}

// window picks the steps to draw, at most so many: around the first that is not done,
// or, going back, the last that is not pending.
func window(steps []engine.StepView, most int) (shown []engine.StepView, before, after int) {
	if len(steps) <= most {
		return steps, 0, 0
	}
	focus := 0
	for i, s := range steps {
		if s.Phase != engine.PhasePending {
			focus = i
		}
		if s.Phase == engine.PhaseUndoing {
			break
		}
	}
	from := min(max(focus-most/2, 0), len(steps)-most)
	return steps[from : from+most], from, len(steps) - from - most
}

func idWidth(steps []engine.StepView) int {
	const most = 28
	w := 0
	for _, s := range steps {
		w = max(w, lipgloss.Width(cleanLine(s.ID)))
	}
	return min(w, most)
}

func padded(s string, width int) string {
	s = cleanLine(s)
	if n := width - lipgloss.Width(s); n > 0 {
		return s + strings.Repeat(" ", n)
	}
	return s
}

// budgetBar shows how much of rollback.within the undo of what is done would take.
func budgetBar(v engine.View) string {
	if v.Budget <= 0 {
		return ""
	}
	const cells = 20
	full := min(int(float64(cells)*v.UndoCost.Seconds()/v.Budget.Seconds()+0.5), cells)
	return fmt.Sprintf("undo %s%s %s of %s", strings.Repeat("█", full), strings.Repeat("░", cells-full), rounded(v.UndoCost), rounded(v.Budget))
}

func budgetTone(v engine.View) tone {
	switch {
	case v.UndoCost > v.Budget:
		return badTone
	case v.UndoCost > v.Budget*8/10:
		return warnTone
	}
	return dimTone
}

package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// watch shows a deployment as it goes. It is safe for concurrent use.
type watch interface {
	// show takes the newest view.
	show(v engine.View)
	// say shows a line that is about the call rather than the deployment.
	say(format string, args ...any)
	// output shows one line that a step's command printed.
	output(step, line string)
	// close ends the watch; what was shown stays on the screen.
	close()
}

// watch returns the watch that fits the call: events for --json, a live view on
// a terminal, plain lines otherwise.
func (c *call) watch() watch {
	switch {
	case c.json:
		return &eventWatch{c: c}
	case c.live && c.app.TTY.Width != nil && c.app.TTY.Width() > 0:
		return newLiveWatch(c)
	}
	return &plainWatch{c: c}
}

// eventWatch writes one line of JSON per change to stdout.
type eventWatch struct {
	c    *call
	mu   sync.Mutex
	last *engine.View
}

var _ watch = (*eventWatch)(nil)

func (w *eventWatch) show(v engine.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range changes(w.last, v, w.c.app.Now()) {
		ch.Format = "backstay." + w.c.verb + ".event/v1"
		_ = w.c.out.record(ch) // the printer keeps the error
	}
	w.last = &v
}

func (w *eventWatch) say(string, ...any)    {}
func (w *eventWatch) output(string, string) {}
func (w *eventWatch) close()                {}

// plainWatch writes one line per change to stderr.
type plainWatch struct {
	c    *call
	mu   sync.Mutex
	last *engine.View
	told map[string]toldEvidence // by check
}

// toldEvidence is what was said of a check last.
type toldEvidence struct {
	step    string
	verdict backstay.Verdict
	at      time.Duration
}

// evidenceEvery is how often plain lines tell of a check that says the same.
const evidenceEvery = 30 * time.Second

// worth reports whether a line says more than the one before.
func (w *plainWatch) worth(ch change) bool {
	if ch.Kind != changeEvidence {
		return true
	}
	last, known := w.told[ch.Check]
	if known && last.step == ch.Step && last.verdict == *ch.Verdict && ch.Offset-last.at < evidenceEvery {
		return false
	}
	if w.told == nil {
		w.told = map[string]toldEvidence{}
	}
	w.told[ch.Check] = toldEvidence{ch.Step, *ch.Verdict, ch.Offset}
	return true
}

var _ watch = (*plainWatch)(nil)

func (w *plainWatch) show(v engine.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range changes(w.last, v, w.c.app.Now()) {
		if w.worth(ch) {
			w.c.err.change(ch, w.last == nil)
		}
	}
	w.last = &v
}

func (w *plainWatch) say(format string, args ...any) { w.c.err.line(format, args...) }

func (w *plainWatch) output(step, line string) {
	if w.c.verbose {
		w.c.err.line("          %s | %s", step, line)
	}
}

func (w *plainWatch) close() {}

// maxShownOutput bounds the output of a failed step on the screen; the ledger
// has it whole.
const maxShownOutput = 20

// change writes one change as plain lines.
func (p *printer) change(ch change, first bool) {
	at := fmt.Sprintf("%+8.1fs", ch.Offset.Seconds())
	switch ch.Kind {
	case changeState:
		text := stateWord(ch.State)
		if first {
			p.line("%s  deployment %s (%s)", at, ch.Name, ch.Deployment)
		}
		if ch.Text != "" {
			text += ": " + ch.Text
		}
		if !ch.Until.IsZero() {
			text += ", until " + ch.Until.Local().Format("15:04:05")
		}
		p.line("%s  %s", at, p.paint(stateTone(ch.State), text))
		if ch.State == backstay.Holding {
			p.line("           %s    take back: backstay rollback %s", ch.hint, ch.Name)
		}
	case changeStep:
		glyph, word, t := stepWord(*ch.step)
		if ch.Phase == engine.PhasePending {
			word = "not applied"
		}
		text := ch.Step + " " + word
		if ch.Took > 0 {
			text += " in " + rounded(ch.Took)
		}
		if ch.Text != "" {
			text += ": " + ch.Text
		}
		p.line("%s  %s %s", at, p.paint(t, glyph), p.paint(toneOfText(t), text))
		p.block("             | ", lastLines(ch.Output, maxShownOutput))
		if ch.Hint != "" {
			p.line("             hint: %s", ch.Hint)
		}
	case changeFailure:
		text := "turning around (" + string(ch.Cause) + ")"
		if ch.Step == "" && ch.Text != "" {
			text += ": " + ch.Text
		}
		p.line("%s  %s", at, p.paint(badTone, text))
	case changeEvidence:
		p.line("%s  %s %s", at, p.paint(verdictTone(*ch.Verdict), "≈"), evidenceText(ch))
	case changeAct:
		p.line("%s  ▸ %s", at, ch.Text)
	}
}

// toneOfText keeps ordinary progress in the terminal's own color.
func toneOfText(t tone) tone {
	if t == badTone || t == warnTone || t == dimTone {
		return t
	}
	return plainTone
}

// lastLines returns the last n lines of a text.
func lastLines(text string, n int) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	if len(lines) > n {
		lines = append([]string{fmt.Sprintf("… %d lines before; see `backstay report`", len(lines)-n)}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}

// since is the time from a to b, b being now where the thing goes on.
func since(a, b, now time.Time) time.Duration {
	if a.IsZero() {
		return 0
	}
	if b.IsZero() || b.Before(a) {
		b = now
	}
	return max(b.Sub(a), 0)
}

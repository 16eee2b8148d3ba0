package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
)

// rounded shows a duration with as many digits as matter to a person.
func rounded(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// age says how long ago t was.
func (c *call) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return rounded(c.app.Now().Sub(t))
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// phaseWord is a step's phase in the user's words, with a glyph for a quick look.
func phaseWord(p engine.Phase) (glyph, word string, t tone) {
	switch p {
	case engine.PhasePending:
		return "·", "pending", dimTone
	case engine.PhaseOpen:
		return "▸", "doing", boldTone
	case engine.PhaseApplied:
		return "✓", "done", goodTone
	case engine.PhaseFailed:
		return "✗", "failed", badTone
	case engine.PhaseUndoing:
		return "◂", "undoing", warnTone
	case engine.PhaseUndone:
		return "↺", "undone", warnTone
	case engine.PhaseUndoFailed:
		return "✗", "undo failed", badTone
	}
	return "?", string(p), plainTone
}

// stepWord is phaseWord for a step of a view: a hold that is open waits.
func stepWord(s engine.StepView) (glyph, word string, t tone) {
	glyph, word, t = phaseWord(s.Phase)
	switch {
	case s.Phase == engine.PhaseOpen && isHold(s):
		return "?", "waiting", warnTone
	case s.Phase == engine.PhaseApplied && isHold(s):
		return "✓", "approved", goodTone
	case s.Phase == engine.PhaseUndone && s.Undo == engine.CompensationUntouched:
		return "↺", "nothing to undo", dimTone
	case s.Phase == engine.PhaseUndone && s.Undo == engine.CompensationKept:
		return "↺", "undone, somebody's later change kept", warnTone
	case s.Phase == engine.PhaseUndone && s.Undo == engine.CompensationCompensated:
		return "↺", "undone by its command", warnTone
	}
	return glyph, word, t
}

// isHold reports whether the step only waits for people.
func isHold(s engine.StepView) bool { return s.Kind == "approve" }

// stateTone colors a state.
func stateTone(s backstay.State) tone {
	switch s {
	case backstay.Proven, backstay.Committed:
		return goodTone
	case backstay.Held, backstay.Closed:
		return badTone
	case backstay.RolledBack, backstay.RollingBack, backstay.Holding:
		return warnTone
	case backstay.Refused:
		return dimTone
	case backstay.Planned, backstay.Approved, backstay.Running:
		return plainTone
	}
	return plainTone
}

// stateWord is the state in the user's words.
func stateWord(s backstay.State) string { return strings.ReplaceAll(string(s), "_", " ") }

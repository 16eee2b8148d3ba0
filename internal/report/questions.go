package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/plan"
)

// questions are what the facts leave open. Each rule speaks of what is in the
// ledger or missing from it, never of people.
func questions(r *Report, p *plan.Plan) []Question {
	var q []Question
	ask := func(id, step, next, format string, args ...any) {
		q = append(q, Question{ID: id, Step: step, Text: fmt.Sprintf(format, args...), Next: next})
	}
	if p.Owner == "" {
		ask("no_owner", "", "add owner: to the specification", "Who owns %s? The plan names no owner.", p.Release)
	}
	for _, s := range r.Steps {
		frozen, _ := p.Step(s.ID)
		askStep(ask, s, frozen)
	}
	for _, x := range r.Residue {
		if x.Unknown != "" {
			ask("unknown_part", x.Step, "look at it, then `backstay rollback "+r.Name+" --retry`", "What is %s now? It cannot be read: %s.", place(x.Key, x.Part), x.Unknown)
		}
	}
	if n := len(r.Kept); n > 0 {
		ask("outsiders", "", "decide which value is right; `backstay drift` shows what differs", "Who else changes what %s manages? %s of others kept.", r.Release, number(n, "later value was", "later values were"))
	}
	for _, g := range r.Gaps {
		ask("unaccounted", "", "", "What happened in the %s from %s? %s.", Duration(g.Took.Std()), offset(backstay.Duration(g.From.Sub(r.Started))), capital(g.Why))
	}
	for _, s := range slices.Concat(r.Approvals, r.Signals) {
		if !s.Accepted {
			ask("late_signal", s.Step, "", "%s at %s was refused: %s. Was it meant for something else, or did it come too late?", capital(s.Signal), stamp(s.At), s.Why)
		}
	}
	switch r.Drill.Status {
	case drillExpired:
		ask("evidence_expired", "", "`backstay drill` again, then `backstay deploy --plan DIGEST`", "Is the evidence still good? The drill of this plan had expired when the deployment began (%s).", stamp(r.Drill.Expires))
	case drillOther, drillNone:
		ask("never_drilled", "", "`backstay drill`, then `backstay deploy --plan DIGEST`", "Does rolling this plan back restore everything? It was not drilled before it ran.")
	}
	if len(p.Verify) == 0 && r.State != backstay.Refused {
		ask("no_verify", "", "add verify: to the specification", "Does the release work once its steps are done? The plan has no verify check to tell.")
	}
	if w := p.Within.Std(); w > 0 && r.Times.Undo != nil && r.Times.Undo.Std() > w {
		ask("over_budget", "", "make the undo quicker, split the release, or raise rollback.within", "Why did rolling back take %s, longer than rollback.within %s?", took(r.Times.Undo), p.Within)
	}
	if r.Words["not_told"] > 0 {
		ask("not_classified", "", "", "Would %s have succeeded when repeated? The ledger holds no class of the error.", number(r.Words["not_told"], "failed act", "failed acts"))
	}
	for i := 1; i < len(r.Events); i++ {
		if r.Events[i].At.Before(r.Events[i-1].At) {
			ask("clock", "", "look at the hosts' clocks", "Was a clock set back? An entry is dated %s before the one that it follows, so times may be wrong.", Duration(r.Events[i-1].At.Sub(r.Events[i].At)))
			break
		}
	}
	return q
}

// asks adds a question.
type asks func(id, step, next, format string, args ...any)

func askStep(ask asks, s Step, frozen backstay.Step) {
	if s.Undo != nil && s.Undo.Result == "compensated" {
		ask("unverified_undo", s.ID, "look at the target; give the step a read: command", "Did the undo of %s restore what was there? It ran without an error; nothing can be read back to prove it.", s.ID)
	}
	if s.Result == notBegun || s.Wait {
		return
	}
	if frozen.Effect == backstay.AtMostOnce {
		ask("no_probe", s.ID, "give the step a probe: or a read:, or say `idempotent: true`", "Could anything have told whether %s was done? It has neither probe nor read.", s.ID)
	}
	if s.Finding == backstay.Partial || s.Finding == backstay.Unknown {
		ask("process_died", s.ID, "look at the host's own logs", "Why did the process that drove %s end? The ledger only shows that it did.", s.ID)
	}
}

// wouldHaveHelped lists what could have prevented the failure or found it
// earlier, where the ledger shows it. Nothing for what did not fail.
func wouldHaveHelped(r *Report, p *plan.Plan, past Past) []Question {
	f := r.Failure
	if f == nil && r.RevertedBy == "" {
		return nil
	}
	if f == nil {
		f = &Failure{}
	}
	var q []Question
	say := func(id, step, next, format string, args ...any) {
		q = append(q, Question{ID: id, Step: step, Text: fmt.Sprintf(format, args...), Next: next})
	}
	for _, x := range past.Failures {
		if x.Step == f.Step && x.Check == f.Check && x.Cause == f.Cause && f.Cause != backstay.CauseAborted {
			say("seen_before", f.Step, "`backstay report "+x.Last+"`", "The same failed before: %s in the last %s, most recently in %s on %s.",
				number(x.Count, "time", "times"), number(past.Looked, "deployment", "deployments"), x.Last, x.At.UTC().Format(time.DateOnly))
		}
	}
	late := f.Cause == backstay.CauseBakeFailed || r.RevertedBy != ""
	stuck := r.State == backstay.Held || r.State == backstay.Closed
	if stuck && (r.Drill.Status == drillNone || r.Drill.Status == drillOther) {
		say("no_drill", "", "`backstay drill`, then `backstay deploy --plan DIGEST`", "The plan was not drilled: that its rollback leaves something behind was first seen on the real targets.")
	}
	if late && len(p.Verify) == 0 {
		say("no_verify", "", "add verify: to the specification", "There is no verify check: a release that starts and does not work is not noticed before the commit.")
	}
	if r.RevertedBy != "" && p.Bake.For == 0 {
		say("no_bake", "", "add bake: to the specification", "There is no bake: what shows only after a while was not noticed by Backstay.")
	}
	if stuck && f.Cause == backstay.CauseDeadline && p.Within == 0 {
		say("no_budget", "", "add rollback: {within: …}", "There is no rollback.within: nothing vetoes a step whose undo would take too long.")
	}
	if st, ok := p.Step(f.Step); ok {
		wouldHaveHelpedStep(say, st, f)
	}
	if f.Cause == backstay.CauseSignalled {
		say("no_gate", "", "make the alert a gate: query, burn or compare", "It was noticed outside, by what no gate of this release asks for.")
	}
	if f.Cause == backstay.CauseBakeFailed && len(r.Verdicts) > 0 {
		say("verify_passed", "", "add to verify: what the bake saw", "Verification passed and the bake failed with the same checks: longer or sharper checks before the commit could have found it there.")
	}
	return q
}

func wouldHaveHelpedStep(say asks, st backstay.Step, f *Failure) {
	if f.Class == backstay.Transient && st.Retries == 0 {
		say("no_retries", st.ID, "add retries: to the step, where repeating is safe", "Step %s failed with an error that may pass, and is not retried.", st.ID)
	}
	if f.Cause == backstay.CauseDrift {
		say("stale_plan", st.ID, "`backstay drift` before a plan runs", "Something changed between the plan and the step: the nearer the plan to the deployment, the smaller the window.")
	}
	if st.Effect == backstay.AtMostOnce {
		say("no_probe", st.ID, "give the step a probe: or a read:", "Step %s has no probe: after a crash nothing tells whether it was done.", st.ID)
	}
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

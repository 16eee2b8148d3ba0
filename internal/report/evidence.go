package report

import "github.com/backstay-dev/backstay"

func (b *builder) verdict(e backstay.Entry, body backstay.VerdictBody) {
	if body.Evidence != nil {
		b.report.Evidence = append(b.report.Evidence, Evidence{Check: body.Check, Step: e.Step, At: e.At, Verdict: body.Verdict, Evidence: *body.Evidence})
		if b.again(e, body) {
			return
		}
	}
	b.report.Verdicts = append(b.report.Verdicts, Verdict{
		Phase: body.Phase, Check: body.Check, Verdict: body.Verdict, Reason: body.Reason, Samples: body.Samples,
		Took: backstay.Duration(body.Duration), At: e.At,
	})
	weight := map[backstay.Verdict]string{backstay.Pass: "good", backstay.Fail: "bad", backstay.Undecided: ""}[body.Verdict]
	what := body.Phase
	if e.Step != "" {
		what += " " + e.Step // a gate
	}
	if body.Check != body.Phase || e.Step != "" {
		what += " " + body.Check
	}
	b.event(e, weight, "%s: %s%s", what, body.Verdict, because(body.Reason))
	if body.Phase == "watch" && body.Verdict == backstay.Fail {
		b.fail(Failure{Check: body.Check, Cause: backstay.CauseGateFailed, Reason: body.Reason, At: e.At}, b.applied)
	}
	if body.Check != body.Phase || body.Verdict != backstay.Fail || e.Step != "" {
		return
	}
	cause, from := backstay.CauseVerifyFailed, b.applied
	if body.Phase == "bake" {
		cause, from = backstay.CauseBakeFailed, b.committed
	}
	b.fail(Failure{Check: body.Phase, Cause: cause, Reason: body.Reason, At: e.At}, from)
}

// again reports whether the check says what it said before at this gate: then only
// the numbers are new, and the story is not told twice.
func (b *builder) again(e backstay.Entry, body backstay.VerdictBody) bool {
	same := e.Step + " " + body.Phase + " " + body.Verdict.String()
	before := b.said[body.Check]
	if b.said == nil {
		b.said = map[string]said{}
	}
	if before.what == same {
		v := &b.report.Verdicts[before.at]
		v.Reason, v.Samples = body.Reason, body.Samples
		return true
	}
	b.said[body.Check] = said{same, len(b.report.Verdicts)}
	return false
}

// said is what a check said last, and where that stands among the verdicts.
type said struct {
	what string
	at   int
}

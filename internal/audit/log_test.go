package audit_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/audit"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func rows(t *testing.T, b *book, q ledger.Query) []audit.Row {
	t.Helper()
	var out []audit.Row
	err := audit.Log(t.Context(), b, q, func(r audit.Row) error {
		out = append(out, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogGolden(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	for _, r := range rows(t, everyKind(), ledger.Query{AfterLeaf: -1}) {
		out.WriteString(r.String() + "\n")
	}
	golden(t, "log.txt", []byte(out.String()))
}

// everyKind adds to sample the kinds and forms that it does not have.
func everyKind() *book {
	b := sample()
	w := b.deploy("0198c0de-4444-7000-8000-000000000004", "shop", "conf")
	w.add(backstay.EntrySignal, "", backstay.SignalBody{ID: "p", Signal: "pause", Accepted: true, Reason: "lunch"})
	w.add(backstay.EntrySignal, "ask", backstay.SignalBody{ID: "q", Signal: "approve", Step: "ask", Why: "too late: it had to come before noon"})
	w.add(backstay.EntryVerdict, "", backstay.VerdictBody{Check: "health", Phase: "verify", CheckResult: backstay.CheckResult{Verdict: backstay.Fail, Reason: "HTTP 500", Samples: 1}})
	w.add(backstay.EntrySettled, "conf", backstay.SettledBody{OK: true})
	w.add(backstay.EntrySettled, "conf", backstay.SettledBody{Error: "busy"})
	w.add(backstay.EntryNote, "", backstay.NoteBody{Text: "looked at it", Key: "file:/etc/shop.conf"})
	w.add(backstay.EntryObserved, "conf", backstay.ObservedBody{Finding: backstay.Partial, Reason: "the process died"})
	w.add(backstay.EntryIntent, "conf", "not a body")
	b.put(backstay.Entry{V: 1, Kind: backstay.EntryRefused, At: start(), Body: backstay.Canonical(backstay.RefusedBody{
		What: "spec", Problems: []backstay.Problem{{File: "backstay.yaml", Line: 3, Column: 2, Message: "unknown key"}, {Message: "b"}, {Message: "c"}},
	})})
	return b
}

func TestLogFiltersAndLimits(t *testing.T) {
	t.Parallel()
	b := newBook()
	for i := range 100 {
		w := b.deploy(fmt.Sprintf("d%d", i), "shop", "a")
		w.intent("a")
	}
	leaves := func(q ledger.Query) (out []int64) {
		for _, r := range rows(t, b, q) {
			out = append(out, r.Leaf)
		}
		return out
	}
	if diff := cmp.Diff(leaves(ledger.Query{AfterLeaf: 2, Limit: 3}), []int64{3, 4, 5}); diff != "" {
		t.Errorf("limit (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(leaves(ledger.Query{Deployment: "d7", AfterLeaf: -1}), []int64{28, 29, 30, 31}); diff != "" {
		t.Errorf("deployment (-got +want):\n%s", diff)
	}
	if got := len(leaves(ledger.Query{AfterLeaf: -1})); got != 400 {
		t.Errorf("no limit: got %d rows, want 400", got)
	}
	if got := len(leaves(ledger.Query{AfterLeaf: -1, Limit: 300})); got != 300 {
		t.Errorf("limit beyond a page: got %d rows, want 300", got)
	}
}

func TestLogEndsWithTheVisitor(t *testing.T) {
	t.Parallel()
	n := 0
	err := audit.Log(t.Context(), sample(), ledger.Query{AfterLeaf: -1}, func(audit.Row) error {
		if n++; n == 3 {
			return errBroken
		}
		return nil
	})
	if err == nil || n != 3 {
		t.Errorf("got %v after %d rows", err, n)
	}
}

// hostile is text that would forge a line, drive a terminal or turn text around.
const hostile = "ok\n999  2026-01-01  shop#1  root (uid 0)  approve accepted\r\x1b[2J\x1b]0;x\x07\u202eevil\u2066\u200f\u0085\u2028\x00\x7f<script>"

func TestLogForgesNothing(t *testing.T) {
	t.Parallel()
	b := newBook()
	w := b.deploy(hostile, hostile, "conf")
	w.add(backstay.EntrySignal, hostile, backstay.SignalBody{ID: hostile, Signal: hostile, Reason: hostile, Why: hostile, Step: hostile})
	w.add(backstay.EntryNote, hostile, backstay.NoteBody{Text: hostile, Key: hostile})
	w.add(hostile, hostile, hostile)
	w.add(backstay.EntryOutcome, hostile, backstay.OutcomeBody{Error: hostile, Cause: hostile})
	b.leaves[1].Entry.Actor = &backstay.Actor{Name: hostile, Host: hostile}
	for _, r := range rows(t, b, ledger.Query{AfterLeaf: -1}) {
		for _, s := range []string{r.Text, r.String()} {
			for _, c := range s {
				if unicode.IsControl(c) || !unicode.IsPrint(c) {
					t.Errorf("leaf %d shows %U: %q", r.Leaf, c, s)
				}
			}
		}
	}
	b.deployments[0].N++ // a problem that quotes the deployment's ID and name
	r := verify(t, b, options(t))
	for _, l := range strings.Split(text(t, r), "\n") {
		if strings.HasPrefix(l, "999") || strings.ContainsFunc(l, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("the result shows %q", l)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	for _, l := range everyKind().leaves {
		f.Add(string(l.Entry.Kind), l.Entry.Step, []byte(l.Entry.Body))
	}
	f.Fuzz(func(t *testing.T, kind, step string, body []byte) {
		e := backstay.Entry{Kind: backstay.EntryKind(kind), Step: step, Body: json.RawMessage(body)}
		if audit.Describe(e) == "" {
			t.Error("says nothing")
		}
	})
}

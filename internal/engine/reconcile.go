package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
)

// reconcile is compare-and-restore for one resource: which parts must be put
// back to before, and which were changed by an outsider after us and are kept.
// after is what our act left; nil (no outcome) means that whatever differs
// from before is our own partial effect.
func reconcile(before backstay.ResourceState, after *backstay.ResourceState, now backstay.ResourceState) (restore, kept []string) {
	for _, part := range partsOf(before, after, now) {
		b, n := before.Parts[part], now.Parts[part]
		switch {
		case bytes.Equal(b, n):
		case after == nil || bytes.Equal(n, after.Parts[part]):
			restore = append(restore, part)
		default:
			kept = append(kept, part)
		}
	}
	return restore, kept
}

func partsOf(before backstay.ResourceState, after *backstay.ResourceState, now backstay.ResourceState) []string {
	all := map[string]bool{}
	for p := range before.Parts {
		all[p] = true
	}
	for p := range now.Parts {
		all[p] = true
	}
	if after != nil {
		for p := range after.Parts {
			all[p] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// differing lists the parts in which two read states differ.
func differing(a, b backstay.ResourceState) []string {
	var out []string
	for _, p := range partsOf(a, nil, b) {
		if !bytes.Equal(a.Parts[p], b.Parts[p]) {
			out = append(out, p)
		}
	}
	return out
}

// undoChoice is what compare-and-restore decides about a touched step.
type undoChoice struct {
	act      bool                      // the driver's undo must run
	result   string                    // the compensation's result where act is false
	cause    backstay.Cause            // of a failed result
	detail   string                    // of a failed result
	restore  map[backstay.Key][]string // for restorable steps
	kept     []backstay.Residue        // outsiders' values
	residue  []backstay.Residue        // of a failed result
	expected backstay.Image            // what the world must read after the undo
	seen     backstay.Image            // what it read when this was decided
}

// chooseUndo decides how to take back one step. before is the image at its
// first intent, after the image at its outcome (nil: none was recorded), now
// what was just read.
func chooseUndo(st *backstay.Step, before, after, now backstay.Image) undoChoice {
	c := undoChoice{expected: before, seen: now, restore: map[backstay.Key][]string{}}
	opaque, differs, drifted := false, false, false
	for _, k := range st.Keys {
		b, n := before[k], now[k]
		if n.Unreadable != "" {
			c.result, c.cause, c.detail = CompensationFailed, backstay.CauseUnreachable, fmt.Sprintf("%s cannot be read: %s", k, n.Unreadable)
			c.residue = append(c.residue, residueOf(st, k, before, now, backstay.CauseUnreachable)...)
			continue
		}
		if n.Opaque || b.Opaque {
			opaque = true
			continue
		}
		if b.Equal(n) {
			continue
		}
		differs = true
		var was *backstay.ResourceState
		if a, ok := after[k]; ok && a.Unreadable == "" {
			was = &a
			drifted = drifted || !a.Equal(n)
		}
		if !st.Restorable {
			continue
		}
		restore, kept := reconcile(b, was, n)
		if len(restore) > 0 {
			c.restore[k] = restore
		}
		for _, part := range kept {
			c.kept = append(c.kept, backstay.Residue{
				Key: k, Part: part, Step: st.ID, Before: b.Parts[part], Current: n.Parts[part], Cause: backstay.CauseDrift,
				Detail: "changed by somebody else after this deployment; kept",
			})
		}
	}
	switch {
	case c.result == CompensationFailed:
	case !differs && !opaque:
		c.result = CompensationUntouched
	case !st.HasUndo:
		c.result, c.cause, c.detail = CompensationFailed, backstay.CauseNoUndo, "the step has no undo: "+st.Irreversible
		c.residue = residuesOf(st, before, now, backstay.CauseNoUndo)
	case st.Restorable && !opaque && len(c.restore) == 0:
		c.result = CompensationKept
	case !st.Restorable && drifted:
		c.result, c.cause = CompensationFailed, backstay.CauseDrift
		c.detail = "somebody changed it after this deployment; its undo command could overwrite that"
		c.residue = residuesOf(st, before, now, backstay.CauseDrift)
	default:
		c.act = true
	}
	return c
}

// undoUnconfirmed is the error of an undo that claimed success and is not
// confirmed by what is read; part of the ledger format.
const undoUnconfirmed = "the undo reported success, but the resource does not read as before"

// judgeUndo compares what is read after an undo with what was expected. The
// reading decides: an undo's own success proves nothing.
func judgeUndo(st *backstay.Step, c undoChoice, now backstay.Image, undoErr error, cause backstay.Cause) backstay.CompensationBody {
	body := backstay.CompensationBody{Kept: c.kept}
	opaque := false
	for _, k := range st.Keys {
		b, n := c.expected[k], now[k]
		if n.Opaque || b.Opaque {
			opaque = true
			continue
		}
		if n.Unreadable != "" {
			body.Residue = append(body.Residue, residueOf(st, k, c.expected, now, backstay.CauseUnreachable)...)
			continue
		}
		for _, part := range differing(b, n) {
			switch {
			case isKept(body.Kept, k, part):
			case changedDuring(st, c, k, part, n, undoErr):
				kept := partResidue(st, k, part, b, n, backstay.CauseDrift)
				kept.Detail = "changed by somebody else during the rollback; kept"
				body.Kept = append(body.Kept, kept)
			default:
				body.Residue = append(body.Residue, partResidue(st, k, part, b, n, cause))
			}
		}
	}
	if undoErr != nil {
		body.Error = undoErr.Error()
	}
	switch {
	case len(body.Residue) > 0:
		body.Result, body.Cause = CompensationFailed, body.Residue[0].Cause
		if body.Error == "" {
			body.Error = undoUnconfirmed
		}
	case opaque && undoErr != nil:
		body.Result, body.Cause = CompensationFailed, cause
		for _, k := range st.Keys {
			body.Residue = append(body.Residue, residueOf(st, k, c.expected, now, cause)...)
		}
	case opaque:
		body.Result = CompensationCompensated
	case len(body.Kept) > 0:
		body.Result = CompensationKept
	default:
		body.Result = CompensationRestored
	}
	return body
}

// changedDuring reports whether a part that does not read as expected after an
// undo was changed by somebody else meanwhile: the undo had nothing to do with
// it, or says that it put it back while it reads neither so nor as it did
// before the undo began.
func changedDuring(st *backstay.Step, c undoChoice, k backstay.Key, part string, now backstay.ResourceState, undoErr error) bool {
	if !st.Restorable {
		return false
	}
	same := bytes.Equal(now.Parts[part], c.seen[k].Parts[part])
	if !slices.Contains(c.restore[k], part) {
		return !same
	}
	return undoErr == nil && !same
}

// isKept reports whether a part is an outsider's, or a directory that holds
// one and therefore cannot be as it was.
func isKept(kept []backstay.Residue, k backstay.Key, part string) bool {
	return slices.ContainsFunc(kept, func(r backstay.Residue) bool {
		return r.Key == k && (r.Part == part || part == "" || strings.HasPrefix(r.Part, part+"/"))
	})
}

func residuesOf(st *backstay.Step, before, now backstay.Image, cause backstay.Cause) []backstay.Residue {
	var out []backstay.Residue
	for _, k := range st.Keys {
		out = append(out, residueOf(st, k, before, now, cause)...)
	}
	return out
}

// residueOf lists the parts of one key that are not as before. An opaque or
// unreadable key is one unknown part: never guessed.
func residueOf(st *backstay.Step, k backstay.Key, before, now backstay.Image, cause backstay.Cause) []backstay.Residue {
	b, n := before[k], now[k]
	if n.Opaque || b.Opaque {
		return []backstay.Residue{{Key: k, Step: st.ID, Unknown: "nothing can read it", Cause: cause}}
	}
	if n.Unreadable != "" {
		return []backstay.Residue{{Key: k, Step: st.ID, Unknown: n.Unreadable, Cause: cause}}
	}
	var out []backstay.Residue
	for _, part := range differing(b, n) {
		out = append(out, partResidue(st, k, part, b, n, cause))
	}
	return out
}

func partResidue(st *backstay.Step, k backstay.Key, part string, before, now backstay.ResourceState, cause backstay.Cause) backstay.Residue {
	r := backstay.Residue{Key: k, Part: part, Step: st.ID, Before: before.Parts[part], Current: now.Parts[part], Cause: cause}
	if want, ok := st.Want[k]; ok {
		r.Wanted = want.Parts[part]
	}
	return r
}

// within returns path relative to the keyed path above it ("" for equal keys),
// and whether key lies at or above other.
func within(key, other backstay.Key) (rel string, ok bool) {
	if key == other {
		return "", true
	}
	a, aok := strings.CutPrefix(string(key), "file:")
	b, bok := strings.CutPrefix(string(other), "file:")
	if !aok || !bok {
		return "", false
	}
	return strings.CutPrefix(b, strings.TrimSuffix(a, "/")+"/")
}

// withoutOthers drops from a list of differing parts of key those that belong
// to another step's key: parts at or below it, and the directories above it,
// whose times follow from it.
func withoutOthers(key backstay.Key, parts []string, others []backstay.Key) []string {
	var rels []string
	for _, o := range others {
		if rel, ok := within(key, o); ok && o != key {
			rels = append(rels, rel)
		}
	}
	if len(rels) == 0 {
		return parts
	}
	return slices.DeleteFunc(slices.Clone(parts), func(p string) bool {
		return slices.ContainsFunc(rels, func(rel string) bool {
			return p == rel || strings.HasPrefix(p, rel+"/") || p == "" || strings.HasPrefix(rel, p+"/")
		})
	})
}

// confirm checks invariant I2: every key reads as its last step left it. It
// returns one line per key that does not.
func confirm(steps []backstay.Step, after map[string]backstay.Image, now map[string]backstay.Image) []string {
	var wrong []string
	for i, st := range steps {
		for _, k := range st.Keys {
			want, got := after[st.ID][k], now[st.ID][k]
			if want.Opaque || got.Opaque || changedLater(steps[i+1:], k) {
				continue
			}
			if got.Unreadable != "" {
				wrong = append(wrong, fmt.Sprintf("%s cannot be read: %s", k, got.Unreadable))
				continue
			}
			parts := withoutOthers(k, differing(want, got), keysOf(steps[i+1:]))
			if len(parts) > 0 {
				wrong = append(wrong, fmt.Sprintf("%s does not read as step %s left it (%s)", k, st.ID, partList(parts)))
			}
		}
	}
	return wrong
}

// changedLater reports whether one of the steps has this very key, or one above it.
func changedLater(steps []backstay.Step, k backstay.Key) bool {
	for _, st := range steps {
		for _, other := range st.Keys {
			if _, ok := within(other, k); ok {
				return true
			}
		}
	}
	return false
}

func keysOf(steps []backstay.Step) []backstay.Key {
	var all []backstay.Key
	for _, st := range steps {
		all = append(all, st.Keys...)
	}
	return all
}

func partList(parts []string) string {
	const most = 5
	names := make([]string, 0, most+1)
	for i, p := range parts {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(parts)-most))
			break
		}
		if p == "" {
			p = "itself"
		}
		names = append(names, p)
	}
	return strings.Join(names, ", ")
}

// imageOf resolves a reference; load reads stored images.
func imageOf(ref *backstay.ImageRef, load func(digest string) ([]byte, error)) (backstay.Image, error) {
	if ref == nil {
		return nil, nil
	}
	if !ref.Stored {
		return ref.Inline, nil
	}
	data, err := load(ref.Digest)
	if err != nil {
		return nil, fmt.Errorf("load image %.12s: %w", ref.Digest, err)
	}
	var im backstay.Image
	if err := json.Unmarshal(data, &im); err != nil {
		return nil, fmt.Errorf("decode image %.12s: %w", ref.Digest, err)
	}
	return im, nil
}

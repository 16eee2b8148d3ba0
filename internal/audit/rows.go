package audit

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// checkRows holds what commands read against the records: the rows of
// deployments, and the columns that entries are selected by.
func (v *verifier) checkRows(ctx context.Context) error {
	// More than there can be shows rows that no record speaks of.
	listed, err := v.src.List(ctx, ledger.Filter{Limit: len(v.chronicle.sagas) + pageSize})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	now, err := v.src.Head(ctx)
	if err != nil {
		return err
	}
	// While the ledger is written, rows may be ahead of the records read.
	moved := now.Size != v.head.Size
	if err := v.checkFlags(ctx, moved); err != nil {
		return err
	}
	v.names = make(map[string]string, len(listed))
	rows := make(map[string]ledger.Deployment, len(listed))
	for _, d := range listed {
		v.names[d.ID] = d.Name
		rows[d.ID] = d
		if _, ok := v.chronicle.sagas[d.ID]; !ok && !moved {
			v.row(d.ID, fmt.Sprintf("deployment %s is listed, but no record speaks of it", d.Name))
		}
	}
	for _, id := range sortedIDs(v.chronicle.sagas) {
		s := v.chronicle.sagas[id]
		row, ok := rows[id]
		if !ok {
			v.row(id, "records speak of the deployment, but it is not listed")
			continue
		}
		if wrong := s.differs(row, moved); wrong != "" {
			v.row(id, wrong)
		}
		if v.told {
			continue // the columns were compared one by one
		}
		if err := v.checkSelected(ctx, id, s); err != nil {
			return err
		}
	}
	if v.told {
		return nil
	}
	return v.checkKinds(ctx)
}

func (v *verifier) row(id, wrong string) {
	p := Problem{
		Code: "row_differs", Leaf: none, Last: none, Deployment: id, Message: wrong,
		Meaning: "what commands show was changed beside the log; the records are what counts", Do: "take the ledger from a copy",
	}
	if v.chronicle.damaged {
		p.Meaning = "it may follow from the damage reported above"
	}
	v.report(p)
}

// differs compares a row with the records.
func (s *saga) differs(row ledger.Deployment, moved bool) string {
	p := s.planned
	switch {
	case row.N != s.n && (!moved || row.N < s.n):
		return fmt.Sprintf("the row counts %d entries, there are %d", row.N, s.n)
	case s.lost || s.state == "":
		return ""
	case row.PlanDigest != p.PlanDigest:
		return fmt.Sprintf("the row names plan %.12s, the record %.12s", row.PlanDigest, p.PlanDigest)
	case row.Release != p.Release || row.Version != p.Version:
		return fmt.Sprintf("the row says release %q version %q, the record %q version %q", row.Release, row.Version, p.Release, p.Version)
	case row.Reverts != p.Reverts:
		return fmt.Sprintf("the row says that it reverts %q, the record %q", row.Reverts, p.Reverts)
	case s.author != nil && (row.Author.UID != s.author.UID || row.Author.Name != s.author.Name):
		return fmt.Sprintf("the row says it was started by %s, the record by %s", row.Author, s.author)
	case row.State != s.state && !moved:
		return fmt.Sprintf("the row says %s, the records lead to %s", row.State, s.state)
	}
	return ""
}

// checkSelected reads a deployment's entries as commands do and compares them
// with its records.
func (v *verifier) checkSelected(ctx context.Context, id string, s *saga) error {
	entries, err := v.src.Entries(ctx, id, 0)
	if err != nil {
		return v.notSelected(ctx, id, err)
	}
	var digest [32]byte
	count := int64(0)
	for _, e := range entries {
		if e.N > s.n {
			break // written meanwhile
		}
		count++
		if e.N != count || e.Deployment != id {
			break // the digest will not be the same
		}
		digest = sha256.Sum256(append(digest[:], backstay.Canonical(e)...))
	}
	tail, err := v.src.Entries(ctx, id, s.n)
	if err != nil {
		return v.notSelected(ctx, id, err)
	}
	for _, e := range tail {
		if e.N <= s.n {
			v.selected(id, fmt.Sprintf("entry %d is found beyond the last one: its number's column was changed", e.N))
			return nil
		}
	}
	if digest != s.digest {
		v.selected(id, fmt.Sprintf("the entries that commands find (%d) are not the ones recorded (%d): a column of number, deployment or content was changed", len(entries), s.n))
	}
	return nil
}

// notSelected reports that the store itself refuses to hand entries out.
func (v *verifier) notSelected(ctx context.Context, id string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("read entries of %s: %w", id, err)
	}
	v.selected(id, "commands cannot read its entries: "+err.Error())
	return nil
}

func (v *verifier) selected(id, wrong string) {
	p := Problem{
		Code: "columns_differ", Leaf: none, Last: none, Deployment: id, Message: wrong,
		Meaning: "the columns that commands select by were changed; the records are what counts", Do: "take the ledger from a copy",
	}
	if v.chronicle.damaged {
		p.Meaning = "it may follow from the damage reported above"
	}
	v.report(p)
}

// checkKinds selects by kind, as `audit log` does, and compares with the records.
func (v *verifier) checkKinds(ctx context.Context) error {
	for _, kind := range kinds() {
		var got tally
		err := pages(ctx, v.src, ledger.Query{Kind: kind, AfterLeaf: -1}, func(leaves []ledger.Leaf) error {
			for _, l := range leaves {
				if l.Index < v.head.Size {
					got = got.with(l.Index)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read %s entries: %w", kind, err)
		}
		if want := v.chronicle.byKind[kind]; got != want && !v.chronicle.damaged {
			v.report(Problem{
				Code: "columns_differ", Leaf: none, Last: none,
				Message: fmt.Sprintf("selecting %s entries finds %d, the records have %d, or others", kind, got.count, want.count),
				Meaning: "the columns that commands select by were changed; the records are what counts", Do: "take the ledger from a copy",
			})
		}
	}
	return nil
}

package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/plan"
)

// contents checks what entries and plans refer to by content address. All
// stored content is read once, before the entries are, so that a damaged blob
// can be named with the entry that needs it. Its memory grows with what is
// damaged, and with what is missing until the log says that it was collected.
type contents struct {
	src    Contents
	report func(Problem)
	// damaged is what is wrong with the blob of an address, until it was reported.
	damaged map[string]string
	// missing names the first reference to what is not there.
	missing map[string]Problem

	blobs, bytes, collected int64
}

func newContents(src Contents, report func(Problem)) *contents {
	return &contents{src: src, report: report, damaged: map[string]string{}, missing: map[string]Problem{}}
}

// read reads every stored blob and holds it against its address.
func (c *contents) read(ctx context.Context) error {
	for after := ""; ; {
		addresses, err := c.src.Addresses(ctx, after, pageSize)
		if err != nil {
			return c.unlisted("blobs", after, err)
		}
		for _, address := range addresses {
			if err := c.readOne(ctx, address); err != nil {
				return err
			}
			after = address
		}
		if len(addresses) < pageSize {
			return nil
		}
	}
}

// unlisted reports what cannot be listed because the file is damaged.
func (c *contents) unlisted(what, after string, err error) error {
	if !errors.Is(err, ledger.ErrDamaged) {
		return err
	}
	c.report(Problem{
		Code: what + "_unreadable", Leaf: none, Last: none, Message: fmt.Sprintf("the %s after %q cannot be listed: %v", what, short(after), err),
		Meaning: "the file is damaged; what is stored there was not read", Do: "take the ledger from a copy",
	})
	return nil
}

func (c *contents) readOne(ctx context.Context, address string) error {
	size, err := c.src.CheckBlob(ctx, address)
	switch {
	case err == nil:
		c.blobs++
		c.bytes += size
		return nil
	case errors.Is(err, ledger.ErrNotFound):
		return nil // collected since it was listed
	case !errors.Is(err, ledger.ErrDamaged):
		return err
	}
	there, lookErr := c.src.Blobs(ctx).Has(address)
	if lookErr == nil && !there {
		return nil // collected while it was read
	}
	c.damaged[address] = err.Error()
	return nil
}

// take checks what one entry refers to, or takes what one says was collected.
func (c *contents) take(ctx context.Context, r record) error {
	if r.entry.Kind == backstay.EntryNote && r.entry.Deployment == "" {
		c.forgive(r.entry)
	}
	where := r.where()
	what := fmt.Sprintf("the %s entry", r.entry.Kind)
	for _, address := range r.entry.Blobs {
		if err := c.refer(ctx, address, what, where); err != nil {
			return err
		}
	}
	return nil
}

// refer checks one reference.
func (c *contents) refer(ctx context.Context, address, what string, where Problem) error {
	if wrong, ok := c.damaged[address]; ok {
		delete(c.damaged, address)
		c.reportDamaged(address, what+" refers to a blob that is not what it was: "+wrong, where)
		return nil
	}
	there, err := c.src.Blobs(ctx).Has(address)
	if err != nil && !errors.Is(err, ledger.ErrDamaged) {
		return err
	}
	if _, known := c.missing[address]; there || known {
		return nil
	}
	where.Code = "blob_missing"
	where.Message = fmt.Sprintf("%s refers to blob %s, which is not there", what, address)
	where.Meaning = "content was removed, and no entry says that it was collected: what needs it cannot be undone or shown any more"
	where.Do = "take the ledger from a copy"
	c.missing[address] = where
	return nil
}

func (c *contents) reportDamaged(address, message string, where Problem) {
	where.Code, where.Message = "blob_damaged", message+" (blob "+address+")"
	where.Meaning = "content was changed, cut or swapped after it was written: an undo that needs it is refused"
	where.Do = "take the ledger from a copy"
	c.report(where)
}

// forgive takes what the log records as collected: what is missing so far and
// named there went on purpose. What is referred to again later must be there.
func (c *contents) forgive(e backstay.Entry) {
	var note backstay.NoteBody
	if err := e.Decode(&note); err != nil {
		return
	}
	for _, address := range note.Collected {
		if _, ok := c.missing[address]; ok {
			delete(c.missing, address)
			c.collected++
		}
	}
}

// end reports what is still missing, and what is damaged though nothing that
// was read refers to it: the next write that finds it would.
func (c *contents) end() {
	for _, address := range slices.Sorted(maps.Keys(c.missing)) {
		c.report(c.missing[address])
	}
	for _, address := range slices.Sorted(maps.Keys(c.damaged)) {
		c.reportDamaged(address, "no entry or plan refers to it: "+c.damaged[address], Problem{Leaf: none, Last: none})
	}
}

// checkContents checks the stored plans and what they refer to, and ends the
// check of contents.
func (v *verifier) checkContents(ctx context.Context) error {
	if err := v.forgiveNewer(ctx); err != nil {
		return err
	}
	if err := v.checkPlans(ctx); err != nil {
		return err
	}
	v.contents.end()
	v.result.Blobs, v.result.BlobBytes, v.result.Collected = v.contents.blobs, v.contents.bytes, v.contents.collected
	return nil
}

// forgiveNewer takes what was collected while the ledger was verified.
func (v *verifier) forgiveNewer(ctx context.Context) error {
	if len(v.contents.missing) == 0 {
		return nil
	}
	now, err := v.src.Head(ctx)
	if err != nil || now.Size == v.head.Size {
		return err
	}
	return pages(ctx, v.src, ledger.Query{Kind: backstay.EntryNote, AfterLeaf: v.head.Size - 1}, func(leaves []ledger.Leaf) error {
		for _, l := range leaves {
			if l.Index < now.Size && l.Entry.Deployment == "" {
				v.contents.forgive(l.Entry)
			}
		}
		return nil
	})
}

// checkPlans reads every stored plan: those that no deployment runs yet were
// not read with the entries. What a plan refers to is never collected.
func (v *verifier) checkPlans(ctx context.Context) error {
	runs := map[string]string{} // plan to one deployment that runs it
	for _, id := range sortedIDs(v.chronicle.sagas) {
		runs[v.chronicle.sagas[id].planned.PlanDigest] = id
	}
	for after := ""; ; {
		digests, err := v.src.PlanDigests(ctx, after, pageSize)
		if err != nil {
			return v.contents.unlisted("plans", after, err)
		}
		for _, digest := range digests {
			if err := v.checkPlan(ctx, digest, runs[digest]); err != nil {
				return err
			}
			after = digest
		}
		if len(digests) < pageSize {
			return nil
		}
	}
}

func (v *verifier) checkPlan(ctx context.Context, digest, deployment string) error {
	where := Problem{Leaf: none, Last: none, Deployment: deployment}
	data, err := v.src.Plan(ctx, digest)
	wrong := ""
	switch sum := fmt.Sprintf("%x", sha256.Sum256(data)); {
	case errors.Is(err, ledger.ErrDamaged):
		wrong = err.Error()
	case err != nil:
		return err
	case sum != digest:
		wrong = fmt.Sprintf("the plan stored as %.12s hashes to %.12s", digest, sum)
	}
	if wrong != "" {
		if deployment == "" { // else it was reported with the deployment
			where.Code, where.Message = "plan_changed", wrong
			where.Meaning, where.Do = "it is not the plan that was shown and approved", "take the ledger from a copy, or plan again"
			v.report(where)
		}
		return nil
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil //nolint:nilerr // of another version: its digest is right, what it refers to is not known
	}
	for _, address := range p.Blobs() {
		if err := v.contents.refer(ctx, address, fmt.Sprintf("plan %.12s", digest), where); err != nil {
			return err
		}
	}
	return nil
}

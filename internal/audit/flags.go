package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/backstay-dev/backstay"
)

// flagChain is what the records say of one flag: each change begins where the
// former one ended.
type flagChain struct {
	version int64
	after   string // digest of the state
	leaf    int64
}

// takeFlag folds an entry about a flag in, and says how it does not follow.
func (c *chronicle) takeFlag(r record) string {
	var b backstay.FlagBody
	if err := r.entry.Decode(&b); err != nil {
		return "the flag's change cannot be read: " + err.Error()
	}
	was, known := c.flags[b.Key]
	if !known {
		was.after = backstay.Image{b.Key: {}}.Digest() // there was no such flag
	}
	version := was.version + 1
	if b.Act == "ask" {
		version = was.version
	}
	now := flagChain{b.Version, b.After.Digest, r.leaf}
	if b.Act == "ask" {
		now.after = b.Before.Digest // nothing changed yet
		if known {
			now.leaf = was.leaf
		}
	}
	c.flags[b.Key] = now
	for what, ref := range map[string]backstay.ImageRef{"before": b.Before, "after": b.After} {
		if !ref.Stored && ref.Inline.Digest() != ref.Digest {
			return fmt.Sprintf("what %s was %s its change does not hash to what the entry says", b.Key, what)
		}
	}
	switch {
	case b.Version != version:
		return fmt.Sprintf("%s got version %d by %q after version %d", b.Key, b.Version, b.Act, was.version)
	case b.Before.Digest != was.after:
		return fmt.Sprintf("version %d of %s begins with another state than version %d ended with", b.Version, b.Key, was.version)
	}
	return ""
}

// checkFlags holds the flags that programs get against the records.
func (v *verifier) checkFlags(ctx context.Context, moved bool) error {
	chains := v.chronicle.flags
	rows, err := v.src.Flags(ctx, -1)
	if err != nil && len(chains) == 0 {
		return nil // a ledger from before there were flags
	}
	if err != nil {
		return fmt.Errorf("read the flags: %w", err)
	}
	seen := map[backstay.Key]bool{}
	for _, f := range rows {
		seen[f.Key] = true
		chain, ok := chains[f.Key]
		switch {
		case moved:
		case !ok:
			v.row("", fmt.Sprintf("%s is there, but no record speaks of it", f.Key))
		case f.Version != chain.version:
			v.row("", fmt.Sprintf("%s has version %d, the records lead to %d", f.Key, f.Version, chain.version))
		case backstay.Image{f.Key: f.State}.Digest() != chain.after:
			v.row("", fmt.Sprintf("%s gives something else than its record of version %d says", f.Key, f.Version))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(chains)) {
		if !seen[key] && !moved {
			v.row("", fmt.Sprintf("records speak of %s, but it is not there", key))
		}
	}
	return nil
}

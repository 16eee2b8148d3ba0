package engine

import (
	"context"
	"errors"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// flags is the ledger's flag store as a call sees it.
type flags struct {
	store  Store
	writer ledger.FlagWriter
}

var _ backstay.Flags = flags{}

// Flag reads a flag.
func (f flags) Flag(ctx context.Context, key backstay.Key) (backstay.Flag, error) {
	return f.store.Flag(ctx, key)
}

// ChangeFlag changes a flag for the call's step, under the call's token.
func (f flags) ChangeFlag(ctx context.Context, change backstay.FlagChange) (backstay.Flag, error) {
	if f.writer.By == nil {
		return backstay.Flag{}, errors.New("change flag: nothing is changed while a plan is made")
	}
	out, err := f.store.ChangeFlags(ctx, f.writer, change)
	if err != nil {
		return backstay.Flag{}, err
	}
	return out[0], nil
}

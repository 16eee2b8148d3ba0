package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// maxInline is the largest image that an entry holds itself.
const maxInline = 64 << 10

// observeTimeout bounds one look at a step's keys.
const observeTimeout = 2 * time.Minute

// look reads a step's keys, and, with save, stores what is needed to restore
// them. A driver that leaves a key out, or fails whole, yields unreadable keys:
// the engine never takes silence for absence.
func look(ctx context.Context, actions Actions, call backstay.Call, rec *recorder, save bool) (backstay.Image, *recorder) {
	ctx, cancel := context.WithTimeoutCause(ctx, observeTimeout, fmt.Errorf("observe timed out after %s", observeTimeout))
	defer cancel()
	if save {
		call.Blobs = rec
	}
	image, err := actions.Observe(ctx, call)
	out := make(backstay.Image, len(call.Step.Keys))
	for _, k := range call.Step.Keys {
		state, ok := image[k]
		switch {
		case err != nil:
			state = backstay.ResourceState{Unreadable: err.Error()}
		case !ok:
			state = backstay.ResourceState{Unreadable: "its driver did not report it"}
		}
		if s, ok := call.Secrets.(*scrubber); ok {
			state.Unreadable = s.text(state.Unreadable) // goes into entries as it is
		}
		out[k] = state
	}
	return out, rec
}

// looks is how often lookAgain looks at most.
const looks = 4

// lookAgain is look where a conclusion is drawn that a person would be called
// for: what cannot be read is looked at a few times more first.
func (r *runner) lookAgain(ctx context.Context, call backstay.Call, rec *recorder) (image backstay.Image, _ *recorder) {
	for n := 0; ; n++ {
		image, rec = look(ctx, r.e.actions, call, rec, false)
		if _, why := unreadable(image); why == "" || n+1 == looks || ctx.Err() != nil {
			return image, rec
		}
		rest(ctx, r.e.opts.Backoff<<n)
	}
}

// ref makes the reference an entry holds: inline when small, else stored.
func (rec *recorder) ref(im backstay.Image) (backstay.ImageRef, error) {
	data := backstay.Canonical(im)
	sum := sha256.Sum256(data)
	ref := backstay.ImageRef{Digest: hex.EncodeToString(sum[:])}
	if len(data) <= maxInline {
		ref.Inline = im
		return ref, nil
	}
	digest, _, err := rec.Put(bytes.NewReader(data))
	if err != nil {
		return ref, fmt.Errorf("store image: %w", err)
	}
	ref.Digest, ref.Stored = digest, true
	return ref, nil
}

// blobsOf returns what rec stored, without repeats.
func (rec *recorder) blobsOf() []string {
	out := slices.Clone(rec.put)
	slices.Sort(out)
	return slices.Compact(out)
}

// load reads an image of this deployment.
func (r *runner) load(ref *backstay.ImageRef) (backstay.Image, error) {
	return imageOf(ref, r.loadBlob)
}

func (r *runner) loadBlob(digest string) ([]byte, error) {
	rd, err := (&recorder{shared: r.blobs}).Get(digest)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	return io.ReadAll(rd)
}

// isDamage reports whether a load failed because what the ledger should hold is
// not there or not whole, rather than because the store could not be asked.
func isDamage(err error) bool {
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	return backstay.ClassOf(err) == backstay.NotFound || errors.Is(err, ledger.ErrNotFound) || errors.Is(err, ledger.ErrDamaged) ||
		errors.As(err, &syntax) || errors.As(err, &shape)
}

// unreadable returns the first key of an image that could not be read.
func unreadable(im backstay.Image) (backstay.Key, string) {
	for _, k := range im.Keys() {
		if why := im[k].Unreadable; why != "" {
			return k, why
		}
	}
	return "", ""
}

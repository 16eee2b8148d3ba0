package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// Origin is the first line of a ledger's checkpoints: it names the log.
func Origin(ledgerID string) string { return ledger.Origin(ledgerID) }

// Signer signs checkpoints with one Ed25519 key.
type Signer struct{ key note.Signer }

var _ ledger.Signer = (*Signer)(nil)

// NewSigner takes a signer key in the format of golang.org/x/mod/sumdb/note.
// Its errors do not quote the key.
func NewSigner(secret string) (*Signer, error) {
	key, err := note.NewSigner(strings.TrimSpace(secret))
	if err != nil {
		return nil, errors.New("new signer: the text is not a signing key")
	}
	return &Signer{key: key}, nil
}

// SignCheckpoint returns the signed note of a head: origin, size and root in
// the C2SP tlog-checkpoint format.
func (s *Signer) SignCheckpoint(_ context.Context, origin string, head ledger.Head) ([]byte, error) {
	if origin == "" || strings.ContainsFunc(origin, func(r rune) bool { return r < 0x20 || r == 0x7f }) || head.Size < 0 {
		return nil, fmt.Errorf("sign checkpoint: origin %q with size %d is not valid", origin, head.Size)
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, head.Size, base64.StdEncoding.EncodeToString(head.Root[:]))
	signed, err := note.Sign(&note.Note{Text: text}, s.key)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return signed, nil
}

// Store is what making a checkpoint needs of the ledger.
type Store interface {
	Tree
	Checkpoints
	SaveCheckpoint(ctx context.Context, c ledger.Checkpoint) error
}

// Checkpoint signs the ledger's head and stores the signed note. It signs
// nothing when the stored tree does not lead to that head, or when an earlier
// checkpoint does not fit it: a signature would cover up the change. at is the
// time that is stored beside the note, for people.
func Checkpoint(ctx context.Context, store Store, signer ledger.Signer, at time.Time) (ledger.Checkpoint, error) {
	id, err := store.LedgerID(ctx)
	if err != nil {
		return ledger.Checkpoint{}, fmt.Errorf("read ledger ID: %w", err)
	}
	head, err := store.Head(ctx)
	if err != nil {
		return ledger.Checkpoint{}, fmt.Errorf("read ledger head: %w", err)
	}
	if err := fits(ctx, store, head); err != nil {
		return ledger.Checkpoint{}, &backstay.Error{
			Class: backstay.Conflict, Op: "sign checkpoint", Subject: Origin(id), Err: err,
			Hint: "run `backstay audit verify`: it says what was changed",
		}
	}
	signed, err := signer.SignCheckpoint(ctx, Origin(id), head)
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	c := ledger.Checkpoint{Size: head.Size, Note: signed, At: at}
	if err := store.SaveCheckpoint(ctx, c); err != nil {
		return ledger.Checkpoint{}, fmt.Errorf("save checkpoint: %w", err)
	}
	return c, nil
}

// fits checks the head against the stored tree and the newest checkpoint.
func fits(ctx context.Context, store Store, head ledger.Head) error {
	hashes := store.HashReader(ctx)
	root, err := tlog.TreeHash(head.Size, hashes)
	if err != nil {
		return fmt.Errorf("read the tree: %w", err)
	}
	if root != tlog.Hash(head.Root) {
		return errors.New("the stored tree does not lead to the stored head")
	}
	earlier, err := store.ReadCheckpoints(ctx)
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	var newest body
	for _, c := range earlier {
		text, _, _ := bytes.Cut(c.Note, []byte("\n\n"))
		b, err := parseBody(string(text) + "\n")
		if err != nil {
			return fmt.Errorf("read stored checkpoint of size %d: %w", c.Size, err)
		}
		if b.size >= newest.size {
			newest = b
		}
	}
	if newest.size == 0 {
		return nil
	}
	if newest.size > head.Size {
		return fmt.Errorf("a checkpoint covers %d entries, the ledger has %d", newest.size, head.Size)
	}
	if root, err = tlog.TreeHash(newest.size, hashes); err != nil {
		return fmt.Errorf("read the tree: %w", err)
	}
	if root != newest.root {
		return fmt.Errorf("the first %d entries are not the ones that the last checkpoint signed", newest.size)
	}
	return nil
}

// body is what a checkpoint says.
type body struct {
	origin string
	size   int64
	root   tlog.Hash
}

// parseBody reads a checkpoint's text: origin, size and root, one line each;
// further lines are extensions and are passed over.
func parseBody(text string) (body, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" || lines[len(lines)-1] != "" {
		return body{}, errors.New("it is not a checkpoint: origin, size and root are wanted")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > math.MaxInt64/2 || strconv.FormatInt(size, 10) != lines[1] {
		return body{}, fmt.Errorf("%q is not a tree size", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] {
		return body{}, fmt.Errorf("%q is not a root hash", lines[2])
	}
	return body{origin: lines[0], size: size, root: root}, nil
}

// trust is the set of keys whose signatures count.
type trust struct {
	keys  note.Verifiers
	names []string
}

// newTrust reads verifier keys. None is an error: a verification that needs
// no key would pass whatever is put before it.
func newTrust(keys []string) (trust, error) {
	if len(keys) == 0 {
		return trust{}, &backstay.Error{
			Class: backstay.Permanent, Op: "verify", Err: errors.New("no public key was given"),
			Hint: "give the audit.pub that you kept; without a key nothing would be proven",
		}
	}
	var t trust
	verifiers := make([]note.Verifier, 0, len(keys))
	for _, k := range keys {
		v, err := note.NewVerifier(strings.TrimSpace(k))
		if err != nil {
			return trust{}, &backstay.Error{
				Class: backstay.Permanent, Op: "verify", Subject: k, Err: errors.New("it is not a public audit key"),
				Hint: "give the one line of audit.pub",
			}
		}
		verifiers = append(verifiers, v)
		t.names = append(t.names, fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()))
	}
	t.keys = note.VerifierList(verifiers...)
	return t, nil
}

// open checks the signature of a note and reads what it says. Where the
// signature does not count, what the note says is returned with the error.
func (t trust) open(signed []byte) (body, error) {
	n, err := note.Open(signed, t.keys)
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		b, parseErr := parseBody(unverified.Note.Text)
		if parseErr != nil {
			return body{}, parseErr
		}
		who := make([]string, 0, len(unverified.Note.UnverifiedSigs))
		for _, s := range unverified.Note.UnverifiedSigs {
			who = append(who, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
		}
		return b, fmt.Errorf("it is signed by %s, which is not a key that you trust here (%s)", strings.Join(who, ", "), strings.Join(t.names, ", "))
	}
	if err != nil {
		return body{}, fmt.Errorf("its signature is not valid: %w", err)
	}
	return parseBody(n.Text)
}

package ledger

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
)

const saltSize = 16

// sealed is an entry in the form that is stored and hashed.
type sealed struct {
	entry  backstay.Entry
	salt   []byte
	record []byte
	hash   tlog.Hash
}

// seal makes the record of an entry. The salt keeps the hash of a record that
// was erased later from telling what it said.
func seal(e backstay.Entry) (sealed, error) {
	if len(e.Body) > 0 && !json.Valid(e.Body) {
		return sealed{}, fmt.Errorf("seal entry %d (%s): its body is not JSON", e.N, e.Kind)
	}
	if e.Kind == "" {
		return sealed{}, fmt.Errorf("seal entry %d: it has no kind", e.N)
	}
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return sealed{}, fmt.Errorf("seal entry %d: %w", e.N, err)
	}
	record := backstay.Canonical(e)
	return sealed{entry: e, salt: salt, record: record, hash: LeafHash(salt, record)}, nil
}

// LeafHash is the hash that the tree holds of a record: the RFC 6962 leaf hash
// of its salt followed by its bytes.
func LeafHash(salt, record []byte) [32]byte {
	return tlog.RecordHash(append(append(make([]byte, 0, len(salt)+len(record)), salt...), record...))
}

// DecodeRecord reads the record of an entry. Kinds, bodies and fields that it
// does not know are no error: the record's bytes stay the truth.
func DecodeRecord(record []byte) (backstay.Entry, error) {
	var e backstay.Entry
	if err := json.Unmarshal(record, &e); err != nil {
		return backstay.Entry{}, fmt.Errorf("decode entry: %w", err)
	}
	switch {
	case e.V < 1:
		return backstay.Entry{}, fmt.Errorf("decode entry: format %d", e.V)
	case e.Kind == "":
		return backstay.Entry{}, errors.New("decode entry: it has no kind")
	case e.N < 0 || (e.N == 0) != (e.Deployment == ""):
		return backstay.Entry{}, fmt.Errorf("decode entry: number %d of deployment %q", e.N, e.Deployment)
	}
	return e, nil
}

// row is the entry as a row of the entry table.
func (s sealed) row(leaf int64) []any {
	e := s.entry
	var deployment, n any
	if e.Deployment != "" {
		deployment, n = e.Deployment, e.N
	}
	name, uid := "", int64(-1)
	if e.Actor != nil {
		name, uid = e.Actor.Name, int64(e.Actor.UID)
	}
	return []any{leaf, deployment, n, string(e.Kind), e.Step, name, uid, e.At.UnixMicro(), s.salt, s.record}
}

// number gives entries their place in a deployment's log and seals them.
func number(entries []backstay.Entry, deployment string, after, epoch int64, now time.Time) ([]sealed, error) {
	all := make([]sealed, len(entries))
	for i, e := range entries {
		e.V, e.Deployment, e.N, e.Epoch = backstay.EntryFormat, deployment, after+int64(i)+1, epoch
		if e.At.IsZero() {
			e.At = now
		}
		e.At = e.At.UTC().Round(0)
		var err error
		if all[i], err = seal(e); err != nil {
			return nil, err
		}
	}
	return all, nil
}

package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

// ExportFormat names the version of the export.
const ExportFormat = "backstay.audit.export/v1"

// maxExportLine bounds one line of an export that is read.
const maxExportLine = 64 << 20

// exportHeader is the first line of an export.
type exportHeader struct {
	Format     string `json:"format"`
	Ledger     string `json:"ledger"`
	Head       Head   `json:"head"` // when the export was made; the lines end at the checkpoint
	Checkpoint string `json:"checkpoint"`
}

// exportLine is one leaf of an export. Leaf hash = SHA-256(0x00 ‖ salt ‖
// record); Proof leads from it to the root that the checkpoint signs (RFC 6962).
type exportLine struct {
	Leaf   int64       `json:"leaf"`
	Salt   []byte      `json:"salt"`
	Record string      `json:"record"` // the entry's JSON, byte for byte
	Hash   tlog.Hash   `json:"hash"`
	Proof  []tlog.Hash `json:"proof"`
}

// Exported says what an export holds.
type Exported struct {
	Entries int64 `json:"entries"`
	// Newer is how many entries of the ledger are newer than the checkpoint
	// and therefore not in the export.
	Newer int64 `json:"newer"`
}

// Export writes the ledger as JSON Lines up to its newest checkpoint: a header
// with the checkpoint, then each leaf with its salt, record and inclusion
// proof, so that a single line can be verified with the header alone. Make a
// checkpoint first to export everything.
func Export(ctx context.Context, src Source, w io.Writer) (Exported, error) {
	id, err := src.LedgerID(ctx)
	if err != nil {
		return Exported{}, fmt.Errorf("export ledger: %w", err)
	}
	head, err := src.Head(ctx)
	if err != nil {
		return Exported{}, fmt.Errorf("export ledger: %w", err)
	}
	newest, err := newestCheckpoint(ctx, src, head.Size)
	if err != nil {
		return Exported{}, err
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	if err := out.Encode(exportHeader{Format: ExportFormat, Ledger: id, Head: headOf(head), Checkpoint: string(newest.Note)}); err != nil {
		return Exported{}, fmt.Errorf("write export: %w", err)
	}
	hashes := &hashCache{src: src.HashReader(ctx)}
	next := int64(0)
	for next < newest.Size {
		leaves, err := read(ctx, src, next-1, int(min(pageSize, newest.Size-next)))
		if err != nil {
			return Exported{}, fmt.Errorf("export ledger from leaf %d: %w", next, err)
		}
		if len(leaves) == 0 {
			return Exported{}, damagedExport(fmt.Errorf("leaf %d is missing", next))
		}
		if err := hashes.prefetch(next, next+int64(len(leaves))); err != nil {
			return Exported{}, damagedExport(err)
		}
		for _, l := range leaves {
			if l.Index != next {
				return Exported{}, damagedExport(fmt.Errorf("leaf %d is missing", next))
			}
			line, err := exportOf(l, newest.Size, hashes)
			if err != nil {
				return Exported{}, err
			}
			if err := out.Encode(line); err != nil {
				return Exported{}, fmt.Errorf("write export: %w", err)
			}
			next++
		}
	}
	return Exported{Entries: newest.Size, Newer: head.Size - newest.Size}, nil
}

func exportOf(l ledger.Leaf, size int64, hashes tlog.HashReader) (exportLine, error) {
	if !utf8.Valid(l.Record) {
		return exportLine{}, damagedExport(fmt.Errorf("the record of leaf %d is not text", l.Index))
	}
	proof, err := tlog.ProveRecord(size, l.Index, hashes)
	if err != nil {
		return exportLine{}, damagedExport(fmt.Errorf("prove leaf %d: %w", l.Index, err))
	}
	if proof == nil {
		proof = tlog.RecordProof{} // [] in JSON: the only leaf needs no proof
	}
	return exportLine{Leaf: l.Index, Salt: l.Salt, Record: string(l.Record), Hash: recordHash(l.Salt, l.Record), Proof: proof}, nil
}

func recordHash(salt, record []byte) tlog.Hash {
	data := make([]byte, 0, len(salt)+len(record))
	return tlog.RecordHash(append(append(data, salt...), record...))
}

func damagedExport(err error) error {
	return &backstay.Error{
		Class: backstay.Permanent, Op: "export ledger", Err: err,
		Hint: "run `backstay audit verify`: it says what is damaged",
	}
}

func newestCheckpoint(ctx context.Context, src Checkpoints, size int64) (ledger.Checkpoint, error) {
	all, err := src.ReadCheckpoints(ctx)
	if err != nil {
		return ledger.Checkpoint{}, fmt.Errorf("export ledger: %w", err)
	}
	newest := ledger.Checkpoint{Size: -1}
	for _, c := range all {
		if c.Size > newest.Size {
			newest = c
		}
	}
	switch {
	case newest.Size < 0:
		return newest, &backstay.Error{
			Class: backstay.NotFound, Op: "export ledger", Err: errors.New("there is no checkpoint to prove entries against"),
			Hint: "run `backstay audit checkpoint` first",
		}
	case newest.Size > size:
		return newest, damagedExport(fmt.Errorf("a checkpoint covers %d entries, the ledger has %d", newest.Size, size))
	}
	return newest, nil
}

// hashCache keeps the stored hashes that proofs of neighbouring leaves share.
// When it is full it starts over: what the next proofs need is read again.
type hashCache struct {
	src  tlog.HashReader
	kept map[int64]tlog.Hash
}

// ReadHashes implements tlog.HashReader.
func (c *hashCache) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	const room = 1 << 16
	if len(c.kept) > room || c.kept == nil {
		c.kept = map[int64]tlog.Hash{}
	}
	var ask []int64
	for _, i := range indexes {
		if _, ok := c.kept[i]; !ok {
			ask = append(ask, i)
		}
	}
	if len(ask) > 0 {
		got, err := c.src.ReadHashes(ask)
		if err != nil {
			return nil, err
		}
		for i, h := range got {
			c.kept[ask[i]] = h
		}
	}
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = c.kept[index]
	}
	return out, nil
}

// prefetch reads the hashes that leaves [from, to) complete: one read instead
// of one per leaf.
func (c *hashCache) prefetch(from, to int64) error {
	first, last := tlog.StoredHashCount(from), tlog.StoredHashCount(to)
	indexes := make([]int64, 0, last-first)
	for i := first; i < last; i++ {
		indexes = append(indexes, i)
	}
	_, err := c.ReadHashes(indexes)
	return err
}

// VerifyExport checks an export alone: the checkpoint's signature, every leaf
// hash and inclusion proof, that no leaf is missing, that together they give
// the signed root, and the grammar of every deployment. An error means that r
// could not be read or no usable key was given.
func VerifyExport(r io.Reader, publicKeys []string) (Result, error) {
	keys, err := newTrust(publicKeys)
	if err != nil {
		return Result{}, err
	}
	x := &exportVerifier{result: Result{Type: ResultFormat, Of: "export", Keys: keys.names}}
	x.chronicle = newChronicle(x.result.add)
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 0, 64<<10), maxExportLine)
	good := false
	if in.Scan() {
		good = x.header(in.Bytes(), keys)
	} else if in.Err() == nil {
		x.damaged(none, "it is empty")
	}
	for good && in.Scan() {
		x.line(in.Bytes())
	}
	if err := in.Err(); err != nil {
		return Result{}, fmt.Errorf("read export: %w", err)
	}
	if good {
		x.end()
	}
	x.result.Entries = x.tree.size
	x.result.Deployments = len(x.chronicle.sagas)
	x.result.UnknownKinds = x.chronicle.unknown
	x.result.finish(nil)
	return x.result, nil
}

type exportVerifier struct {
	result    Result
	signed    body
	tree      tree
	chronicle *chronicle
}

func (x *exportVerifier) damaged(leaf int64, what string) {
	x.result.add(Problem{
		Code: "export_damaged", Leaf: leaf, Last: leaf, Message: what,
		Meaning: "the export is not what Backstay wrote, or was cut", Do: "export again from the ledger",
	})
}

func (x *exportVerifier) header(text []byte, keys trust) bool {
	var h exportHeader
	if err := json.Unmarshal(text, &h); err != nil || h.Format != ExportFormat {
		x.damaged(none, fmt.Sprintf("its first line is not the header of a %s", ExportFormat))
		return false
	}
	x.result.Ledger, x.result.Head = h.Ledger, h.Head
	var err error
	if x.signed, err = keys.open([]byte(h.Checkpoint)); err != nil {
		x.result.add(Problem{
			Code: "checkpoint_not_trusted", Leaf: none, Last: none, Message: "the export's checkpoint: " + err.Error(),
			Meaning: "nobody you trust signed it: it proves nothing", Do: "give the right public key; if it is right, the export was forged",
		})
		return false
	}
	if x.signed.origin != Origin(h.Ledger) {
		x.damaged(none, fmt.Sprintf("the header names ledger %q, its checkpoint the log %q", h.Ledger, x.signed.origin))
		return false
	}
	return true
}

func (x *exportVerifier) line(text []byte) {
	var l exportLine
	if err := json.Unmarshal(text, &l); err != nil {
		x.damaged(x.tree.size, "the line cannot be read: "+err.Error())
		return
	}
	if l.Leaf != x.tree.size || l.Leaf >= x.signed.size {
		x.damaged(l.Leaf, fmt.Sprintf("leaf %d stands where leaf %d of %d belongs", l.Leaf, x.tree.size, x.signed.size))
		if l.Leaf < x.tree.size || l.Leaf >= x.signed.size {
			return
		}
		x.tree.size, x.tree.broken = l.Leaf, true
	}
	r := readRecord(ledger.Leaf{Index: l.Leaf, Salt: l.Salt, Record: []byte(l.Record)})
	hash := recordHash(l.Salt, []byte(l.Record))
	changed := hash != l.Hash
	if err := tlog.CheckRecord(l.Proof, x.signed.size, x.signed.root, l.Leaf, hash); err != nil || changed {
		changed = true
		p := r.where()
		p.Code, p.Message = "record_changed", "the record and its salt are not what the checkpoint signs at this leaf"
		p.Meaning, p.Do = "the line was changed after it was exported, or the ledger before", "export again, and verify the ledger"
		x.result.add(p)
	}
	if x.tree.broken {
		x.tree.size++
	} else {
		x.tree.push(hash, func() *tlog.Hash { return nil })
	}
	x.chronicle.take(context.Background(), r, changed, nil) //nolint:forbidigo // without rows to compare with, nothing is asked
}

func (x *exportVerifier) end() {
	if x.tree.size < x.signed.size {
		x.damaged(x.tree.size, fmt.Sprintf("leaves %d to %d are missing at its end", x.tree.size, x.signed.size-1))
		return
	}
	if !x.tree.broken && x.tree.root() != x.signed.root {
		x.result.add(Problem{
			Code: "rewritten", Leaf: 0, Last: x.signed.size - 1, Message: "the leaves do not give the root that the checkpoint signs",
			Meaning: "some of them were changed", Do: "export again, and verify the ledger",
		})
		return
	}
	if len(x.result.Problems) == 0 {
		x.result.cover(signed{body: x.signed})
	}
}

package proxy

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// maxBlocks bounds the blocks that are kept for readers that come late.
const maxBlocks = 8192

// feed keeps the newest final blocks, numbered from 1, and wakes its readers.
type feed struct {
	boot string

	mu      sync.Mutex
	blocks  []wire.Block // the newest, in order of Seq
	last    uint64       // Seq of the newest
	final   time.Time
	changed chan struct{} // closed at each change
}

func newFeed(boot string) *feed { return &feed{boot: boot, changed: make(chan struct{})} }

// add numbers and keeps blocks that became final, and says until when all are out.
func (f *feed) add(blocks []wire.Block, final time.Time) {
	slices.SortStableFunc(blocks, func(a, b wire.Block) int {
		return cmp.Or(a.End.Compare(b.End), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Side, b.Side))
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range blocks {
		f.last++
		b.Boot, b.Seq = f.boot, f.last
		f.blocks = append(f.blocks, b)
	}
	if over := len(f.blocks) - maxBlocks; over > 0 {
		f.blocks = slices.Delete(f.blocks, 0, over)
	}
	f.final = final
	close(f.changed)
	f.changed = make(chan struct{})
}

// after returns the kept blocks after seq and the mark that closes them, and a
// channel that is closed when there is more.
func (f *feed) after(seq uint64) (lines []wire.Feed, last uint64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq > f.last {
		seq = 0 // a number of an earlier boot
	}
	oldest := f.last - uint64(len(f.blocks))
	mark := wire.Feed{Format: wire.Format, Boot: f.boot, Final: f.final}
	if seq < oldest {
		mark.Lost, seq = oldest-seq, oldest
	}
	for i := range f.blocks[seq-oldest:] {
		b := f.blocks[seq-oldest:][i]
		lines = append(lines, wire.Feed{Format: wire.Format, Block: &b})
	}
	return append(lines, mark), f.last, f.changed
}

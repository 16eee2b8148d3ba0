package ledger

import "sync"

// mostKnown is how many bytes of records and content a node remembers of one
// deployment. What a failover loses is young: it is a second's work, not a day's.
const mostKnown = 4 << 20

// memory is what this node knows of the deployments that it drives, in case
// the database loses what it acknowledged (rewind.go). It is safe for
// concurrent use.
type memory struct {
	mu  sync.Mutex
	all map[string]*tail
}

// tail is the newest part of one deployment's log as this node wrote it, from
// the moment on that the node took it.
type tail struct {
	epoch, n int64
	salt     []byte // of entry n
	writes   []known
	size     int
}

// known is one acknowledged write.
type known struct {
	n       int64  // the deployment's number of entries before it
	salt    []byte // of entry n: a ledger that has it has the same past
	update  Update
	entries []sealed
	blobs   []content
}

func (k known) size() int {
	size := 0
	for _, e := range k.entries {
		size += len(e.record)
	}
	for _, c := range k.blobs {
		size += len(c.body)
	}
	return size
}

// took begins the memory of a deployment that this node created or claimed.
// salt is that of the entry before the takeover's, or of the last one.
func (m *memory) took(l Lease, salt []byte, takeover []sealed) {
	t := &tail{epoch: l.Epoch, n: l.N - int64(len(takeover)), salt: salt}
	if len(takeover) > 0 {
		t.add(known{update: Update{}, entries: takeover})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[l.Deployment] = t
}

// wrote remembers a write of a deployment, or forgets the deployment when it
// was given up with it.
func (m *memory) wrote(l Lease, u Update, entries []sealed, blobs []content) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.all[l.Deployment]
	switch {
	case t == nil:
	case u.Disown || t.epoch != l.Epoch || t.n != l.N:
		delete(m.all, l.Deployment)
	case len(entries) > 0:
		u.Entries, u.Blobs = nil, nil
		t.add(known{update: u, entries: entries, blobs: blobs})
	}
}

func (t *tail) add(k known) {
	k.n, k.salt = t.n, t.salt
	t.writes = append(t.writes, k)
	t.n += int64(len(k.entries))
	t.salt = k.entries[len(k.entries)-1].salt
	t.size += k.size()
	old := 0
	for ; t.size > mostKnown && old < len(t.writes)-1; old++ {
		t.size -= t.writes[old].size()
	}
	clear(t.writes[:old])
	t.writes = t.writes[old:]
}

func (m *memory) forget(deployment string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, deployment)
}

// since lists what was written after entry n of a ledger whose entry n has
// this salt. It is false where this node does not know, or where that ledger
// has another past.
func (m *memory) since(l Lease, n int64, salt []byte) ([]known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.all[l.Deployment]
	if t == nil || t.epoch != l.Epoch || t.n != l.N {
		return nil, false
	}
	if n == t.n {
		return nil, string(salt) == string(t.salt)
	}
	for i, k := range t.writes {
		if k.n == n {
			return append([]known(nil), t.writes[i:]...), string(salt) == string(k.salt)
		}
	}
	return nil, false
}

// has reports whether this node took the deployment under the lease.
func (m *memory) has(l Lease) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.all[l.Deployment]
	return t != nil && t.epoch == l.Epoch
}

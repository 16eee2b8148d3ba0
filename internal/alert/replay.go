package alert

import (
	"crypto/sha256"
	"sync"
	"time"
)

// window is how far the time of a signed request may be from now; what was taken is
// remembered for as long as it could come again.
const window = 5 * time.Minute

// memory remembers signed requests, by the key and the ID. It is bounded by what a
// sender may send in that time. It is safe for concurrent use.
type memory struct {
	mu    sync.Mutex
	taken map[string]taken
}

// taken is one signed request: its body, the times of its signatures, and until when
// it is remembered.
type taken struct {
	body   [sha256.Size]byte
	stamps []string
	until  time.Time
}

// take remembers a request, and says why it is not to be taken; "" where it is. The
// same ID with a later time is a sender's retry, and taken: its report has the same ID
// as before.
func (m *memory) take(ref, id, stamp string, body []byte, now time.Time) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken == nil {
		m.taken = map[string]taken{}
	}
	for k, t := range m.taken {
		if now.After(t.until) {
			delete(m.taken, k)
		}
	}
	k, sum := ref+"\x00"+id, sha256.Sum256(body)
	t, known := m.taken[k]
	switch {
	case known && t.body != sum:
		return "its ID came with another body before"
	case known:
		for _, s := range t.stamps {
			if s == stamp {
				return "it came before: it is a replay"
			}
		}
	}
	t.body, t.stamps, t.until = sum, append(t.stamps, stamp), now.Add(2*window)
	m.taken[k] = t
	return ""
}

// forget lets a request come again that could not be handled.
func (m *memory) forget(ref, id, stamp string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := ref + "\x00" + id
	t := m.taken[k]
	for i, s := range t.stamps {
		if s == stamp {
			t.stamps = append(t.stamps[:i:i], t.stamps[i+1:]...)
			m.taken[k] = t
			return
		}
	}
}

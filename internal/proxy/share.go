package proxy

import "slices"

// shares is what each side gets of a route's traffic, in percent. The shares
// and unplaced sum to 100, and no share exceeds its side's ready capacity.
type shares struct {
	of       []int
	capacity []int // ready
	unplaced int
}

// share places the weights on what is ready (I15). A side gets its weight, up
// to its ready capacity. What is over goes to sides that have a weight and room,
// in proportion to their weights; then to the fallback side (-1: none); the rest
// is unplaced. A side of weight 0 gets nothing unless it is the fallback.
func share(weights, ready []int, fallback int) *shares {
	s := &shares{of: make([]int, len(weights)), capacity: slices.Clone(ready)}
	over := 0
	for i, w := range weights {
		s.of[i] = min(w, ready[i])
		over += w - s.of[i]
	}
	for over > 0 {
		placed := s.spread(weights, over)
		if placed == 0 {
			break
		}
		over -= placed
	}
	if fallback >= 0 && over > 0 {
		more := min(over, ready[fallback]-s.of[fallback])
		s.of[fallback] += more
		over -= more
	}
	s.unplaced = over
	return s
}

// spread places up to over on the sides that have a weight and room: to each
// its proportion rounded down but at least 1, so that it ends.
func (s *shares) spread(weights []int, over int) (placed int) {
	total := 0
	for i, w := range weights {
		if s.of[i] < s.capacity[i] {
			total += w
		}
	}
	for i, w := range weights {
		room := s.capacity[i] - s.of[i]
		if w == 0 || room <= 0 || placed == over {
			continue
		}
		more := min(max(1, over*w/total), room, over-placed)
		s.of[i] += more
		placed += more
	}
	return placed
}

// pick is the side whose share a point falls into; -1 is unplaced. The point is
// from 0 up to 1.
func (s *shares) pick(point float64) int {
	at := point * 100
	sum := 0
	for i, n := range s.of {
		sum += n
		if n > 0 && at < float64(sum) {
			return i
		}
	}
	return -1
}

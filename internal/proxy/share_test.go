package proxy

import (
	"testing"

	"pgregory.net/rapid"
)

// I15 over all weights and ready capacities of two sides, and random ones of up
// to five: shares and what is unplaced sum to 100, no share exceeds its side's
// ready capacity, an idle side gets nothing, and nothing is unplaced while a
// side with a weight has room.
func TestShare(t *testing.T) {
	t.Parallel()
	check := func(t rapid.TB, weights, ready []int, fallback int) {
		s := share(weights, ready, fallback)
		sum, room := s.unplaced, 0
		for i, n := range s.of {
			sum += n
			if n < 0 || n > ready[i] {
				t.Fatalf("share %v of %v with ready %v: side %d is over its capacity", s.of, weights, ready, i)
			}
			if weights[i] == 0 && n > 0 && i != fallback {
				t.Fatalf("share %v of %v with ready %v: side %d has no weight", s.of, weights, ready, i)
			}
			if n < min(weights[i], ready[i]) {
				t.Fatalf("share %v of %v with ready %v: side %d lost what it can carry", s.of, weights, ready, i)
			}
			if weights[i] > 0 || i == fallback {
				room += ready[i] - n
			}
		}
		if sum != 100 || s.unplaced < 0 || s.unplaced > 0 && room > 0 {
			t.Fatalf("share %v and %d unplaced of %v with ready %v", s.of, s.unplaced, weights, ready)
		}
	}
	for w := range 101 {
		for a := range 101 {
			for _, b := range []int{0, 1, 33, 50, 99, 100} {
				for fallback := -1; fallback < 2; fallback++ {
					check(t, []int{w, 100 - w}, []int{a, b}, fallback)
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "sides")
		weights, ready, left := make([]int, n), make([]int, n), 100
		for i := range n {
			weights[i] = rapid.IntRange(0, left).Draw(t, "weight")
			if i == n-1 {
				weights[i] = left
			}
			left -= weights[i]
			ready[i] = rapid.IntRange(0, 100).Draw(t, "ready")
		}
		check(t, weights, ready, rapid.IntRange(-1, n-1).Draw(t, "fallback"))
	})
}

// A point falls into the share it lies in; growing the first side keeps its users.
func TestPick(t *testing.T) {
	t.Parallel()
	s := share([]int{10, 0, 90}, []int{100, 100, 100}, -1)
	for point, want := range map[float64]int{0: 0, 0.0999: 0, 0.1: 2, 0.9999: 2} {
		if got := s.pick(point); got != want {
			t.Errorf("point %v: side %d, want %d", point, got, want)
		}
	}
	if got := share([]int{10, 90}, []int{100, 50}, -1).pick(0.49); got != 0 {
		t.Errorf("the first side takes over what the second cannot carry: side %d, want 0", got)
	}
	if got := share([]int{10, 90}, []int{20, 50}, -1).pick(0.71); got != -1 {
		t.Errorf("beyond all capacity: side %d, want none", got)
	}
}

package router

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for weight := range 101 {
		for n := 1; n <= 7; n++ {
			parts, sum := Split(weight, n), 0
			for _, p := range parts {
				sum += p
				if p < weight/n || p > weight/n+1 {
					t.Errorf("Split(%d, %d) = %v is not even", weight, n, parts)
				}
			}
			if sum != weight || len(parts) != n {
				t.Errorf("Split(%d, %d) = %v sums to %d", weight, n, parts, sum)
			}
		}
	}
}

func TestPercents(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		parts, want map[string]int
	}{
		{"none", nil, map[string]int{}},
		{"nothing", map[string]int{"a": 0}, map[string]int{}},
		{"whole", map[string]int{"a": 90, "b": 10}, map[string]int{"a": 90, "b": 10}},
		{"a person's", map[string]int{"a": 1, "b": 0}, map[string]int{"a": 100}},
		{"thirds", map[string]int{"a": 1, "b": 1, "c": 1}, map[string]int{"a": 34, "b": 33, "c": 33}},
		{"small", map[string]int{"a": 999, "b": 1}, map[string]int{"a": 100}},
		{"largest remainder", map[string]int{"a": 2, "b": 1}, map[string]int{"a": 67, "b": 33}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Percents(tt.parts)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(got) > 0 && Sum(got) != 100 {
				t.Errorf("%v sums to %d", got, Sum(got))
			}
		})
	}
}

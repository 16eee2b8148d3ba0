package stats

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// table is what a simulation reports, in Markdown: printed when the test and its
// rows, which run in any order, are done.
type table struct {
	mu   sync.Mutex
	rows map[int]string
	last int
}

// newTable names the columns, as in "a | b".
func newTable(t *testing.T, columns string) *table {
	t.Helper()
	tab := &table{rows: map[int]string{}, last: -1}
	t.Cleanup(func() {
		t.Helper()
		lines := []string{"", "| " + columns + " |", "|" + strings.Repeat("---|", strings.Count(columns, "|")+1)}
		for i := range tab.last + 1 {
			if row, ok := tab.rows[i]; ok {
				lines = append(lines, row)
			}
		}
		if len(tab.rows) > 0 {
			t.Log(strings.Join(lines, "\n"))
		}
	})
	return tab
}

// set fills row i, in the form of the columns.
func (tab *table) set(i int, format string, args ...any) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.rows[i] = "| " + fmt.Sprintf(format, args...) + " |"
	tab.last = max(tab.last, i)
}

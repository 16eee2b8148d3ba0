package migration_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// BenchmarkBackfill fills 100,000 rows as a step does, without its pauses, and by a
// bare loop of UPDATEs with the same batches, one after the other on one server.
func BenchmarkBackfill(b *testing.B) {
	const rows, batch = 100_000, 1000
	for _, l := range labs() {
		b.Run(l.name, func(b *testing.B) {
			p := l.shared(b)(b)
			l.stock(b, p, rows)
			for b.Loop() {
				b.StopTimer()
				tr := drivertest.NewTrial(b, p.backfill(map[string]any{"batch": batch, "pause": "1ns"}))
				tr.Begin(b)
				begun := time.Now()
				if err := tr.Do(context.WithoutCancel(b.Context())); err != nil {
					b.Fatal(err)
				}
				step := time.Since(begun)
				begun = time.Now()
				if err := tr.Undo(b, context.WithoutCancel(b.Context())); err != nil {
					b.Fatal(err)
				}
				undo := time.Since(begun)
				bare := l.loop(b, p, rows, batch)
				p.exec(b, "UPDATE stock SET total = NULL, label = 'old' WHERE id % 5 <> 0")
				filled := float64(rows) * 4 / 5
				b.ReportMetric(filled/step.Seconds(), "rows/s")
				b.ReportMetric(filled/undo.Seconds(), "undone/s")
				b.ReportMetric(filled/bare.Seconds(), "bare-rows/s")
				b.ReportMetric(step.Seconds()/bare.Seconds(), "times-bare")
				b.StartTimer()
			}
		})
	}
}

// loop is what people write by hand.
func (l lab) loop(tb testing.TB, p place, rows, batch int) time.Duration {
	tb.Helper()
	dsn := p.dsn
	if strings.HasPrefix(dsn, "file:") {
		dsn += "?_txlock=immediate"
	}
	db, err := sql.Open(p.driver, dsn)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	begun := time.Now()
	for from := 0; from < rows; from += batch {
		query := fmt.Sprintf("UPDATE stock SET total = price * amount, label = 'new' WHERE total IS NULL AND id > %d AND id <= %d", from, from+batch)
		if _, err := db.ExecContext(context.WithoutCancel(tb.Context()), query); err != nil {
			tb.Fatal(err)
		}
	}
	return time.Since(begun)
}

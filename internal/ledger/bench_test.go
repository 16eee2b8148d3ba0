package ledger_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/ledgertest"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/parts"
)

// BenchmarkAppend is one step in steady state (outcome and next intent with a
// before-image of 512 bytes in one commit), beside a bare fsync'd append of
// 4 KiB on the same disk. "alone" commits every write by itself.
func BenchmarkAppend(b *testing.B) {
	b.Run("file", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "file"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		block := make([]byte, 4096)
		for b.Loop() {
			if _, err := f.Write(block); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, deployments := range []int{1, 50} {
		for _, o := range []struct {
			name    string
			options ledger.Options
		}{{"", ledger.Options{}}, {"/alone", ledger.Options{}.Alone()}} {
			b.Run(fmt.Sprintf("sqlite/%d%s", deployments, o.name), func(b *testing.B) {
				s, err := sqlite.Open(b.Context(), b.TempDir(), o.options)
				if err != nil {
					b.Fatal(err)
				}
				benchAppend(b, s, deployments)
			})
			b.Run(fmt.Sprintf("postgres/%d%s", deployments, o.name), func(b *testing.B) {
				dsn := parts.StartPostgres(b).Database(b)
				s, err := postgres.Open(b.Context(), dsn, o.options)
				if err != nil {
					b.Fatal(err)
				}
				before := walSyncs(b, dsn)
				benchAppend(b, s, deployments)
				b.ReportMetric(float64(walSyncs(b, dsn)-before)/float64(b.N), "fsyncs/op")
			})
		}
	}
}

func benchAppend(b *testing.B, s *ledger.Store, deployments int) {
	b.Helper()
	defer s.Close()
	leases := make(chan *ledger.Lease, deployments)
	for range deployments {
		lease := ledgertest.Create(b, s, ledgertest.New(b, "shop"))
		leases <- &lease
	}
	intent := ledgertest.Intent("b")
	intent.Body = fmt.Appendf(nil, `{"before":{"inline":"%s"}}`, bytes.Repeat([]byte("x"), 512))
	entries := []backstay.Entry{ledgertest.Outcome("a"), intent}
	b.ResetTimer()
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range deployments {
		wg.Go(func() {
			lease := <-leases
			for range work {
				if _, err := s.Append(b.Context(), lease, ledger.Update{Entries: entries}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
}

// walSyncs is how often the server synced its log. Sessions report what they
// did when they end, at the latest.
func walSyncs(b *testing.B, dsn string) int64 {
	b.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var n int64
	if err := db.QueryRowContext(b.Context(), "SELECT wal_sync FROM pg_stat_wal").Scan(&n); err != nil {
		b.Logf("syncs are not counted by this server: %v", err)
		return 0
	}
	return n
}

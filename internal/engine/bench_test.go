package engine_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/postgres"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/parts"
	"github.com/backstay-dev/backstay/internal/plan"
)

const benchSteps = 100

// BenchmarkStep measures a no-op step of the engine as a multiple of one bare
// fsync'd append of 4 KiB on the same disk, both in the same iteration.
func BenchmarkStep(b *testing.B) {
	for _, deployments := range []int{1, 50} {
		b.Run(fmt.Sprintf("sqlite/deployments=%d", deployments), func(b *testing.B) {
			store, err := sqlite.Open(b.Context(), b.TempDir(), ledger.Options{Version: "bench"})
			if err != nil {
				b.Fatal(err)
			}
			defer store.Close()
			benchmarkSteps(b, store, deployments)
		})
		b.Run(fmt.Sprintf("postgres/deployments=%d", deployments), func(b *testing.B) {
			pg := parts.StartPostgres(b)
			store, err := postgres.Open(b.Context(), pg.DSN(), ledger.Options{Version: "bench"})
			if err != nil {
				b.Fatal(err)
			}
			defer store.Close()
			benchmarkSteps(b, store, deployments)
		})
	}
}

func benchmarkSteps(b *testing.B, store *ledger.Store, deployments int) {
	b.Helper()
	eng, err := engine.New(store, newWorld(nil), engine.Options{DataDir: b.TempDir(), Actor: backstay.Actor{UID: 1000, Name: "bench"}})
	if err != nil {
		b.Fatal(err)
	}
	steps := max(benchSteps/deployments, 20)
	var deploying, appending time.Duration
	total := 0
	for b.Loop() {
		began := time.Now()
		var all sync.WaitGroup
		for i := range deployments {
			p := noop(fmt.Sprintf("r%d", i), steps)
			all.Go(func() { deployOnce(b, eng, p) })
		}
		all.Wait()
		deploying += time.Since(began)
		total += deployments * steps
		appending += appends(b, steps) / time.Duration(steps)
	}
	perStep := deploying.Seconds() / float64(total)
	perAppend := appending.Seconds() / float64(b.N)
	b.ReportMetric(float64(total)/deploying.Seconds(), "steps/s")
	b.ReportMetric(perStep*1e6, "µs/step")
	b.ReportMetric(perAppend*1e6, "µs/append")
	b.ReportMetric(perStep/perAppend, "x-append")
}

func deployOnce(b *testing.B, eng *engine.Engine, p *plan.Plan) {
	b.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		b.Error(err)
		return
	}
	s, err := eng.Deploy(context.WithoutCancel(b.Context()), engine.Start{ID: id.String(), Plan: p})
	if err != nil || s.State != backstay.Proven {
		b.Errorf("deploy: state %s, %v", s.State, err)
	}
}

// noop is a plan of steps that write one small in-memory value each.
func noop(name string, steps int) *plan.Plan {
	var all []backstay.Step
	for i := range steps {
		st := set(fmt.Sprintf("%s-s%d", name, i))
		all = append(all, st)
	}
	p := chain(all...)
	p.Release = name
	return p
}

// appends writes 4 KiB and syncs, n times, to one file: what a step cannot be
// cheaper than.
func appends(b *testing.B, n int) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "append"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	began := time.Now()
	for range n {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

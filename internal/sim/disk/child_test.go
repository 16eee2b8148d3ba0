package disk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/proc"
	"github.com/backstay-dev/backstay/internal/spec"
)

// The child process: this test binary, told by the environment what to do.
const (
	envRole  = "DISK_ROLE" // deploy, recover
	envDir   = "DISK_DIR"  // holds backstay.yaml
	envWorld = "DISK_WORLD"
	envState = "DISK_STATE"
	envFill  = "DISK_FILL" // POINT:N:DIR: fill the file system of DIR at the N-th hit
)

// ballast is the file that fills a file system.
const ballast = "ballast"

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	if os.Getenv(envRole) != "" {
		err := child(context.Background())
		fmt.Println("peak:", peakMemory())
		if err != nil {
			fmt.Printf("error: %v\nhint: %s\n", err, backstay.HintOf(err))
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child deploys or recovers, and prints the state that it ended in.
func child(ctx context.Context) (err error) {
	dir := os.Getenv(envDir)
	store, err := sqlite.Open(ctx, os.Getenv(envState), ledger.Options{Version: "test", TTL: time.Second})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // a ledger that failed to write fails to say goodbye, too
	kinds, err := all.New()
	if err != nil {
		return err
	}
	e, err := engine.New(store, kinds, engine.Options{
		DataDir: filepath.Join(dir, "data"), Actor: backstay.Actor{UID: os.Getuid(), Host: "here"}, Version: "test",
		Poll: 10 * time.Millisecond, Backoff: 10 * time.Millisecond, Failpoint: filler(os.Getenv(envFill)),
	})
	if err != nil {
		return err
	}
	if os.Getenv(envRole) == "recover" {
		return recoverAll(ctx, store, e)
	}
	p, err := planOf(ctx, e, kinds, dir, os.Getenv(envWorld))
	if err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	s, err := e.Deploy(ctx, engine.Start{ID: id.String(), Plan: p})
	if err == nil {
		report(s)
	}
	return err
}

func report(s engine.Summary) {
	fmt.Println("ended:", s.State)
	for _, r := range s.Residue {
		fmt.Printf("residue: %s because of %s; next: %s\n", r.Key, r.Cause, r.Next)
	}
}

// filler fills a file system at the N-th hit of a point.
func filler(text string) func(at, step string) error {
	parts := strings.SplitN(text, ":", 3)
	if len(parts) != 3 {
		return nil
	}
	nth, _ := strconv.Atoi(parts[1])
	var mu sync.Mutex
	hits := 0
	return func(at, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if at != parts[0] {
			return nil
		}
		if hits++; hits == nth {
			return fill(parts[2])
		}
		return nil
	}
}

// fill writes a file until there is no room for a byte.
func fill(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, ballast), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return f.Close()
}

// recoverAll brings everything to its end; what is held is tried again.
func recoverAll(ctx context.Context, store *ledger.Store, e *engine.Engine) error {
	deps, err := store.List(ctx, ledger.Filter{})
	if err != nil {
		return err
	}
	for _, d := range deps {
		var signal *ledger.Signal
		switch {
		case d.State == backstay.Held:
			signal = &ledger.Signal{ID: "again-" + d.ID, Kind: "retry", Actor: backstay.Actor{UID: os.Getuid()}, At: time.Now()}
		case d.State.Settled():
			fmt.Println("ended:", d.State)
			continue
		}
		for {
			s, err := e.Resume(ctx, d.ID, nil, signal)
			var owned *ledger.OwnedError
			if errors.As(err, &owned) {
				time.Sleep(owned.Owner.Left + 10*time.Millisecond) //nolint:forbidigo // the dead owner's lease must lapse
				continue
			}
			if err != nil {
				return err
			}
			report(s)
			break
		}
	}
	return nil
}

func planOf(ctx context.Context, e *engine.Engine, kinds spec.Kinds, dir, world string) (*plan.Plan, error) {
	sp, err := spec.Load(spec.Source{File: filepath.Join(dir, "backstay.yaml"), Set: map[string]string{"WORLD": world}}, kinds)
	if err != nil {
		return nil, explain(err)
	}
	d := plan.NewDraft(sp)
	seen, err := e.Survey(ctx, d.Requests(), engine.Declared{Sections: sp.Sections, Dir: sp.Dir, Release: sp.Release, Version: sp.Version})
	if err != nil {
		return nil, explain(err)
	}
	p, err := plan.Build(d, seen)
	return p, explain(err)
}

func explain(err error) error {
	var refused *backstay.RefusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %v", err, refused.Problems)
	}
	return err
}

package release_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/all"
	"github.com/backstay-dev/backstay/internal/engine"
	"github.com/backstay-dev/backstay/internal/ledger"
	"github.com/backstay-dev/backstay/internal/ledger/sqlite"
	"github.com/backstay-dev/backstay/internal/plan"
	"github.com/backstay-dev/backstay/internal/proxy"
	"github.com/backstay-dev/backstay/internal/report"
	"github.com/backstay-dev/backstay/internal/spec"
)

// The child process: this test binary, told by the environment what to do.
const (
	envRole = "SIM_ROLE" // deploy, recover, revert, revert-in-stages, proxy
	envDir  = "SIM_DIR"
	envSpec = "SIM_SPEC" // file in SIM_DIR
	envKill = "SIM_KILL" // N: SIGKILL itself at the N-th point of any kind
	envHits = "SIM_HITS" // a file that gets one byte for each point that is hit
)

const proxyFile = "proxy.yaml"

// leaseTTL is short where a process is killed: somebody waits until it lapses.
func leaseTTL() time.Duration {
	if os.Getenv(envKill) != "" {
		return 700 * time.Millisecond
	}
	return 30 * time.Second
}

func child(ctx context.Context) error {
	dir, role := os.Getenv(envDir), os.Getenv(envRole)
	if role == "proxy" {
		return serveProxy(ctx, dir)
	}
	store, err := sqlite.Open(ctx, filepath.Join(dir, "state"), ledger.Options{Version: "test", TTL: leaseTTL()})
	if err != nil {
		return err
	}
	defer store.Close()
	kinds, err := all.New()
	if err != nil {
		return err
	}
	point, err := points(os.Getenv(envKill), os.Getenv(envHits))
	if err != nil {
		return err
	}
	eng, err := engine.New(store, kinds, engine.Options{
		DataDir: filepath.Join(dir, "data"), Actor: backstay.Actor{UID: os.Getuid(), Host: "here"}, Version: "test",
		Poll: 10 * time.Millisecond, Failpoint: func(string, string) error { point(); return nil },
	})
	if err != nil {
		return err
	}
	switch role {
	case "recover":
		return recoverAll(ctx, store, eng)
	case "revert":
		return revertLast(ctx, store, eng, nil)
	case "revert-in-stages":
		return revertLast(ctx, store, eng, kinds.Turn)
	}
	p, err := planOf(ctx, store, eng, kinds, filepath.Join(dir, os.Getenv(envSpec)))
	if err != nil {
		return err
	}
	return run(ctx, store, eng, p)
}

func run(ctx context.Context, store *ledger.Store, eng *engine.Engine, p *plan.Plan) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	s, err := eng.Deploy(ctx, engine.Start{ID: id.String(), Plan: p})
	if err != nil {
		return explain(err)
	}
	why := ""
	if s.Failure != nil {
		why = " " + s.Failure.Step + ": " + s.Failure.Reason
	}
	if err := clock(ctx, store, id.String()); err != nil {
		return err
	}
	fmt.Println(string(s.State) + why)
	for _, r := range s.Residue {
		fmt.Printf("residue %s %s: %s %s\n", r.Key, r.Part, r.Cause, r.Detail)
	}
	return nil
}

// clock prints how long a failed release took, as its report tells: from the first
// request that its new version could get until the failure was recorded, from there
// until the router had taken everybody back, and until all was undone.
func clock(ctx context.Context, store *ledger.Store, id string) error {
	r, err := report.Timeline(ctx, store, id)
	if err != nil || r.Failure == nil || r.Times.Contain == nil || r.Times.Undo == nil {
		return err
	}
	for _, step := range r.Steps {
		if step.Kind == "gate" {
			fmt.Println("took", r.Failure.At.Sub(step.Began), r.Times.Contain.Std(), r.Times.Undo.Std())
			break
		}
	}
	return nil
}

// points ends this process at the N-th point, and counts them in a file.
func points(kill, file string) (func(), error) {
	n, _ := strconv.Atoi(kill)
	var (
		mu   sync.Mutex
		hits int
		out  = io.Discard
	)
	if file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		out = f
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		_, _ = out.Write([]byte{'.'})
		if hits++; hits == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}, nil
}

func recoverAll(ctx context.Context, store *ledger.Store, eng *engine.Engine) error {
	deps, err := store.List(ctx, ledger.Filter{})
	if err != nil {
		return err
	}
	for _, d := range deps {
		for !d.State.Settled() {
			s, err := eng.Resume(ctx, d.ID, nil, nil)
			var owned *ledger.OwnedError
			if errors.As(err, &owned) {
				time.Sleep(owned.Owner.Left + 10*time.Millisecond) //nolint:forbidigo // the dead owner's lease must lapse
				continue
			}
			if err != nil {
				return err
			}
			d.State = s.State
		}
	}
	newest, err := store.List(ctx, ledger.Filter{Limit: 1})
	if err != nil || len(newest) == 0 {
		return fmt.Errorf("find the newest deployment: %d found, %w", len(newest), err)
	}
	fmt.Println(newest[0].State, newest[0].Version)
	return nil
}

// revertLast takes the newest proven deployment back, in stages where it can turn
// moves.
func revertLast(ctx context.Context, store *ledger.Store, eng *engine.Engine, turn plan.Turn) error {
	deps, err := store.List(ctx, ledger.Filter{States: []backstay.State{backstay.Proven}, Limit: 1})
	if err != nil || len(deps) == 0 {
		return fmt.Errorf("find what to take back: %d found, %w", len(deps), err)
	}
	old, done, err := eng.Undone(ctx, deps[0].ID)
	if err != nil {
		return err
	}
	p, err := plan.Revert(old, deps[0].ID, deps[0].Name, done)
	if err != nil {
		return explain(err)
	}
	if turn != nil {
		if err := plan.Gradual(p, old, []int{25, 100}, backstay.Duration(50*time.Millisecond), turn); err != nil {
			return explain(err)
		}
	}
	return run(ctx, store, eng, p)
}

func planOf(ctx context.Context, store *ledger.Store, eng *engine.Engine, kinds spec.Kinds, file string) (*plan.Plan, error) {
	sp, err := spec.Load(spec.Source{File: file}, kinds)
	if err != nil {
		return nil, explain(err)
	}
	blobs, pinned := store.NewBlobBuffer(ctx), map[string]backstay.Artifact{}
	for name, a := range sp.Artifacts {
		path := filepath.Join(sp.Dir, a.File)
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		digest, size, err := blobs.Put(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		pinned[name] = backstay.Artifact{Name: name, File: path, SHA256: digest, Size: size}
	}
	if err := blobs.Flush(ctx); err != nil {
		return nil, err
	}
	d := plan.NewDraft(sp)
	seen, err := eng.Survey(ctx, d.Requests(), engine.Declared{Sections: sp.Sections, Artifacts: pinned, Dir: sp.Dir, Release: sp.Release, Version: sp.Version})
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

// serveProxy is the data plane, until SIGTERM.
func serveProxy(ctx context.Context, dir string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	config, err := proxy.ReadConfig(filepath.Join(dir, proxyFile))
	if err != nil {
		return explain(err)
	}
	return proxy.Run(ctx, config, proxy.RunOptions{State: filepath.Join(dir, "proxy"), Serving: func([]string) { fmt.Println("serving") }})
}

// serve is the shop: test-binary serve ADDRESS VERSION DIR.
func serve(address, version string) int {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			_, _ = fmt.Fprintln(w, version, i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "end")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if share, fails := strings.CutPrefix(version, "fails-"); fails {
			if percent, _, _ := strings.Cut(share, "."); rand.Float64() < number(percent)/100 {
				http.Error(w, "failed on purpose", http.StatusInternalServerError)
				return
			}
		}
		time.Sleep(pace(version)) //nolint:forbidigo // it is what is measured
		_, _ = io.WriteString(w, version)
	})
	server := http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		_ = server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := server.ListenAndServe(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
		return 1
	}
	<-ended
	return 0
}

// pace is how long a version takes to answer: a paced one 8 ms, a slow one as many
// percent more as its name says.
func pace(version string) time.Duration {
	const unhurried = 8 * time.Millisecond
	if strings.HasPrefix(version, "paced-") {
		return unhurried
	}
	if more, slow := strings.CutPrefix(version, "slow-"); slow {
		percent, _, _ := strings.Cut(more, ".")
		return time.Duration(float64(unhurried) * (1 + number(percent)/100))
	}
	return 0
}

// number reads the 10 of "10".
func number(text string) float64 {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(err)
	}
	return f
}

// line is the last line of a text.
func line(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

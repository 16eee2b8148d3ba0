package cli

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/config"
	"github.com/backstay-dev/backstay/internal/drill"
	"github.com/backstay-dev/backstay/internal/sandbox"
)

// standIns are what stands in, at level D2, for targets that are no files of this
// host. Every cell has a copy of each of its own.
type standIns struct {
	keys    []backstay.Key
	scratch []backstay.Scratch
	// A server may take longer to drop a copy than a cell to play: that goes on
	// beside the next cells.
	dropping sync.WaitGroup
	mu       sync.Mutex
	kept     []error // copies that could not be removed
}

// standIn makes what stands in for a step's target, once for each target.
func (s *session) standIn(ctx context.Context, made planned, st backstay.Step, real *drill.Real, all *standIns) error {
	k, ok := s.kinds.(stander)
	if !ok || !k.Rehearses(st.Kind) || len(st.Keys) == 0 {
		return nil
	}
	const of = "it runs on a copy of the database's schema without its rows (a scratch database on the same server), and somebody adds rows to its tables meanwhile"
	for i, key := range all.keys {
		if key == st.Keys[0] {
			if all.scratch[i] != nil {
				real.Scratch[st.ID] = of
			}
			return nil
		}
	}
	secrets, err := config.NewSecrets(made.dir, s.c.app.getenv)
	if err != nil {
		return err
	}
	scratch, err := k.Scratch(ctx, st, secrets)
	if err != nil {
		return fmt.Errorf("no scratch database can be made: %w", err)
	}
	all.keys, all.scratch = append(all.keys, st.Keys[0]), append(all.scratch, scratch)
	if scratch != nil {
		real.Scratch[st.ID] = of
	}
	return nil
}

// remove removes all templates. What could not be is told: it is on a server.
func (all *standIns) remove(ctx context.Context, c *call) {
	all.dropping.Wait()
	for _, err := range all.kept {
		c.progress("%v", err)
	}
	for _, scratch := range all.scratch {
		if scratch == nil {
			continue
		}
		if err := scratch.Remove(context.WithoutCancel(ctx)); err != nil {
			c.progress("%v", err)
		}
	}
}

// firstDoor is the first port of the doors to stand-ins. Nothing else listens in a
// sandbox before the cell begins.
const firstDoor = 20001

// try has one cell tried on copies of its own.
func (all *standIns) try(ctx context.Context, dir string, job drill.Job) (out drill.Tried, err error) {
	var doors []sandbox.Door
	job.Instead = map[string]string{}
	for i, scratch := range all.scratch {
		if scratch == nil {
			continue
		}
		at := fmt.Sprintf("127.0.0.1:%d", firstDoor+i)
		one, failed := scratch.Copy(ctx, at)
		if failed != nil {
			return out, failed
		}
		defer all.drop(ctx, one)
		maps.Copy(job.Instead, one.Secrets)
		doors = append(doors, sandbox.Door{At: at, Dial: one.Dial})
	}
	return tryInSandbox(ctx, dir, job, doors...)
}

// drop removes a copy in the background.
func (all *standIns) drop(ctx context.Context, one backstay.ScratchCopy) {
	all.dropping.Go(func() {
		if err := one.Remove(context.WithoutCancel(ctx)); err != nil {
			all.mu.Lock()
			defer all.mu.Unlock()
			all.kept = append(all.kept, err)
		}
	})
}

// instead resolves some references to what stands in for their targets.
type instead struct {
	values map[string]string
	backstay.Secrets
}

// Resolve prefers the stand-in.
func (i instead) Resolve(ref string) (string, error) {
	if value, ok := i.values[ref]; ok {
		return value, nil
	}
	return i.Secrets.Resolve(ref)
}

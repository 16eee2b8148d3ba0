package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/proc"
)

// store is the directory of one service: the file "current", the file
// "wanted" (the release that was last asked for) and a record per instance.
type store struct {
	name string
	dir  string
}

func openStore(dataDir, name string) store {
	return store{name: name, dir: filepath.Join(dataDir, "services", name)}
}

// recordFormat is the version of current and of the instances' records.
const recordFormat = 1

// instance is one process of a service, as it is recorded right after its
// start. Its ID is also the name of its run: its children carry it.
type instance struct {
	V  int    `json:"v"`
	ID string `json:"id"`
	// Set names the instances that were started together: "deployment/step".
	Set   string `json:"set"`
	Index int    `json:"index"` // {instance}, from 1
	proc.Identity
	Port        int    `json:"port,omitempty"`
	ReleaseName string `json:"release_dir"`
	Digest      string `json:"definition"` // of its definition
	Deployment  string `json:"deployment"` // that started it
	Step        string `json:"step"`
	Log         string `json:"log"`
}

// live is the content of "current".
type live struct {
	V          int        `json:"v"`
	Set        string     `json:"set"`
	Digest     string     `json:"definition_digest"`
	Definition definition `json:"definition"`
	Instances  []instance `json:"instances"`
	Count      int        `json:"count,omitempty"` // so many are wanted; 0: what the definition says
	Side       string     `json:"side,omitempty"`
	Endpoints  []string   `json:"endpoints"` // host:port of each instance, for people and scripts
}

// setOf names the set that a step's do starts. Batches of one release are one set.
func setOf(call backstay.Call) string {
	if call.Step.Of != "" {
		return call.Deployment + "/" + call.Step.Of
	}
	return call.Deployment + "/" + call.Step.ID
}

// has reports whether an instance belongs to the current ones; nil has none.
func (l *live) has(id string) bool {
	return l != nil && slices.ContainsFunc(l.Instances, func(i instance) bool { return i.ID == id })
}

func (l *live) living() []instance {
	return slices.DeleteFunc(slices.Clone(l.Instances), func(i instance) bool { return !i.Alive() })
}

// fact is the state that is observed; zero for nil.
func (l *live) fact() fact {
	if l == nil {
		return fact{}
	}
	f := fact{Release: l.Definition.Release, Definition: l.Digest, Instances: l.Definition.Instances, Alive: len(l.living())}
	if l.Count > 0 {
		f.Instances = l.Count
	}
	return f
}

// without is the state before a batch was added: the same instances but for
// those of the batch's own step. Nil where it is something else.
func (l *live) without(call backstay.Call, want fact) *live {
	if l == nil || l.Digest != want.Definition {
		return nil
	}
	rest := slices.DeleteFunc(l.living(), func(i instance) bool { return i.Deployment == call.Deployment && i.Step == call.Step.ID })
	if len(rest) < want.Alive || want.Alive == 0 {
		return nil
	}
	fewer := *l
	fewer.Instances, fewer.Count = rest[:want.Alive], 0
	if want.Instances != l.Definition.Instances {
		fewer.Count = want.Instances
	}
	return &fewer
}

// highest is the greatest number of an instance; 0 of none.
func highest(all []instance) int {
	n := 0
	for _, i := range all {
		n = max(n, i.Index)
	}
	return n
}

// slots are the run-time facts of the current instances.
func (l *live) slots() map[string]string {
	slots := map[string]string{}
	if len(l.Endpoints) > 0 {
		slots["endpoint"] = l.Endpoints[0]
	}
	if l.Side != "" {
		slots["side"] = l.Side
	}
	for _, i := range l.Instances {
		n := strconv.Itoa(i.Index)
		slots["pid."+n] = strconv.Itoa(i.PID)
		if l.Definition.usesPort() {
			slots["port."+n] = strconv.Itoa(i.Port)
		}
	}
	return slots
}

// note says in one line what is current.
func (l *live) note() string {
	if len(l.Endpoints) > 0 {
		return l.Definition.Name + " answers on " + strings.Join(l.Endpoints, ", ")
	}
	return fmt.Sprintf("%s has %d instance(s)", l.Definition.Name, len(l.Instances))
}

// current reads which instances are live; nil where none ever were.
func (s store) current() (*live, error) {
	var l live
	if err := readJSON(filepath.Join(s.dir, "current"), &l); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil //nolint:nilnil // there is none, and that is a state
		}
		return nil, fmt.Errorf("read current instances of service %s: %w", s.name, err)
	}
	if l.V != recordFormat {
		return nil, fmt.Errorf("read current instances of service %s: format %d is newer than this backstay", s.name, l.V)
	}
	return &l, nil
}

// setCurrent is the moment at which a step takes effect.
func (s store) setCurrent(ctx context.Context, l *live) error {
	if ctx.Err() != nil {
		return fmt.Errorf("make instances of service %s current: %w", s.name, ending(ctx))
	}
	l.V, l.Side, l.Endpoints = recordFormat, s.side(), []string{}
	if l.Definition.usesPort() {
		for _, i := range l.Instances {
			l.Endpoints = append(l.Endpoints, address(i.Port))
		}
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return fmt.Errorf("make instances of service %s current: %w", s.name, err)
	}
	if err := s.write("current", backstay.Canonical(l)); err != nil {
		return fmt.Errorf("make instances of service %s current: %w", s.name, err)
	}
	return nil
}

func (s store) clearCurrent(ctx context.Context) error {
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return fmt.Errorf("make no instance of service %s current: %w", s.name, err)
	}
	if err := durable.RemoveAll(filepath.Join(s.dir, "current")); err != nil {
		return fmt.Errorf("make no instance of service %s current: %w", s.name, err)
	}
	return nil
}

// wanted is the name of the release that was last asked for, or "".
func (s store) wanted() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, "wanted"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

func (s store) setWanted(release string) error {
	if err := s.write("wanted", []byte(release)); err != nil {
		return fmt.Errorf("note wanted release of service %s: %w", s.name, err)
	}
	return nil
}

func (s store) write(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	if err := durable.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	return durable.WriteFile(path, bytes.NewReader(content), durable.Attr{Mode: 0o600}) //nolint:wrapcheck // says what it did
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err //nolint:wrapcheck // has the path
	}
	return json.Unmarshal(b, into) //nolint:wrapcheck // the caller says what it read
}

const recordSuffix = ".json"

func (s store) recordPath(id string) string { return filepath.Join("instances", id+recordSuffix) }

func (s store) record(i instance) error {
	i.V = recordFormat
	if err := s.write(s.recordPath(i.ID), backstay.Canonical(i)); err != nil {
		return fmt.Errorf("record instance of service %s: %w", s.name, err)
	}
	return nil
}

// instances are all recorded ones, by set and index.
func (s store) instances() ([]instance, error) {
	dir := filepath.Join(s.dir, "instances")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list instances of service %s: %w", s.name, err)
	}
	var all []instance
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || strings.HasPrefix(id, ".") {
			continue
		}
		var i instance
		if err := readJSON(filepath.Join(dir, e.Name()), &i); err != nil {
			return nil, fmt.Errorf("read record of instance %s of service %s: %w", id, s.name, err)
		}
		if i.V != recordFormat || i.ID != id {
			return nil, fmt.Errorf("read record of instance %s of service %s: it is not of this format or name", id, s.name)
		}
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b instance) int {
		if c := strings.Compare(a.Set, b.Set); c != 0 {
			return c
		}
		return a.Index - b.Index
	})
	return all, nil
}

// formerSet finds the instances of a definition that were not started by the
// set to be undone: those of the set with most living ones.
func (s store) formerSet(digest, undone string) ([]instance, error) {
	all, err := s.instances()
	if err != nil {
		return nil, err
	}
	sets := map[string][]instance{}
	best, most := "", 0
	for _, i := range all {
		if i.Digest != digest || i.Set == undone || !i.Alive() {
			continue
		}
		sets[i.Set] = append(sets[i.Set], i)
		if n := len(sets[i.Set]); n > most {
			best, most = i.Set, n
		}
	}
	return sets[best], nil
}

// stopOwn stops what this step of this deployment started and is not current.
func (s store) stopOwn(ctx context.Context, call backstay.Call, cur *live, drain time.Duration) error {
	return s.stop(ctx, call, drain, func(i instance) bool {
		return i.Deployment == call.Deployment && i.Step == call.Step.ID && !cur.has(i.ID)
	})
}

// stop ends the chosen instances together and then removes their records. A
// recorded instance that is dead loses its record and whatever it left running.
// What is ended is told in the call's output.
func (s store) stop(ctx context.Context, call backstay.Call, drain time.Duration, chosen func(instance) bool) error {
	all, err := s.instances()
	if err != nil {
		return err
	}
	victims := slices.DeleteFunc(all, func(i instance) bool { return !chosen(i) })
	was := make([]string, len(victims))
	for n, i := range victims {
		if was[n] = "ended"; !i.Alive() {
			was[n] = "cleaned up after the dead"
		}
	}
	// What is current by now, and what runs for it, may be another's.
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return fmt.Errorf("stop instances of service %s: %w", s.name, err)
	}
	if err := s.end(ctx, drain, victims); err != nil {
		return err
	}
	for n, i := range victims {
		if call.Output == nil {
			break
		}
		port := ""
		if i.Port != 0 {
			port = ", port " + strconv.Itoa(i.Port)
		}
		_, err := fmt.Fprintf(call.Output, "%s instance %d of %s (pid %d%s), started by step %s of deployment %s\n", was[n], i.Index, s.name, i.PID, port, i.Step, i.Deployment)
		if err != nil {
			return fmt.Errorf("tell what of service %s was ended: %w", s.name, err)
		}
	}
	return nil
}

func (s store) end(ctx context.Context, drain time.Duration, victims []instance) error {
	var group sync.WaitGroup
	errs := make([]error, len(victims))
	for n, i := range victims {
		group.Go(func() {
			if err := proc.Stop(ctx, i.Identity, i.ID, drain); err != nil {
				errs[n] = fmt.Errorf("stop instance %d of service %s: %w", i.Index, s.name, err)
				return
			}
			errs[n] = durable.RemoveAll(filepath.Join(s.dir, s.recordPath(i.ID)))
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// reap ends what earlier epochs of a step started, recorded or not, but for
// the current instances.
func (s store) reap(ctx context.Context, call backstay.Call, cur *live) error {
	var keep []string
	if cur != nil {
		for _, i := range cur.Instances {
			keep = append(keep, i.ID)
		}
	}
	older := proc.OlderActs(call.Deployment, call.Step.ID, call.Token)
	if err := proc.EndToken(ctx, older, keep...); err != nil {
		return fmt.Errorf("end leftovers of service %s: %w", s.name, err)
	}
	all, err := s.instances()
	if err != nil {
		return err
	}
	dead := slices.DeleteFunc(all, func(i instance) bool {
		return i.Deployment != call.Deployment || i.Step != call.Step.ID || cur.has(i.ID) || i.Alive()
	})
	return s.end(ctx, 0, dead)
}

// keepLogs is how many logs of former instances are kept.
const keepLogs = 20

// pruneLogs removes the oldest logs that no recorded instance writes to.
func (s store) pruneLogs(cur *live) error {
	all, err := s.instances()
	if err != nil {
		return err
	}
	if cur != nil {
		all = append(all, cur.Instances...)
	}
	entries, err := os.ReadDir(s.logDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list logs of service %s: %w", s.name, err)
	}
	var idle []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		written := slices.ContainsFunc(all, func(i instance) bool { return filepath.Base(i.Log) == e.Name() })
		if err == nil && info.Mode().IsRegular() && !written {
			idle = append(idle, info)
		}
	}
	slices.SortFunc(idle, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range idle[min(len(idle), keepLogs):] {
		if err := os.Remove(filepath.Join(s.logDir(), info.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old log of service %s: %w", s.name, err)
		}
	}
	return nil
}

func (s store) logDir() string { return filepath.Join(s.dir, "logs") }

// Package service is the step kind "service": processes of a release, started
// from an artifact that is pinned by digest.
//
// It owns the definition (how a service's instances are started: content-
// addressed, so that an undo can start old ones again), the release directory
// (an artifact unpacked once, read-only, named by its digest, shared by all who
// run it), the instance (one detached process with its port, log and record),
// and the file "current", which says which instances are live.
//
// A step starts the new instances beside the old ones, waits until all are
// ready and then replaces "current": one atomic rename is the whole change. The
// old instances keep running, on their own ports, until the deployment is
// proven, so an undo only puts "current" back (starting again what died
// meanwhile) and stops the new ones. The state that it promises to restore is
// release, definition and number of live instances; pids and ports are not
// part of it.
//
// It promises that no process is signalled by its pid alone (see proc.Identity)
// and that a step that fails or is cancelled leaves no instance behind.
//
// It is no supervisor: nobody starts an instance again that crashes, or after
// a reboot; a dead one is seen as drift. It moves no traffic: that is read from
// "current" (field endpoints) by who cares.
package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Driver is the kind. It has no state; methods are safe for concurrent use on
// different services (the engine locks them by key).
type Driver struct{}

var (
	_ driver.Kind      = (*Driver)(nil)
	_ driver.Reaper    = (*Driver)(nil)
	_ driver.Settler   = (*Driver)(nil)
	_ driver.Sectioner = (*Driver)(nil)
	_ driver.Sandboxer = (*Driver)(nil)
	_ driver.Furnisher = (*Driver)(nil)
)

// New returns the kind.
func New() *Driver { return &Driver{} }

// Name is "service".
func (*Driver) Name() string { return "service" }

// Config returns a step's keys.
func (*Driver) Config() any { return &stepConfig{} }

// Sections are the services.
func (*Driver) Sections() map[string]any { return map[string]any{section: &serviceConfig{}} }

const section = "services"

// stepConfig are the keys of a service step.
type stepConfig struct {
	Service string `yaml:"service" json:"service" required:"true" ref:"services" doc:"The service to start in this release: an entry of services. Its old instances keep running until the deployment is proven." example:"web"`

	Side      string `yaml:"side" json:"side,omitempty" enum:"next,live,blue,green" doc:"For a service behind a router: the side to start it on, blue or green; next is the one that is not in use, live the one that is. A side keeps its ports. See release, which writes such steps." example:"next"`
	Instances int    `yaml:"instances" json:"instances,omitempty" doc:"With side: have only so many instances for now; a later step adds the others. Default: all." example:"1"`
	Retire    bool   `yaml:"retire" json:"retire,omitempty" doc:"With side: take it out of use instead. Its instances run on until the deployment is proven, so that the way back is short." example:"true"`
}

// serviceConfig is one entry of the section services.
type serviceConfig struct {
	Artifact string   `yaml:"artifact" json:"artifact" required:"true" ref:"artifacts" doc:"What to run: an executable file, or an archive (.tar, .tar.gz, .tgz, .zip) that is unpacked." example:"web"`
	Command  []string `yaml:"command" json:"command" required:"true" doc:"The program and its arguments; no shell sees them. {artifact} is the executable (of an archive: the directory it is unpacked in), {release-dir} that directory, {port} a free port on 127.0.0.1, {instance} a number from 1." example:"[\"{artifact}\", --listen, \"127.0.0.1:{port}\"]"`

	Env map[string]string `yaml:"env" json:"env,omitempty" doc:"The variables of the processes; they get no others but PATH and some that begin with BACKSTAY_. The same placeholders as in command; a value may be a secret reference." example:"{LISTEN: \"127.0.0.1:{port}\"}"`

	Instances int                `yaml:"instances" json:"instances,omitempty" doc:"How many processes. Default: 1." example:"2"`
	Ready     *readyConfig       `yaml:"ready" json:"ready" required:"true" doc:"When an instance counts as ready: exactly one of http, tcp and run." example:"{http: /healthz, within: 20s}"`
	Drain     *backstay.Duration `yaml:"drain" json:"drain,omitempty" doc:"How long an instance may take to end after SIGTERM before it is killed. Default: 10s." example:"10s"`

	Dir  string `yaml:"dir" json:"dir,omitempty" doc:"The working directory, absolute or below the release directory. Default: the release directory." example:"/srv/shop"`
	User string `yaml:"user" json:"user,omitempty" doc:"The user to run as; needs root. Default: the one that runs backstay." example:"www-data"`
}

// readyConfig says how an instance is seen to be ready.
type readyConfig struct {
	HTTP   string            `yaml:"http" json:"http,omitempty" doc:"A path that must answer with a status from 200 to 299." example:"/healthz"`
	TCP    bool              `yaml:"tcp" json:"tcp,omitempty" doc:"The port must accept a connection." example:"true"`
	Run    []string          `yaml:"run" json:"run,omitempty" doc:"A program and its arguments, with the placeholders of command, that must exit with status 0." example:"[\"{artifact}\", ping, \"{port}\"]"`
	Within backstay.Duration `yaml:"within" json:"within,omitempty" doc:"How long an instance may take to become ready. Default: 20s." example:"20s"`
}

const (
	defaultReady   = backstay.Duration(20 * time.Second)
	defaultDrain   = backstay.Duration(10 * time.Second)
	unpackTime     = backstay.Duration(2 * time.Minute)
	maxInstances   = 100
	cleanupTimeout = 30 * time.Second // beyond the drain time, to end what a failed step started
)

// modulo is what an undo does not restore.
const modulo = "pids and ports, where an old instance had died"

// fact is the state of a service: the value of the key's only part.
type fact struct {
	Release    string `json:"release"`    // SHA-256 of the artifact
	Definition string `json:"definition"` // SHA-256 of the definition
	Instances  int    `json:"instances"`  // wanted
	Alive      int    `json:"alive"`
}

func keyOf(name string) backstay.Key { return backstay.Key("service:" + name) }

// Observe reads which release is current and how many of its instances live.
func (d *Driver) Observe(_ context.Context, call backstay.Call) (backstay.Image, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	key := b.key()
	cur, err := b.store(call.DataDir).current()
	switch {
	case err != nil:
		return backstay.Image{key: {Unreadable: err.Error()}}, nil
	case cur == nil:
		return backstay.Image{key: {}}, nil
	}
	if call.Blobs != nil {
		if _, err := cur.Definition.store(call.Blobs); err != nil {
			return nil, err
		}
	}
	return backstay.Image{key: backstay.PartValue(cur.fact())}, nil
}

// Do starts the new instances and makes them current.
func (d *Driver) Do(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	if ctx.Err() != nil {
		return backstay.Result{}, fmt.Errorf("start service %s: %w", b.name(), ending(ctx))
	}
	s := b.store(call.DataDir)
	if b.Retire {
		return d.retire(ctx, s)
	}
	cur, err := s.current()
	if err != nil {
		return backstay.Result{}, err
	}
	set := setOf(call)
	ours := cur != nil && cur.Set == set && cur.Digest == b.Digest
	if f := cur.fact(); ours && f.Instances == b.wanted() && f.Alive == f.Instances {
		return backstay.Result{Slots: cur.slots()}, nil // a former attempt got this far
	}
	if err := s.stopOwn(ctx, call, cur, b.Definition.drain()); err != nil {
		return backstay.Result{}, err
	}
	next := &live{Set: set, Definition: b.Definition, Digest: b.Digest, Count: b.Count}
	l := launcher{store: s, call: call, definition: b.Definition, digest: b.Digest, set: set}
	if ours { // a batch before this one
		next.Instances = cur.living()
		l.after = highest(next.Instances)
	}
	started, err := l.launch(ctx, b.wanted()-len(next.Instances))
	if err != nil {
		return backstay.Result{}, err
	}
	next.Instances = append(next.Instances, started...)
	if err := s.setCurrent(ctx, next); err != nil {
		return backstay.Result{}, errors.Join(err, l.abandon(ctx, started))
	}
	return backstay.Result{Slots: next.slots(), Note: next.note()}, s.stopOwn(ctx, call, next, b.Definition.drain())
}

// retire makes no instance of a side current. They run on until the deployment
// is proven: going back needs them warm.
func (d *Driver) retire(ctx context.Context, s store) (backstay.Result, error) {
	return backstay.Result{}, s.clearCurrent(ctx)
}

// Undo makes the instances of before current again and stops the new ones.
func (d *Driver) Undo(ctx context.Context, call backstay.Call) (backstay.Result, error) {
	b, err := decode(call.Step)
	if err != nil {
		return backstay.Result{}, err
	}
	if ctx.Err() != nil {
		return backstay.Result{}, fmt.Errorf("undo service %s: %w", b.name(), ending(ctx))
	}
	s, key := b.store(call.DataDir), b.key()
	var result backstay.Result
	if len(call.Restore[key]) > 0 {
		if result, err = d.restore(ctx, call, s, call.Before[key]); err != nil {
			return result, err
		}
	}
	cur, err := s.current()
	if err != nil {
		return result, err
	}
	return result, s.stopOwn(ctx, call, cur, b.Definition.drain())
}

// restore brings back the state of an image.
func (d *Driver) restore(ctx context.Context, call backstay.Call, s store, target backstay.ResourceState) (backstay.Result, error) {
	want, present, err := factOf(target)
	if err != nil {
		return backstay.Result{}, err
	}
	if !present {
		return backstay.Result{}, s.clearCurrent(ctx)
	}
	cur, err := s.current()
	if err != nil {
		return backstay.Result{}, err
	}
	set := setOf(call)
	if cur != nil && cur.Set != set && cur.fact() == want {
		return backstay.Result{}, nil
	}
	if fewer := cur.without(call, want); fewer != nil {
		return backstay.Result{Slots: fewer.slots(), Note: fewer.note()}, s.setCurrent(ctx, fewer)
	}
	definition, err := loadDefinition(call.Blobs, want.Definition)
	if err != nil {
		return backstay.Result{}, err
	}
	old, err := s.formerSet(want.Definition, set)
	if err != nil {
		return backstay.Result{}, err
	}
	next := &live{Set: set + "/undo", Definition: definition, Digest: want.Definition}
	if want.Instances != definition.Instances {
		next.Count = want.Instances
	}
	if len(old) > 0 {
		next.Set, next.Instances = old[0].Set, old
	}
	if missing := want.Alive - next.fact().Alive; missing > 0 {
		l := launcher{store: s, call: call, definition: definition, digest: want.Definition, set: next.Set}
		started, err := l.launch(ctx, missing)
		if err != nil {
			return backstay.Result{}, err
		}
		next.Instances = append(next.living(), started...)
	}
	if err := s.setCurrent(ctx, next); err != nil {
		return backstay.Result{}, err
	}
	return backstay.Result{Slots: next.slots(), Note: next.note()}, nil
}

// Settle stops the instances that were kept for an undo once the deployment is
// proven, or whatever a rolled back one left.
func (d *Driver) Settle(ctx context.Context, call backstay.Call) error {
	b, err := decode(call.Step)
	if err != nil {
		return err
	}
	s := b.store(call.DataDir)
	cur, err := s.current()
	if err != nil {
		return err
	}
	double := ""
	if !call.Proven && cur != nil && cur.Set == setOf(call) {
		if cur, err = s.yield(ctx, cur); err != nil {
			return err
		}
		double = cur.Digest
	}
	if err := s.stop(ctx, call, b.Definition.drain(), func(i instance) bool {
		return !cur.has(i.ID) && (call.Proven || i.Deployment == call.Deployment || i.Digest == double || !i.Alive())
	}); err != nil {
		return err
	}
	if !call.Proven {
		return nil
	}
	return errors.Join(s.pruneLogs(cur), releases{call.DataDir}.prune(ctx))
}

// yield makes the former instances current again where a rolled back
// deployment of the very same definition left its own: the state is equal, so
// nothing was undone, but the old instances have the ports that others know.
func (s store) yield(ctx context.Context, cur *live) (*live, error) {
	old, err := s.formerSet(cur.Digest, cur.Set)
	if err != nil || len(old) == 0 || len(old) < cur.fact().Alive {
		return cur, err
	}
	former := &live{Set: old[0].Set, Definition: cur.Definition, Digest: cur.Digest, Instances: old}
	return former, s.setCurrent(ctx, former)
}

// Reap ends the instances that an earlier epoch of this step started and did
// not make current.
func (d *Driver) Reap(ctx context.Context, call backstay.Call) error {
	b, err := decode(call.Step)
	if err != nil {
		return err
	}
	s := b.store(call.DataDir)
	cur, err := s.current()
	if err != nil {
		return err
	}
	return s.reap(ctx, call, cur)
}

// ending is why ctx ended: an error that is both ctx.Err() and the cause.
func ending(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// Sandbox allows every step: instances and their ports are the view's own.
func (*Driver) Sandbox(backstay.Step) error { return nil }

// Furnish starts the current instances again, where the host's are out of sight.
func (*Driver) Furnish(ctx context.Context, call backstay.Call) error {
	b, err := decode(call.Step)
	if err != nil {
		return err
	}
	s := b.store(call.DataDir)
	cur, err := s.current()
	if err != nil || cur == nil {
		return err
	}
	l := launcher{store: s, call: call, definition: cur.Definition, digest: cur.Digest, set: cur.Set}
	started, err := l.launch(ctx, len(cur.Instances)-cur.fact().Alive)
	if err != nil {
		return err
	}
	next := *cur
	next.Instances = append(cur.living(), started...)
	return s.setCurrent(ctx, &next)
}

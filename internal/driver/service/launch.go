package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/proc"
)

// launcher starts instances of one definition as one set.
type launcher struct {
	store      store
	call       backstay.Call
	definition definition
	digest     string
	set        string
	after      int // instances are numbered from here
}

// portTries is how often an instance is started on another port when its own
// was taken by somebody between the choice and the start.
const portTries = 3

// errPortTaken says that a start failed only because of its port.
var errPortTaken = errors.New("another process took the port")

// launch starts n instances and returns them when all are ready. On an error,
// and when ctx ends, none of them is left.
func (l launcher) launch(ctx context.Context, n int) ([]instance, error) {
	dir, err := releases{l.call.DataDir}.ensure(ctx, l.store, l.definition, l.call.Blobs)
	if err != nil {
		return nil, err
	}
	secrets, err := l.secrets()
	if err != nil {
		return nil, err
	}
	ports, err := l.store.ports(l.after, n)
	if err != nil {
		return nil, fmt.Errorf("start service %s: %w", l.store.name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		group   sync.WaitGroup
		mu      sync.Mutex
		first   error
		started = make([]instance, n)
	)
	for i := range n {
		group.Go(func() {
			inst, err := l.startOne(ctx, dir, secrets, l.after+i+1, ports[i])
			mu.Lock()
			defer mu.Unlock()
			started[i] = inst
			if err != nil && first == nil {
				first = err
				cancel() // the others are in vain
			}
		})
	}
	group.Wait()
	if first != nil {
		return nil, errors.Join(first, l.abandon(ctx, started))
	}
	return started, l.store.keepPorts(started)
}

// abandonDrain is the drain time of instances that never served anybody.
const abandonDrain = time.Second

// abandon ends instances that were started in vain, also when ctx has ended.
func (l launcher) abandon(ctx context.Context, started []instance) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	victims := started[:0:0]
	for _, i := range started {
		if i.ID != "" {
			victims = append(victims, i)
		}
	}
	return l.store.end(ctx, abandonDrain, victims)
}

// startOne starts one instance and waits until it is ready, on another port
// when the first was lost in a race. What it returns beside an error may live.
func (l launcher) startOne(ctx context.Context, dir string, secrets map[string]string, index, port int) (instance, error) {
	for try := 1; ; try++ {
		inst, err := l.startOn(ctx, dir, secrets, index, port)
		if !errors.Is(err, errPortTaken) || try == portTries {
			return inst, err
		}
		if err := l.abandon(ctx, []instance{inst}); err != nil {
			return inst, err
		}
		ports, err := freePorts(1)
		if err != nil {
			return instance{}, fmt.Errorf("start service %s: %w", l.definition.Name, err)
		}
		port = ports[0]
	}
}

func (l launcher) startOn(ctx context.Context, dir string, secrets map[string]string, index, port int) (instance, error) {
	expand := l.definition.expander(dir, port, index)
	id := strings.ToLower(rand.Text())
	c, err := l.command(dir, secrets, expand)
	if err != nil {
		return instance{}, err
	}
	c.Run = id
	log, err := l.openLog(id)
	if err != nil {
		return instance{}, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	if ctx.Err() != nil {
		return instance{}, fmt.Errorf("start service %s: %w", l.definition.Name, ending(ctx))
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return instance{}, fmt.Errorf("start service %s: %w", l.definition.Name, err)
	}
	p, err := proc.StartDetached(c, log)
	if err != nil {
		return instance{}, l.startError(err)
	}
	inst := instance{
		ID: id, Set: l.set, Index: index, Identity: p.Identity, Port: port,
		ReleaseName: releaseName(l.definition), Digest: l.digest,
		Deployment: l.call.Deployment, Step: l.call.Step.ID, Log: log.Name(),
	}
	// A crash before this line leaves a process that only its token tells of.
	if err := l.store.record(inst); err != nil {
		return inst, err
	}
	return inst, l.awaitReady(ctx, p, inst, expand, c)
}

// command is what an instance runs.
func (l launcher) command(dir string, secrets map[string]string, expand *strings.Replacer) (proc.Command, error) {
	c := proc.Command{
		Env: map[string]string{}, Dir: dir,
		Info: map[string]string{
			proc.EnvPrefix + "DEPLOYMENT": l.call.Deployment,
			proc.EnvPrefix + "RELEASE":    l.call.Release,
			proc.EnvPrefix + "SERVICE":    l.definition.Name,
			proc.EnvPrefix + "SIDE":       l.store.side(),
		},
		Token: proc.Token{Deployment: l.call.Deployment, Step: l.call.Step.ID, Fence: l.call.Token},
	}
	for _, a := range l.definition.Command {
		c.Argv = append(c.Argv, expand.Replace(a))
	}
	for name, value := range l.definition.Env {
		if secret, ok := secrets[name]; ok {
			c.Env[name] = secret
		} else {
			c.Env[name] = expand.Replace(value)
		}
	}
	switch d := l.definition.Dir; {
	case filepath.IsAbs(d):
		c.Dir = d
	case d != "":
		c.Dir = filepath.Join(dir, d)
	}
	if l.definition.User == "" {
		return c, nil
	}
	var err error
	c.Credential, err = credential(l.definition.User, c.Env)
	return c, err
}

// secrets resolves the variables that are references.
func (l launcher) secrets() (map[string]string, error) {
	values := map[string]string{}
	for name, value := range l.definition.Env {
		if !strings.HasPrefix(value, secretPrefix) {
			continue
		}
		if l.call.Secrets == nil {
			return nil, fmt.Errorf("resolve env %s of service %s: no secrets are available here", name, l.definition.Name)
		}
		resolved, err := l.call.Secrets.Resolve(value)
		if err != nil {
			return nil, fmt.Errorf("resolve env %s of service %s: %w", name, l.definition.Name, err)
		}
		values[name] = resolved
	}
	return values, nil
}

// credential looks a user up, and gives the variables that programs expect of it.
func credential(name string, env map[string]string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up groups of user %s: %w", name, err)
	}
	cred := &syscall.Credential{}
	if cred.Uid, err = parseID(u.Uid); err != nil {
		return nil, err
	}
	if cred.Gid, err = parseID(u.Gid); err != nil {
		return nil, err
	}
	for _, g := range groups {
		id, err := parseID(g)
		if err != nil {
			return nil, err
		}
		cred.Groups = append(cred.Groups, id)
	}
	for variable, value := range map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username} {
		if _, declared := env[variable]; !declared {
			env[variable] = value
		}
	}
	return cred, nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("parse user or group number: %w", err)
	}
	return uint32(n), nil
}

func (l launcher) openLog(id string) (*os.File, error) {
	if err := durable.MkdirAll(l.store.logDir(), 0o750); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	f, err := os.OpenFile(filepath.Join(l.store.logDir(), id+".log"), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log of service %s: %w", l.definition.Name, err)
	}
	return f, nil
}

func (l launcher) startError(err error) error {
	e := &backstay.Error{Class: backstay.Permanent, Op: "start service", Subject: l.definition.Name, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Class, e.Hint = backstay.NotFound, "check the program's path and, for a script, its first line (#!)"
	case errors.Is(err, fs.ErrPermission) && l.definition.User != "":
		e.Hint = "user " + l.definition.User + " must be able to search " + l.call.DataDir
	case errors.Is(err, syscall.ENOEXEC):
		e.Hint = "the artifact is not a program for this machine"
	}
	return e
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts chooses distinct free ports on the loopback address. Somebody can
// take one before it is used.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp4", address(0))
		if err != nil {
			return nil, fmt.Errorf("choose a port: %w", err)
		}
		defer func() { _ = l.Close() }() // all stay open until all are chosen
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("choose a port: got %s", l.Addr())
		}
		ports = append(ports, addr.Port)
	}
	return ports, nil
}

// portTaken reports whether somebody listens on a port.
func portTaken(port int) bool {
	l, err := net.Listen("tcp4", address(port))
	if err == nil {
		_ = l.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}

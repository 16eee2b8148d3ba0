package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

const secretPrefix = "secret:"

// preparer collects everything that is wrong with one declaration. The step
// itself says nothing but the service's name, so all paths are below service.
type preparer struct {
	req      backstay.Request
	problems []backstay.Problem
	secrets  []string
}

func (p *preparer) refuse(path, message, hint string) {
	p.problems = append(p.problems, backstay.Problem{Path: path, Message: message, Hint: hint})
}

// Prepare freezes a service step: definition and artifact become content.
func (d *Driver) Prepare(ctx context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c stepConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode service step: %w", err)
	}
	p := &preparer{req: req}
	def := definition{V: definitionFormat, Name: c.Service}
	sc, ok, err := p.service(c.Service)
	if err != nil {
		return backstay.Prepared{}, err
	}
	if ok {
		p.define(&def, sc)
		if err := p.artifact(ctx, &def, sc.Artifact); err != nil {
			return backstay.Prepared{}, err
		}
	}
	b := body{V: bodyFormat, Definition: def}
	if len(p.problems) == 0 {
		if b.Digest, err = def.store(req.Blobs); err == nil {
			err = p.sided(c, &b)
		}
		if err != nil {
			return backstay.Prepared{}, err
		}
	}
	if len(p.problems) > 0 {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: p.problems}
	}
	return p.frozen(b)
}

// frozen is the step of a body that was checked.
func (p *preparer) frozen(b body) (backstay.Prepared, error) {
	def, key, name := b.Definition, b.key(), b.name()
	timeout := p.req.Timeout
	if timeout <= 0 {
		timeout = unpackTime + def.Ready.Within + def.Drain
	}
	undo := p.req.UndoTimeout
	if undo <= 0 {
		undo = unpackTime + def.Ready.Within + 2*def.Drain
	}
	out := backstay.Prepared{
		Kind: "service", Body: backstay.Canonical(b),
		Keys: []backstay.Key{key}, Class: backstay.Equivalent, Modulo: []string{modulo},
		Effect: backstay.Idempotent, Fence: backstay.Leased, Window: timeout,
		Restorable: true, HasUndo: true, Timeout: timeout, UndoTimeout: undo,
		Want: backstay.Image{key: backstay.PartValue(fact{
			Release: def.Release, Definition: b.Digest, Instances: b.wanted(), Alive: b.wanted(),
		})},
		Summary:     fmt.Sprintf("start %d instance(s) of service %s from %s (%.12s)", b.wanted(), name, def.File, def.Release),
		UndoSummary: "make the former instances of " + name + " current again and stop the new ones",
		ReadSummary: "look which release of " + name + " is current and how many of its instances live",
		Blobs:       []string{def.Release, b.Digest}, Secrets: p.secrets,
		Warnings: []string{"nobody starts an instance of " + name + " again when it crashes, or after a reboot; `backstay drift` reports a dead one"},
	}
	if b.Side != "" && !b.Retire {
		out.UndoSummary = "stop the new instances of " + name
	}
	if !b.Retire {
		return out, nil
	}
	out.Want = backstay.Image{key: {}}
	out.Summary = fmt.Sprintf("take %s (%.12s) out of use; its %d instance(s) run on until the deployment is proven", name, def.Release, def.Instances)
	out.UndoSummary = "take the instances of " + name + " back into use, starting those that ended"
	out.Warnings = nil
	// What an undo starts them from was stored when they were deployed.
	had, err := p.req.Blobs.Has(def.Release)
	if err == nil && !had {
		out.Blobs = []string{b.Digest}
	}
	return out, err
}

// service finds the section's entry.
func (p *preparer) service(name string) (c serviceConfig, ok bool, err error) {
	if !validName(name) {
		p.refuse("service", fmt.Sprintf("%q is not a name for a service", name), "lower-case letters, digits and '-', 63 at most, no '-' first")
		return c, false, nil
	}
	var all map[string]serviceConfig
	if raw := p.req.Sections[section]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			return c, false, fmt.Errorf("decode services: %w", err)
		}
	}
	c, ok = all[name]
	if !ok {
		p.refuse("service", fmt.Sprintf("there is no service %q", name), "add it to the section services:")
	}
	return c, ok, nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// define checks an entry and freezes it.
func (p *preparer) define(def *definition, c serviceConfig) {
	def.Command, def.Env, def.User = c.Command, c.Env, c.User
	def.Instances, def.Drain = c.Instances, defaultDrain
	if c.Instances == 0 {
		def.Instances = 1
	}
	if c.Instances < 0 || c.Instances > maxInstances {
		p.refuse("service.instances", fmt.Sprintf("%d is not from 1 to %d", c.Instances, maxInstances), "")
	}
	if c.Drain != nil {
		def.Drain = *c.Drain
	}
	if len(c.Command) == 0 || c.Command[0] == "" {
		p.refuse("service.command", "is empty", `such as ["{artifact}", --listen, "127.0.0.1:{port}"]`)
	}
	p.placeholders("service.command", c.Command)
	problems, references := driver.CheckEnv("service.env", c.Env, p.req.Secrets)
	p.problems = append(p.problems, problems...)
	p.secrets = append(p.secrets, references...)
	p.directory(def, c.Dir)
	p.account(c.User)
	p.readiness(def, c.Ready)
	if def.Instances > 1 && !def.uses("{port}") && !def.uses("{instance}") {
		p.refuse("service.command", "all instances would be started the same way", "tell them apart by {port} or {instance} in command or env")
	}
}

func (p *preparer) placeholders(at string, texts []string) {
	for i, text := range texts {
		if word, found := unknownPlaceholder(text); found {
			p.refuse(fmt.Sprintf("%s[%d]", at, i), "unknown placeholder "+word, "known: {artifact}, {release-dir}, {port}, {instance}")
		}
		if strings.ContainsRune(text, 0) {
			p.refuse(fmt.Sprintf("%s[%d]", at, i), "holds a NUL byte", "")
		}
	}
}

func (p *preparer) directory(def *definition, dir string) {
	switch {
	case dir == "":
	case filepath.IsAbs(dir):
		def.Dir = filepath.Clean(dir)
	case filepath.IsLocal(dir):
		def.Dir = filepath.Clean(dir)
	default:
		p.refuse("service.dir", fmt.Sprintf("%q leads out of the release directory", dir), "give an absolute path, or one below the release directory")
	}
}

func (p *preparer) account(name string) {
	if name == "" {
		return
	}
	if _, err := user.Lookup(name); err != nil {
		p.refuse("service.user", err.Error(), "create the user first")
	} else if os.Geteuid() != 0 {
		p.refuse("service.user", "only root can run a service as another user", "drop user, or run backstay as root")
	}
}

func (p *preparer) readiness(def *definition, c *readyConfig) {
	if c == nil {
		c = &readyConfig{}
	}
	def.Ready = ready{HTTP: c.HTTP, TCP: c.TCP, Run: c.Run, Within: c.Within}
	if def.Ready.Within <= 0 {
		def.Ready.Within = defaultReady
	}
	ways := 0
	for _, given := range []bool{c.HTTP != "", c.TCP, len(c.Run) > 0} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		p.refuse("service.ready", "needs exactly one of http, tcp and run", "such as {http: /healthz, within: 20s}")
		return
	}
	if c.HTTP != "" && (!strings.HasPrefix(c.HTTP, "/") || strings.ContainsAny(c.HTTP, "\r\n\x00 #")) {
		p.refuse("service.ready.http", fmt.Sprintf("%q is not a path", c.HTTP), "such as /healthz; it is asked for on the instance's own port")
	}
	if len(c.Run) == 0 && !def.usesPort() {
		p.refuse("service.command", "nothing tells the instance its port", "put {port} into command or env, or use ready: {run: […]}")
	}
	p.placeholders("service.ready.run", c.Run)
}

// artifact checks the artifact and stores it.
func (p *preparer) artifact(ctx context.Context, def *definition, name string) (err error) {
	a, ok := p.req.Artifacts[name]
	if !ok {
		p.refuse("service.artifact", fmt.Sprintf("there is no artifact %q", name), "add it to the section artifacts:")
		return nil
	}
	def.Release, def.File, def.Format = a.SHA256, filepath.Base(a.File), formatOf(a.File)
	f, err := os.Open(a.File)
	if err != nil {
		p.refuse("service.artifact", "cannot be read: "+err.Error(), "build it first")
		return nil
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		p.refuse("service.artifact", a.File+" is not a regular file", "")
		return nil
	}
	digest, size, err := p.req.Blobs.Put(f)
	if err != nil {
		return fmt.Errorf("store artifact %s: %w", name, err)
	}
	if digest != a.SHA256 {
		p.refuse("service.artifact", fmt.Sprintf("%s has the digest %.12s…, not %.12s…", a.File, digest, a.SHA256), "it changed while the plan was made: plan again")
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read artifact %s: %w", name, err)
	}
	if err := inspect(ctx, def.Format, f, size, standardLimits()); err != nil {
		if ctx.Err() != nil {
			return ending(ctx)
		}
		p.refuse("service.artifact", err.Error(), backstay.HintOf(err))
	}
	return nil
}

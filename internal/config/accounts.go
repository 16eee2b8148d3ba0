package config

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay-dev/backstay"
)

// Accounts answers who a uid is, from the host's account files.
//
// It reads them itself: os/user answers for the process's own uid with $USER
// where the files do not know it, and the environment must not choose a name.
// Accounts that are only in a directory service (LDAP, SSSD) are not seen:
// such a user has a uid and no name here.
type Accounts struct {
	passwd, group string
	uid           int
	host          string
}

// account is one line of the passwd file.
type account struct {
	name string
	uid  int
	gid  string
}

// ThisAccounts reads the account files of this host. The host's name is part
// of every actor; where it cannot be read that is an error.
func ThisAccounts() (*Accounts, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	return &Accounts{passwd: "/etc/passwd", group: "/etc/group", uid: os.Getuid(), host: host}, nil
}

// Actor is who runs this process, as the kernel tells it; via is the verb, for
// people. Under sudo it is root.
func (a *Accounts) Actor(via string) backstay.Actor {
	return a.ActorOf(a.uid, via)
}

// ActorOf is the user of this host with the given uid: who asked through a
// socket, as the kernel tells it.
func (a *Accounts) ActorOf(uid int, via string) backstay.Actor {
	actor := backstay.Actor{UID: uid, Host: a.host, Via: via}
	if acc, ok := a.find(func(acc account) bool { return acc.uid == uid }); ok {
		actor.Name = acc.name
	}
	return actor
}

// MemberOf reports whether the actor is named by word: a group that the uid is
// in (primary or supplementary, by the account files), or "user:NAME". The
// files of this host decide; an actor of another host whose recorded name is
// not the name that its uid has here is nobody. What cannot be read is no.
func (a *Accounts) MemberOf(actor backstay.Actor, word string) bool {
	acc, ok := a.find(func(acc account) bool { return acc.uid == actor.UID })
	if !ok || acc.name == "" || (actor.Name != "" && actor.Name != acc.name) {
		return false
	}
	if name, isUser := strings.CutPrefix(word, "user:"); isUser {
		return name == acc.name
	}
	in := false
	err := eachLine(a.group, func(fields []string) bool {
		if len(fields) < 4 || fields[0] != word || word == "" {
			return true
		}
		in = fields[2] == acc.gid || slices.Contains(strings.Split(fields[3], ","), acc.name)
		return !in
	})
	return err == nil && in
}

func (a *Accounts) find(match func(account) bool) (account, bool) {
	var found account
	ok := false
	err := eachLine(a.passwd, func(fields []string) bool {
		if len(fields) < 4 || fields[0] == "" {
			return true
		}
		uid, err := strconv.Atoi(fields[2])
		if err != nil {
			return true
		}
		acc := account{name: fields[0], uid: uid, gid: fields[3]}
		if match(acc) {
			found, ok = acc, true
		}
		return !ok
	})
	return found, ok && err == nil
}

// eachLine calls do with the fields of each line of an account file until do
// says stop. Comments and NIS lines are passed over.
func eachLine(path string, do func(fields []string) bool) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read accounts: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // a group may have very many members
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.ContainsAny(line[:1], "#+-") {
			continue
		}
		if !do(strings.Split(line, ":")) {
			return nil
		}
	}
	return lines.Err()
}

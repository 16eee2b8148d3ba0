package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
)

func accounts(t *testing.T, uid int) *Accounts {
	t.Helper()
	dir := t.TempDir()
	a := &Accounts{passwd: filepath.Join(dir, "passwd"), group: filepath.Join(dir, "group"), uid: uid, host: "web1"}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(a.passwd, "# accounts\nroot:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\nbob:x:1001:100::/home/bob:/bin/sh\n:x:1003:1::/:/\nbroken\nodd:x:none:1::/:/\n+@nis\n")
	write(a.group, "root:x:0:\nann:x:1000:\nusers:x:100:ann\nsre:x:50:carol,ann\nops:x:51:annabel,\nshort:x\n")
	return a
}

//nolint:paralleltest // the environment, which must not choose a name, is set for the process
func TestActor(t *testing.T) {
	t.Setenv("USER", "root")
	t.Setenv("LOGNAME", "root")
	t.Setenv("SUDO_USER", "root")
	tests := []struct {
		name string
		uid  int
		want backstay.Actor
	}{
		{"known", 1000, backstay.Actor{UID: 1000, Name: "ann", Host: "web1", Via: "deploy"}},
		{"unknown uid has no name", 4242, backstay.Actor{UID: 4242, Host: "web1", Via: "deploy"}},
		{"entry without a name", 1003, backstay.Actor{UID: 1003, Host: "web1", Via: "deploy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(accounts(t, tt.uid).Actor("deploy"), tt.want); diff != "" {
				t.Errorf("actor (-got +want):\n%s", diff)
			}
		})
	}
}

func TestActorOfThisProcess(t *testing.T) {
	t.Parallel()
	a, err := ThisAccounts()
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Actor("test"); got.UID != os.Getuid() || got.Host == "" || got.Via != "test" {
		t.Errorf("got %+v, want uid %d on a named host", got, os.Getuid())
	}
}

func TestMemberOf(t *testing.T) {
	t.Parallel()
	ann := backstay.Actor{UID: 1000, Name: "ann"}
	tests := []struct {
		name  string
		actor backstay.Actor
		word  string
		want  bool
	}{
		{"primary group", ann, "ann", true},
		{"primary group without being listed", backstay.Actor{UID: 1001, Name: "bob"}, "users", true},
		{"supplementary group", ann, "sre", true},
		{"another's name begins like hers", ann, "ops", false},
		{"group she is not in", ann, "root", false},
		{"no such group", ann, "nobody", false},
		{"no word", ann, "", false},
		{"malformed group line", ann, "short", false},
		{"user word", ann, "user:ann", true},
		{"user word of another", ann, "user:bob", false},
		{"user word without a name", ann, "user:", false},
		{"a user's name is not a group", backstay.Actor{UID: 1001, Name: "bob"}, "bob", false},
		{"recorded name of another host", backstay.Actor{UID: 1000, Name: "mallory", Host: "web2"}, "sre", false},
		{"recorded without a name", backstay.Actor{UID: 1000}, "sre", true},
		{"unknown uid", backstay.Actor{UID: 4242, Name: "ann"}, "user:ann", false},
		{"entry without a name", backstay.Actor{UID: 1003}, "user:", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := accounts(t, 0).MemberOf(tt.actor, tt.word); got != tt.want {
				t.Errorf("MemberOf(%v, %q): got %v, want %v", tt.actor, tt.word, got, tt.want)
			}
		})
	}
	t.Run("files that cannot be read", func(t *testing.T) {
		t.Parallel()
		a := accounts(t, 0)
		if err := os.Remove(a.group); err != nil {
			t.Fatal(err)
		}
		if a.MemberOf(ann, "sre") {
			t.Error("got a member of a group that cannot be read")
		}
	})
}

func TestActorOfAnotherUser(t *testing.T) {
	t.Parallel()
	want := backstay.Actor{UID: 1001, Name: "bob", Host: "web1", Via: "approve"}
	if diff := cmp.Diff(accounts(t, 1000).ActorOf(1001, "approve"), want); diff != "" {
		t.Errorf("actor (-got +want):\n%s", diff)
	}
}

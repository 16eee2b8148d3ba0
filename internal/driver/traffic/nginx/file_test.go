package nginx

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const shopFile = `# The shop.
upstream shop {
    server 127.0.0.1:9001 max_fails=0; # side blue
	server 127.0.0.1:9003 weight=3;# side blue

    least_conn;
    server 127.0.0.1:9002 down; # side green
    keepalive 32;
}
server {
    listen 127.0.0.1:9180;
    location / { return 200 "backstay 0"; }
}
`

func TestParse(t *testing.T) {
	t.Parallel()
	f, err := parse(shopFile, "shop")
	if err != nil {
		t.Fatal(err)
	}
	want := []server{{"127.0.0.1:9001", "blue", 1, "max_fails=0"}, {"127.0.0.1:9003", "blue", 3, ""}, {"127.0.0.1:9002", "green", 0, ""}}
	if diff := cmp.Diff(want, f.servers, cmp.AllowUnexported(server{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"blue": 100}, f.weights()); diff != "" {
		t.Errorf("weights (-want +got):\n%s", diff)
	}
	text := f.weighed(map[string]int{"blue": 75, "green": 25}).text()
	for _, line := range []string{
		"server 127.0.0.1:9001 weight=38 max_fails=0; # side blue\n", "server 127.0.0.1:9003 weight=37; # side blue\n",
		"server 127.0.0.1:9002 weight=25; # side green\n", "    least_conn;\n", "    keepalive 32;\n", "# The shop.\n",
	} {
		if strings.Count(text, line) != 1 {
			t.Errorf("want once %q in\n%s", line, text)
		}
	}
	again, err := parse(text, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if again.text() != text || again.mark == f.mark || again.mark == "0" {
		t.Errorf("it does not read back as itself, or has the mark %s:\n%s", again.mark, text)
	}
	if one := again.weighed(map[string]int{"green": 1, "blue": 99}).of("green"); one[0].weight != 1 {
		t.Errorf("1 %% is %+v", one)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	swap := func(from, to string) string { return strings.Replace(shopFile, from, to, 1) }
	for name, tt := range map[string]struct{ text, want string }{
		"no upstream":      {swap("upstream shop", "upstream other"), "exactly one line `upstream shop {`, found 0"},
		"two":              {shopFile + shopFile, "found 2"},
		"no mark":          {swap("backstay 0", "something"), "found 0"},
		"two marks":        {shopFile + `location { return 200 "backstay 1"; }`, "found 2"},
		"no side":          {swap(" # side green", ""), "say its side"},
		"side with escape": {swap("side green", "side gr\x1b[2Jeen"), "say its side"},
		"backup":           {swap(" down;", " backup;"), "backup"},
		"weight":           {swap("weight=3", "weight=0"), "weight 0"},
		"huge weight":      {swap("weight=3", "weight=99999999999999999999"), "weight 9"},
		"two on one line":  {swap("least_conn;", "server 1.1.1.1:1; server 2.2.2.2:2; # side blue"), "one server a line"},
		"a block":          {swap("least_conn;", "if ($x) { }"), "a block"},
		"no end":           {"upstream shop {\nserver 1.1.1.1:1; # side a\n#return 200 \"backstay 0\"", "does not end"},
		"twice":            {swap("127.0.0.1:9003", "127.0.0.1:9001"), "twice in side blue"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parse(tt.text, "shop"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// Nothing that comes from an image or a spec can become a directive.
func TestPutRefuses(t *testing.T) {
	t.Parallel()
	f, err := parse(shopFile, "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{
		`[{"address": "127.0.0.1:1; include /etc/passwd"}]`, `[{"address": "127.0.0.1:1", "with": "down; } server { listen 1; }"}]`,
		`[{"address": "127.0.0.1:1", "with": "a\nb"}]`, `[{"address": "169.254.169.254:80"}]`, `[{"address": "unix:/x"}]`, `{}`, `[{"address": "localhost:1"}]`,
	} {
		if got, err := f.put("green", []byte(account)); err == nil {
			t.Errorf("%s became\n%s", account, got.body())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(shopFile)
	f.Add("upstream shop {\n}\nreturn 200 \"backstay 0\"")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text, "shop")
		if err != nil {
			return
		}
		once := got.weighed(got.weights()).text()
		again, err := parse(once, "shop")
		if err != nil {
			t.Fatalf("what was written is not read: %v\n%s", err, once)
		}
		if twice := again.weighed(again.weights()).text(); twice != once {
			t.Errorf("it is not the same twice:\n%s\n%s", once, twice)
		}
	})
}

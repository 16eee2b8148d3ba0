package alert

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A request as Alertmanager writes it: two alerts about one deployment, one
// that is over, one about nothing.
func TestAlertmanager(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile(filepath.Join("testdata", "alertmanager.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAlertmanager(body)
	if err != nil {
		t.Fatal(err)
	}
	var short []string
	for _, r := range got {
		short = append(short, fmt.Sprintf("%s|%s|%s|%d|%s", r.Deployment, r.Release, r.status(), len(r.Alarm.Alerts), r.Reason))
	}
	want := []string{
		"shop#4||firing|2|alertmanager: HighErrorRate fires since 2026-11-26T12:00:01Z, and 1 more: 5 % of requests fail",
		"|shop|resolved|1|alertmanager: Latency is resolved",
		"||firing|1|alertmanager: DiskFull fires since 2026-11-26T11:00:00Z",
	}
	if diff := cmp.Diff(want, short); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
	first := got[0].Alarm.Alerts[0]
	if first.Link != "http://prometheus:9090/graph?g0.expr=rate%28errors%5B1m%5D%29+%3E+0.01&g0.tab=1" || first.Labels["severity"] != "page" || len(first.Digest) != 64 {
		t.Errorf("alert %+v", first)
	}
	again, _ := readAlertmanager([]byte(strings.Replace(string(body), `"receiver"`, `"new_in_later_versions":{"a":[1]},"receiver"`, 1)))
	if again[0].ID != got[0].ID || again[0].ID == again[1].ID {
		t.Errorf("IDs %s, %s and %s", got[0].ID, again[0].ID, again[1].ID)
	}
}

func TestBadAlertmanager(t *testing.T) {
	t.Parallel()
	alerts := func(a string) string { return `{"version":"4","alerts":[` + a + `]}` }
	for name, tt := range map[string]struct{ body, want string }{
		"not JSON":        {"{", "not JSON"},
		"a list":          {"[]", "cannot unmarshal"},
		"another version": {`{"version":"5","alerts":[]}`, `version is "5"`},
		"no alerts":       {alerts(""), "no alerts"},
		"a status":        {alerts(`{"status":"suppressed"}`), `"suppressed", not firing`},
		"key twice":       {alerts(`{"status":"firing","status":"resolved"}`), `"status" stands there twice`},
		"label twice":     {alerts(`{"status":"firing","labels":{"a":"1","a":"2"}}`), `"a" stands there twice`},
		"two documents":   {alerts(`{"status":"firing"}`) + "{}", "something follows"},
		"a label's type":  {alerts(`{"status":"firing","labels":{"a":1}}`), "alert 0 is none"},
		"too deep":        {strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "deeper than 8"},
		"not UTF-8":       {alerts("{\"status\":\"firing\xff\"}"), "UTF-8"},
		"too many":        {alerts(strings.TrimSuffix(strings.Repeat(`{"status":"firing"},`, 1001), ",")), "1001 alerts"},
	} {
		if _, err := readAlertmanager([]byte(tt.body)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	got, err := readMessage([]byte(`{"format":"backstay.alert/v1","release":"shop","status":"firing","name":"Errors\u001b[31m\u202e","source":"grafana",
		"since":"2026-11-26T12:00:00Z","link":"https://user:pass@grafana/d?token=geheim","labels":{"a":"1"},"summary":"line one\nforged line"}`))
	if err != nil {
		t.Fatal(err)
	}
	r := got[0]
	if r.Reason != "grafana: Errors[31m fires since 2026-11-26T12:00:00Z: line one forged line" || r.Release != "shop" || r.Alarm.Alerts[0].Link != "https://grafana/d" {
		t.Errorf("got %+v", r)
	}
	base := `{"format":"backstay.alert/v1","deployment":"shop#1","status":"firing","name":"x"`
	for name, tt := range map[string]struct{ body, want string }{
		"not known":       {base + `,"depoyment":"y"}`, `"depoyment" is not known`},
		"another case":    {base + `,"Deployment":"shop#2"}`, `"Deployment" is not known`},
		"twice":           {base + `,"deployment":"shop#2"}`, "twice"},
		"both":            {base + `,"release":"shop"}`, "exactly one of"},
		"none":            {`{"format":"backstay.alert/v1","status":"firing","name":"x"}`, "exactly one of"},
		"release, ever":   {`{"format":"backstay.alert/v1","release":"shop","status":"firing","name":"x"}`, "since when"},
		"no word":         {`{"format":"backstay.alert/v1","deployment":"shop#1","status":"firing"}`, "neither a name nor a summary"},
		"another format":  {strings.Replace(base, "v1", "v2", 1) + "}", "backstay.alert/v2"},
		"another status":  {strings.Replace(base, "firing", "ok", 1) + "}", "not firing"},
		"a name's number": {strings.Replace(base, `"x"`, "1", 1) + "}", "it is no alert"},
	} {
		if _, err := readMessage([]byte(tt.body)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

// What is kept is bounded, however much comes.
func TestBounds(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf(`"l%03d":%q`, i, strings.Repeat("ü", 300)))
	}
	var alerts []string
	for i := range 20 {
		alerts = append(alerts, fmt.Sprintf(`{"status":"firing","startsAt":"2026-11-26T12:00:%02dZ","fingerprint":"%d","labels":{"alertname":"A%d","backstay_deployment":"shop#1",%s},
			"annotations":{"summary":%q},"generatorURL":"http://x/%s"}`, 19-i, i, i, strings.Join(many, ","), strings.Repeat("x", 2000), strings.Repeat("y", 2000)))
	}
	got, err := readAlertmanager([]byte(`{"version":"4","alerts":[` + strings.Join(alerts, ",") + `]}`))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %d reports, %v", len(got), err)
	}
	r := got[0]
	first := r.Alarm.Alerts[0]
	if len(r.Alarm.Alerts) != maxAlerts || r.Alarm.More != 12 || len(first.Labels) != maxLabels || len([]rune(first.Summary)) != maxSummary || len([]rune(first.Link)) > maxLink {
		t.Errorf("kept %d alerts and %d more, %d labels, %d of the summary, %d of the link", len(r.Alarm.Alerts), r.Alarm.More, len(first.Labels), len(first.Summary), len(first.Link))
	}
	if want := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC); !r.Since.Equal(want) || first.Since != want {
		t.Errorf("since %s", r.Since)
	}
}

func FuzzRead(f *testing.F) {
	body, err := os.ReadFile(filepath.Join("testdata", "alertmanager.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(fires))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, read := range []func([]byte) ([]Report, error){readAlertmanager, readMessage} {
			all, err := read(body)
			if err != nil {
				continue
			}
			for _, r := range all {
				if r.ID == "" || len(r.Alarm.Alerts) == 0 || len(r.Alarm.Alerts) > maxAlerts || strings.ContainsAny(r.Reason, "\n\r\x1b") {
					t.Errorf("report %+v", r)
				}
			}
		}
	})
}
